"""What a row of the table is, and the plain choices that most rows share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from raypo.objective.choices import Contrast, LinearPrior, Link
from raypo.objective.composition import AnyObjective, Objective, Outside


class Hyper:
    """A preset's name and its hyperparameters by key."""

    def __init__(self, name: str, values: Mapping[str, float]) -> None:
        self.name, self._values = name, values

    def __getitem__(self, key: str) -> float:
        return self._values[key]

    def whole(self, key: str) -> int:
        """A hyperparameter that counts something."""
        return int(self._values[key])


@dataclass(frozen=True, kw_only=True)
class Row:
    """One preset.

    Args:
        meaning: one sentence.
        paper: arXiv id.
        equation: which equation, or which code.
        make: from hyperparameters to the objective.
        hyperparameters: names beside the common ones; all must be given unless optional.
        defaults: the source's own values, where those that a config has for every preset would make it another method.
    """

    meaning: str
    paper: str
    equation: str
    make: Callable[[Hyper], AnyObjective]
    hyperparameters: tuple[str, ...] = ()
    defaults: Mapping[str, float] = field(default_factory=dict)


PAIR = Contrast(kind="best-vs-worst")
ABOVE_MEAN = Contrast(kind="above-mean")
LOGISTIC = Link(kind="logistic", parameters={"label_smoothing": 0.0})


def compose(p: Hyper, **choices: Any) -> Objective:
    """An objective of the four choices: those given, else DPO's; beta and tie_eps are the hyperparameters'."""
    plain: dict[str, Any] = {
        "name": p.name,
        "prior": LinearPrior(),
        "dispersion": "none",
        "contrast": PAIR,
        "link": LOGISTIC,
        "beta": p["beta"],
        "tie_eps": p["tie_eps"],
    }
    return Objective(**(plain | choices))


def beyond(p: Hyper, loss: str, **facts: Any) -> Outside:
    """A loss outside the four choices."""
    plain: dict[str, Any] = {"name": p.name, "loss": loss, "beta": p["beta"], "tie_eps": p["tie_eps"]}
    return Outside(**(plain | facts))
