"""The studies by name. Plain data: listing them imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from raypo.errors import ConfigError


@dataclass(frozen=True)
class Entry:
    """One study.

    Args:
        claim: what is tested, as a sentence that can be false.
        paper: arXiv id of its source.
        takes: options `KEY=VALUE` and what they mean.
    """

    claim: str
    paper: str
    takes: Mapping[str, str] = field(default_factory=dict)


CATALOGUE: dict[str, Entry] = {
    "bandit": Entry(
        "Where preferences are dispersed by context, MallowsPO has less regret than DPO at the same KL, "
        "and the reference's entropy is dispersion enough.",
        "2405.14953",
    ),
    "dispersion": Entry(
        "The reference's token entropy tracks how dispersed preferences are.",
        "2405.14953",
        {
            "cobbler": "JSONL of prompts with responses[].annotator_points: full rankings by several people",
            "gold": "JSONL of prompts with responses[].unbiased and .granular: scores by several people",
            "pandalm": "JSONL of pairs with annotators: 1, 2, or 0 for a tie",
            "model": "folder of a causal language model, the reference whose entropy is taken on those prompts",
            "slots": "annotators of cobbler to use, e.g. 2,3,4,5; when not given, all whose rankings have a rank "
            "correlation below 0.3 in size with the order of the file, which may not be the order of display",
        },
    ),
    "responses": Entry(
        "Over n responses per prompt the bias of what is learned falls as 1/sqrt(n).",
        "2412.04628",
    ),
    "weights": Entry(
        "Weighing responses by the distance of their reward from the mean (W-MPO) beats MPO at the same KL.",
        "2412.04628",
    ),
    "calibration": Entry(
        "W-MPO, which trusts the size of rewards, breaks earlier than MPO and DPO when rewards are distorted.",
        "2412.04628",
    ),
    "contrast": Entry(
        "A contrast of sets learns more from ordinal rewards than best against worst, at the same KL.",
        "2412.04628",
    ),
    "prior": Entry(
        "A prior learned together with the policy beats a fixed one, at the same KL.",
        "2501.01544",
    ),
    "online": Entry(
        "In online training MallowsPO, MPO, W-MPO and W-MPO with dispersion reach more reward than DPO at the same KL.",
        "2405.14953, 2412.04628",
        {
            "config": "YAML file of a run, the base of every condition, followed by overrides of it; "
            "the quickstart's model and language when not given",
            "conditions": "some of dpo, mallows-theta, mallows-phi, mpo, w-mpo, mallows-mpo, simpo, with commas",
            "seeds": "runs of each condition; 5 when not given, 2 with --quick",
        },
    ),
    "normalisation": Entry(
        "Over rounds, psi and the reward scale are better frozen than fitted again, and the reference better kept.",
        "2405.14953",
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
