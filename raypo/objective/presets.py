"""The named objectives, as rows of one table. No torch here, so that a plan can read and check them.

TRL's "MPO" is *Mixed* Preference Optimization, another thing: here `mpo` is multi-preference optimization
(arXiv 2412.04628), a contrast of sets.

A new preset is one more row: the four choices as functions of its hyperparameters, what it means, and its source.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from raypo.errors import ConfigError
from raypo.objective.choices import Contrast, Dispersion, LinearPrior, Link, Objective

Hyper = Mapping[str, float]

COMMON = ("beta", "tie_eps")
"""Hyperparameters of every preset; tie_eps may be left out and is then 0."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One preset.

    Args:
        meaning: one sentence.
        paper: arXiv id.
        equation: which equation, or which code.
        prior: from hyperparameters to the prior.
        dispersion: where psi acts.
        contrast: which responses are compared.
        link: from hyperparameters to the link.
        hyperparameters: names beside the common ones; all must be given.
    """

    meaning: str
    paper: str
    equation: str
    prior: Callable[[Hyper], LinearPrior]
    dispersion: Dispersion
    contrast: Contrast
    link: Callable[[Hyper], Link]
    hyperparameters: tuple[str, ...] = ()


def _log_ratio(_: Hyper) -> LinearPrior:
    return LinearPrior()


def _logistic(_: Hyper) -> Link:
    return Link(kind="logistic", parameters={"label_smoothing": 0.0})


PAIR = Contrast(kind="best-vs-worst")
ABOVE_MEAN = Contrast(kind="above-mean")
WEIGHTED = Contrast(kind="above-mean", deviation="abs")

TABLE: dict[str, Row] = {
    "dpo": Row(
        meaning="best against worst response under the Bradley-Terry model",
        paper="2305.18290",
        equation="Eq. 7",
        prior=_log_ratio,
        dispersion="none",
        contrast=PAIR,
        link=lambda p: Link(kind="logistic", parameters={"label_smoothing": p["label_smoothing"]}),
        hyperparameters=("label_smoothing",),
    ),
    "ipo": Row(
        meaning="the log-ratio gap of best and worst is regressed to 1/(2 beta); summed log-probs, as in the paper",
        paper="2310.12036",
        equation="Eq. 17",
        prior=_log_ratio,
        dispersion="none",
        contrast=PAIR,
        link=lambda p: Link(kind="squared", parameters={"target_margin": 0.5, "scale": p["beta"]}),
    ),
    "simpo": Row(
        meaning="reference-free and length-normalised, with a target margin gamma",
        paper="2405.14734",
        equation="Eq. 6",
        prior=lambda p: LinearPrior(a=1, b=0, eta=1, h=p["gamma"] / p["beta"]),
        dispersion="none",
        contrast=PAIR,
        link=_logistic,
        hyperparameters=("gamma",),
    ),
    "mallows-theta": Row(
        meaning="DPO whose margin is scaled by the prompt's dispersion (Spearman)",
        paper="2405.14953",
        equation="MallowsPO-theta; code c188a2e",
        prior=_log_ratio,
        dispersion="score",
        contrast=PAIR,
        link=_logistic,
    ),
    "mallows-phi": Row(
        meaning="the exact pair probability of a Mallows model (Kendall) as link, smoothed on |s| < 1",
        paper="2405.14953",
        equation="MallowsPO-phi; marginal g_phi",
        prior=_log_ratio,
        dispersion="link",
        contrast=PAIR,
        link=lambda p: Link(kind="phi"),
    ),
    "mpo": Row(
        meaning="responses above the mean reward against the others, as sets",
        paper="2412.04628",
        equation="REFA (2412.16378) Eq. 5 with alpha 0",
        prior=_log_ratio,
        dispersion="none",
        contrast=ABOVE_MEAN,
        link=_logistic,
    ),
    "w-mpo": Row(
        meaning="MPO in which a response counts by its reward's distance from the mean",
        paper="2412.04628",
        equation="v4: absolute deviation added to each logit",
        prior=_log_ratio,
        dispersion="none",
        contrast=WEIGHTED,
        link=_logistic,
        hyperparameters=("alpha",),
    ),
    "mallows-mpo": Row(
        meaning="W-MPO whose scores are scaled by the prompt's dispersion, inside the pools",
        paper="2405.14953",
        equation="theta's psi over the sets of 2412.04628",
        prior=_log_ratio,
        dispersion="score",
        contrast=WEIGHTED,
        link=_logistic,
        hyperparameters=("alpha",),
    ),
    "plackett-luce": Row(
        meaning="likelihood of the whole ranking: each response against all that are strictly worse",
        paper="2305.18290",
        equation="Appendix A.3",
        prior=_log_ratio,
        dispersion="none",
        contrast=Contrast(kind="plackett-luce"),
        link=_logistic,
    ),
}


def nearest(name: str, known: list[str]) -> str:
    """`; did you mean 'x'?` for the nearest known name, or nothing."""
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"; did you mean {found[0]!r}?" if found else ""


def row(name: str) -> Row:
    """The row of a preset.

    Raises:
        ConfigError: unknown, with the nearest known name.
    """
    if name not in TABLE:
        raise ConfigError(f"unknown preset {name!r}{nearest(name, list(TABLE))}", f"one of {', '.join(TABLE)}")
    return TABLE[name]


def hyperparameters(name: str) -> tuple[str, ...]:
    """Names of the hyperparameters that a preset takes."""
    return (*COMMON, *row(name).hyperparameters)


def preset(name: str, **given: float) -> Objective:
    """An objective by name.

    Args:
        name: a row of `TABLE`.
        given: beta and the row's own hyperparameters; tie_eps may be left out (0).

    Raises:
        ConfigError: unknown name, or a hyperparameter that is missing, unknown or out of its domain.
    """
    chosen, names = row(name), hyperparameters(name)
    unknown = [key for key in given if key not in names]
    if unknown:
        raise ConfigError(
            f"preset {name!r} has no hyperparameter {unknown[0]!r}{nearest(unknown[0], list(names))}",
            f"of {', '.join(names)}",
        )
    missing = [key for key in names if key not in given and key != "tie_eps"]
    if missing:
        raise ConfigError(f"preset {name!r} needs {', '.join(missing)}", f"all of {', '.join(names)}")
    wrong = [key for key, value in given.items() if isinstance(value, bool) or not isinstance(value, (int, float))]
    if wrong:
        raise ConfigError(f"preset {name!r}: {wrong[0]} = {given[wrong[0]]!r}", "a number")
    if not given["beta"] > 0:  # before the row divides by it
        raise ConfigError(f"preset {name!r}: beta = {given['beta']}", "beta > 0: it scales the implicit reward")
    return Objective(
        name=name,
        prior=chosen.prior(given),
        dispersion=chosen.dispersion,
        contrast=chosen.contrast,
        link=chosen.link(given),
        beta=given["beta"],
        alpha=given.get("alpha", 0.0),
        tie_eps=given.get("tie_eps", 0.0),
    )
