"""The named objectives, as rows of one table. No torch here, so that a plan can read and check them.

    pairs      best against worst under other links and with other scales
    priors     other log-ratios: what the policy is measured against
    sets       sets, rankings and levels
    anchored   a response against a given score
    batch      losses outside the kernel, and weighted sums

TRL's "MPO" is *Mixed* Preference Optimization, which is `mixed-po` here: `mpo` is multi-preference optimization
(arXiv 2412.04628), a contrast of sets.

A new preset is one more row in one of these tables: what it means, its source, and the choices as a function of its
hyperparameters.
"""

from __future__ import annotations

import difflib

from raypo.errors import ConfigError
from raypo.objective.composition import AnyObjective
from raypo.objective.domains import HYPERPARAMETERS
from raypo.objective.presets import anchored, batch, pairs, priors, sets
from raypo.objective.presets.row import Hyper, Row

TABLE: dict[str, Row] = {**pairs.ROWS, **sets.ROWS, **priors.ROWS, **anchored.ROWS, **batch.ROWS}

COMMON = ("beta", "tie_eps")
"""Hyperparameters of every preset."""

OPTIONAL: dict[str, float] = {"tie_eps": 0.0, "power": 1.0, "label_smoothing": 0.0}
"""Hyperparameters that may be left out, and what they are then: the neutral value, not a choice."""


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


def preset(name: str, **given: float) -> AnyObjective:
    """An objective by name.

    Args:
        name: a row of `TABLE`.
        given: beta and the row's own hyperparameters; those of `OPTIONAL` may be left out.

    Raises:
        ConfigError: unknown name, or a hyperparameter that is missing, unknown or out of its domain.
    """
    chosen, names = row(name), hyperparameters(name)
    unknown = [key for key in given if key not in names]
    if unknown:
        near = nearest(unknown[0], [*names, "preset", "prior", "dispersion", "contrast", "link"])
        raise ConfigError(
            f"preset {name!r} has no hyperparameter {unknown[0]!r}{near}",
            f"of {', '.join(names)}",
            f"leave {unknown[0]} out; to change a file's preset on the command line with all that belongs to it: "
            f"'objective={{preset: {name}, beta: 0.1}}'",
        )
    missing = [key for key in names if key not in given and key not in OPTIONAL]
    if missing:
        needed = [key for key in names if key not in OPTIONAL]
        raise ConfigError(
            f"preset {name!r} needs {', '.join(missing)}",
            f"all of {', '.join(needed)}",
            "give a value of each; `raypo presets` prints what is usual",
        )
    for key, value in given.items():  # before the row divides by one
        if value not in HYPERPARAMETERS[key]:
            raise ConfigError(f"preset {name!r}: {key} = {value!r}", str(HYPERPARAMETERS[key]))
    return chosen.make(Hyper(name, OPTIONAL | given))


__all__ = ["COMMON", "OPTIONAL", "TABLE", "Hyper", "Row", "hyperparameters", "nearest", "preset", "row"]
