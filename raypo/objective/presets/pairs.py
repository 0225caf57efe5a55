"""Best against worst response: other links, and psi in the score or in the link."""

from __future__ import annotations

from raypo.objective.choices import Contrast, LinearPrior, Link
from raypo.objective.presets.row import Row, compose

HALF = 0.5  # the squared links' target: (beta Delta - 1/2)

ROWS: dict[str, Row] = {
    "dpo": Row(
        meaning="best against worst response under the Bradley-Terry model",
        paper="2305.18290",
        equation="Eq. 7",
        make=lambda p: compose(p, link=Link(kind="logistic", parameters={"label_smoothing": p["label_smoothing"]})),
        hyperparameters=("label_smoothing",),
    ),
    "robust": Row(
        meaning="DPO made unbiased under labels that are flipped at a known rate; its loss has no lower bound",
        paper="2403.00409",
        equation="robust DPO; TRL f2cd577",
        make=lambda p: compose(p, link=Link(kind="robust", parameters={"label_smoothing": p["flip_rate"]})),
        hyperparameters=("flip_rate",),
    ),
    "ipo": Row(
        meaning="the log-ratio gap of best and worst is regressed to 1/(2 beta); summed log-probs, as in the paper",
        paper="2310.12036",
        equation="Eq. 17",
        make=lambda p: compose(p, link=_squared(p["beta"])),
    ),
    "ipo-mean": Row(
        meaning="IPO on length-normalised log-probs, as TRL and HALOs have it",
        paper="2310.12036",
        equation="TRL f2cd577; HALOs 4831988",
        make=lambda p: compose(p, prior=LinearPrior(eta=1), link=_squared(p["beta"])),
    ),
    "hinge": Row(
        meaning="SLiC's hinge on the DPO margin",
        paper="2309.06657",
        equation="SLiC-norm in RSO",
        make=lambda p: compose(p, link=Link(kind="hinge", parameters={"threshold": 1.0})),
    ),
    "slic-hf": Row(
        meaning="hinge on plain log-probs with a likelihood term",
        paper="2305.10425",
        equation="Eq. 2; HALOs 4831988",
        make=lambda p: compose(
            p, prior=LinearPrior(b=0), link=Link(kind="hinge", parameters={"threshold": 1.0}), nll=p["nll"]
        ),
        hyperparameters=("nll",),
        defaults={"beta": 1.0, "nll": 0.1},  # the paper has no beta: its margin is delta; lambda as in HALOs
    ),
    "exo": Row(
        meaning="reverse KL from a smoothed preference to the policy's",
        paper="2402.00856",
        equation="EXO-pref; TRL f2cd577",
        make=lambda p: compose(p, link=Link(kind="exo", parameters={"label_smoothing": p["smoothing"]})),
        hyperparameters=("smoothing",),
    ),
    "discopop": Row(
        meaning="a blend of logistic and exponential loss, found by search",
        paper="2406.08414",
        equation="LRML; TRL f2cd577",
        make=lambda p: compose(p, link=Link(kind="discopop", parameters={"temperature": p["tau"]})),
        hyperparameters=("tau",),
    ),
    "cauchy": Row(
        meaning="a link with heavy tails: a wrong pair pulls less the worse it is",
        paper="2405.14953",
        equation="code c188a2e",
        make=lambda p: compose(p, link=Link(kind="cauchy")),
    ),
    "odpo": Row(
        meaning="DPO whose margin must exceed an offset that grows with the reward gap",
        paper="2402.10571",
        equation="offset a ln(1 + gap)",
        make=lambda p: compose(
            p, contrast=Contrast(kind="best-vs-worst", reward_offset="log", offset_scale=p["offset_scale"])
        ),
        hyperparameters=("offset_scale",),
    ),
    "odpo-linear": Row(
        meaning="ODPO with an offset proportional to the reward gap",
        paper="2402.10571",
        equation="offset a gap",
        make=lambda p: compose(
            p, contrast=Contrast(kind="best-vs-worst", reward_offset="linear", offset_scale=p["offset_scale"])
        ),
        hyperparameters=("offset_scale",),
    ),
    "wpo": Row(
        meaning="DPO weighted by how likely both responses are under the policy",
        paper="2406.11827",
        equation="code a104458: product at most 1",
        make=lambda p: compose(p, confidence="bounded"),
    ),
    "wpo-plain": Row(
        meaning="WPO whose weights have no bound",
        paper="2406.11827",
        equation="TRL use_weighting",
        make=lambda p: compose(p, confidence="plain"),
    ),
    "mallows-theta": Row(
        meaning="DPO whose margin is scaled by the prompt's dispersion (Spearman)",
        paper="2405.14953",
        equation="MallowsPO-theta; code c188a2e",
        make=lambda p: compose(p, dispersion="score"),
    ),
    "mallows-phi": Row(
        meaning="the exact pair probability of a Mallows model (Kendall) as link, smoothed on |s| < 1",
        paper="2405.14953",
        equation="MallowsPO-phi; marginal g_phi",
        make=lambda p: compose(p, dispersion="link", link=Link(kind="phi")),
    ),
    "mallows-ipo": Row(
        meaning="IPO on length-normalised policy log-probs, scaled by the prompt's dispersion",
        paper="2405.14953",
        equation="code c188a2e: reference-free",
        make=lambda p: compose(p, prior=LinearPrior(b=0, eta=1), dispersion="score", link=_squared(p["beta"])),
    ),
    "rainbow": Row(
        meaning="length-normalised, a mixture of reference and margin gamma, scaled by dispersion",
        paper="2410.04203",
        equation="eta = 1; code 6dccae3",
        make=lambda p: compose(p, prior=_rainbow(p["beta"], p["mixing"], p["gamma"]), dispersion="score"),
        hyperparameters=("mixing", "gamma"),
    ),
    "rainbow-ipo": Row(
        meaning="RainbowPO with a squared link to 1/2",
        paper="2410.04203",
        equation="mallows_ipo; code 6dccae3",
        make=lambda p: compose(
            p, prior=_rainbow(p["beta"], p["mixing"], p["gamma"]), dispersion="score", link=_squared(1.0)
        ),
        hyperparameters=("mixing", "gamma"),
    ),
    "rainbow-hinge": Row(
        meaning="RainbowPO with a squared hinge at 1/2",
        paper="2410.04203",
        equation="mallows_ipo_modified; code 6dccae3",
        make=lambda p: compose(
            p,
            prior=_rainbow(p["beta"], p["mixing"], p["gamma"]),
            dispersion="score",
            link=Link(kind="squared-hinge", parameters={"threshold": HALF}),
        ),
        hyperparameters=("mixing", "gamma"),
    ),
}


def _squared(scale: float) -> Link:
    return Link(kind="squared", parameters={"target_margin": HALF, "scale": scale})


def _rainbow(beta: float, mixing: float, gamma: float) -> LinearPrior:
    return LinearPrior(b=mixing, eta=1, h=(1 - mixing) * gamma / beta)
