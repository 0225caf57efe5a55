"""Intervals and tests clustered by prompt: a prompt's responses are not independent, prompts are.

Every figure is first averaged within each prompt; the bootstrap then resamples prompts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval.

    Args:
        mean: over prompts.
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

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


def prompt_means(rows: Sequence[Sequence[float | None]]) -> Floats:
    """Mean of the finite values of each prompt; NaN for a prompt without any."""
    found = []
    for row in rows:
        finite = [value for value in row if value is not None and math.isfinite(value)]
        found.append(float(np.mean(finite)) if finite else math.nan)
    return np.array(found, dtype=np.float64)


def mean_interval(values: Floats, *, confidence: float, samples: int, seed: int = 0) -> Interval:
    """Mean over prompts with a bias-corrected and accelerated bootstrap interval (scipy.stats.bootstrap).

    Args:
        values: one per prompt; NaN (nothing measured) is left out.
        confidence: coverage, in (0, 1).
        samples: bootstrap resamples.
        seed: of the resampling.
    """
    kept = values[np.isfinite(values)]
    if len(kept) == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(kept.mean())
    if len(kept) == 1:
        return Interval(mean, math.nan, math.nan, 1)
    if np.ptp(kept) == 0:  # BCa divides by the spread; the interval of a constant is that constant
        return Interval(mean, mean, mean, len(kept))
    found = stats.bootstrap(
        (kept,),
        np.mean,
        vectorized=True,
        n_resamples=samples,
        confidence_level=confidence,
        method="BCa",
        rng=np.random.default_rng(seed),
    )
    low, high = found.confidence_interval
    return Interval(mean, float(low), float(high), len(kept))


def paired_test(differences: Floats) -> float:
    """Two-sided p-value that the mean difference over prompts is 0, by a sign-flip permutation test.

    1 when there are fewer than two differences or all are 0: nothing can be told.
    """
    kept = differences[np.isfinite(differences)]
    if len(kept) < 2 or not np.any(kept):
        return 1.0
    result = stats.permutation_test(
        (kept,),
        lambda x, axis: np.mean(x, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=4999,
        rng=np.random.default_rng(0),
    )
    return float(result.pvalue)


def correlation(a: Floats, b: Floats) -> float:
    """Spearman rank correlation; NaN when either is constant or fewer than three pairs are finite."""
    both = np.isfinite(a) & np.isfinite(b)
    if both.sum() < 3 or np.ptp(a[both]) == 0 or np.ptp(b[both]) == 0:
        return math.nan
    return float(stats.spearmanr(a[both], b[both]).statistic)


def correlation_interval(a: Floats, b: Floats, *, confidence: float, samples: int, seed: int = 0) -> Interval:
    """Spearman rank correlation with a percentile interval from resampled pairs."""
    value = correlation(a, b)
    if math.isnan(value):
        return Interval(math.nan, math.nan, math.nan, len(a))
    rng = np.random.default_rng(seed)
    draws = [correlation(a[index], b[index]) for index in rng.integers(0, len(a), (samples, len(a)))]
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(draws, [tail, 1 - tail])
    return Interval(value, float(low), float(high), len(a))
