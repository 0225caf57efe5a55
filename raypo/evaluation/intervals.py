"""A figure with its interval, and Student's interval where units are too few to be resampled."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from scipy import stats

from raypo.evaluation.significance import Floats, constant

FEW = 10
"""Units below which no resample is trusted: the bootstrap's 95 % interval of two holds 50 % of truths, of five 90 %."""

EVERYWHERE = (-math.inf, math.inf)
SHARE = (0.0, 1.0)
"""Where shares, win rates and cosines lie."""

AMOUNT = (0.0, math.inf)
"""Where lengths, entropies and divergences lie."""


@dataclass(frozen=True)
class Interval:
    """A figure with its interval.

    Args:
        mean: the figure itself: a mean over prompts unless its maker says otherwise.
        low: lower bound; NaN with fewer than two prompts, from which no interval can be told.
        high: upper bound.
        n: prompts.
    """

    mean: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, float | int]:
        """Plain numbers, for JSON."""
        return asdict(self)

    def percent(self) -> str:
        """`62% [55%, 69%]`; without bounds where there are none."""
        return f"{self.mean:.0%}" + ("" if math.isnan(self.low) else f" [{self.low:.0%}, {self.high:.0%}]")

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


def student(
    whole: float, error: float, n: int, *, confidence: float, within: tuple[float, float] = EVERYWHERE
) -> Interval:
    """Student's t interval of a figure of n units, cut to where the figure can lie.

    Args:
        whole: the figure.
        error: its standard error.
        n: units, at least 2.
        confidence: coverage, in (0, 1).
        within: least and greatest value that the figure can have; what is cut off holds no truth.
    """
    with np.errstate(over="ignore"):  # values near the largest number have no finite bound
        bound = float(stats.t.ppf(0.5 + confidence / 2, n - 1) * np.float64(error))
        low, high = float(np.float64(whole) - bound), float(np.float64(whole) + bound)
    return Interval(whole, max(low, min(within[0], whole)), min(high, max(within[1], whole)), n)


def constant_interval(value: float, n: int, *, confidence: float, within: tuple[float, float]) -> Interval:
    """Interval of a mean of n units that all have one value.

    Where that is the least or the greatest that a unit can have, as of a policy that won every prompt, others may have
    missed the sample: with a share q of units at that end all n are there with chance q^n, so that q, and with it the
    mean's place within its bounds, is at least ((1 - confidence) / 2)^(1 / n) of the way to that end (Clopper and
    Pearson, Biometrika 26 (1934)). Elsewhere, or with an end at infinity, nothing tells how far others may lie: the
    interval is the value.

    Args:
        value: of each unit; one that differs from an end by its rounding alone is that end.
        n: units, at least 2.
        confidence: coverage, in (0, 1).
        within: least and greatest value that a unit can have.
    """
    least, greatest = within
    missed = (1 - ((1 - confidence) / 2) ** (1 / n)) * (greatest - least)
    if math.isfinite(missed) and constant(np.array([value, least])):
        return Interval(least, least, least + missed, n)
    if math.isfinite(missed) and constant(np.array([value, greatest])):
        return Interval(greatest, greatest - missed, greatest, n)
    return Interval(value, value, value, n)


def jackknife(whole: float, left: Floats, *, confidence: float, within: tuple[float, float] = EVERYWHERE) -> Interval:
    """Student's interval of a figure from its values without each unit in turn (Efron and Tibshirani, chapter 11).

    Args:
        whole: the figure of all units.
        left: without each of them; a NaN, where the others do not define it, leaves no bounds.
        confidence: coverage, in (0, 1).
        within: least and greatest value that the figure can have.
    """
    n = len(left)
    if np.isnan(left).any():
        return Interval(whole, math.nan, math.nan, n)
    error = math.sqrt((n - 1) / n * float(((left - left.mean()) ** 2).sum()))
    return student(whole, error, n, confidence=confidence, within=within)
