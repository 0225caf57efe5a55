"""The studies by name. Plain data: listing them imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from raypo.errors import ConfigError

OWN = "raypo's own question"
"""In place of a paper, where a claim has none."""


@dataclass(frozen=True)
class Entry:
    """One study.

    Args:
        claim: what is tested, as a sentence that can be false.
        paper: arXiv ids of its sources, or OWN.
        measured: what is measured, and in which unit, in a line.
        takes: options `KEY=VALUE` and what they mean.
    """

    claim: str
    paper: str
    measured: str
    takes: Mapping[str, str] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """Where the claim comes from, in words."""
        return self.paper if self.paper == OWN else f"arXiv {self.paper}"


CATALOGUE: dict[str, Entry] = {
    "bandit": Entry(
        "Where preferences are dispersed by context, MallowsPO has less regret than DPO at the same KL, "
        "and the reference's entropy is dispersion enough.",
        "2405.14953",
        "6 arms, log-linear policy, three truths, six estimates of dispersion; regret removed beyond DPO's at "
        "one KL, spreads of utility",
    ),
    "dispersion": Entry(
        "The reference's token entropy tracks how dispersed preferences are.",
        "2405.14953",
        "rank correlation of the reference's token entropy with true dispersion (the quickstart's language) "
        "and with people's disagreement, beside what a perfect index would reach",
        {
            "cobbler": "JSONL of prompts with responses[].annotator_points: full rankings by several people",
            "gold": "JSONL of prompts with responses[].unbiased and .granular: scores by several people",
            "pandalm": "JSONL of pairs with annotators: 1, 2, or 0 for a tie",
            "model": "folder of a causal language model, the reference whose entropy is taken on those prompts",
            "slots": "annotators of cobbler to use, e.g. 2,3,4,5; when not given, all whose rankings have a rank "
            "correlation below 0.3 in size with the order of the file, which may not be the order of display: where "
            "sources stand in alphabetical order that control finds nothing, and what the data's notes say decides",
        },
    ),
    "responses": Entry(
        "Over n responses per prompt the bias of what is learned falls as 1/sqrt(n).",
        "2412.04628",
        "log-log slope of the bias of a trained policy over responses per prompt, against -1/2 within 0.1; "
        "seconds and memory of a real step",
    ),
    "weights": Entry(
        "Weighing responses by the distance of their reward from the mean (W-MPO) beats MPO at the same KL.",
        "2412.04628",
        "beta, alpha, power, absolute or signed deviations, five shapes of rewards; gain over MPO at 0.5 "
        "nats, spreads of utility",
    ),
    "calibration": Entry(
        "W-MPO, which trusts the size of rewards, retains less of its gain than MPO and DPO when rewards are "
        "distorted.",
        "2412.04628",
        "five distortions of rewards at four strengths; share of its gain that W-MPO retains less that of MPO "
        "and DPO, at 0.5 nats",
    ),
    "contrast": Entry(
        "A contrast of sets learns more from ordinal rewards than best against worst, at the same KL.",
        "2412.04628",
        "six contrasts, 2 to 8 levels of stars, and near copies; gain over DPO on best and worst at 0.5 nats, "
        "spreads of utility",
    ),
    "prior": Entry(
        "A prior learned together with the policy beats a fixed one, at the same KL.",
        "2501.01544",
        "four priors from three starts at two betas; gain over the fixed reference at 0.5 nats, spreads of utility",
    ),
    "online": Entry(
        "In online training MallowsPO, MPO, W-MPO and W-MPO with dispersion reach more reward than DPO at the same KL.",
        "2405.14953, 2412.04628",
        "real online runs; held-out reward over DPO's at the KL where the one that moved less ended, spreads of the "
        "start's rewards",
        {
            "config": "YAML file of a run, the base of every condition, followed by overrides of it; "
            "the quickstart's model and language when not given",
            "conditions": "some of dpo, mallows-theta, mallows-phi, mpo, w-mpo, mallows-mpo, simpo, with commas",
            "seeds": "runs of each condition; 5 when not given, 2 with --quick",
        },
    ),
    "normalisation": Entry(
        "Over rounds, psi and the reward scale are better frozen than fitted again, and the reference better kept.",
        OWN,
        "psi, reward scale and reference frozen or renewed over rounds, at two betas; gain over all frozen at "
        "1.5 nats, spreads of utility",
    ),
}


def entry(name: str) -> Entry:
    """The study of a name.

    Raises:
        ConfigError: there is none.
    """
    if name not in CATALOGUE:
        raise ConfigError(f"unknown study {name!r}", f"one of {', '.join(CATALOGUE)}")
    return CATALOGUE[name]
