"""Tests of a mean difference, several of them together, and what they could have found.

The paired test flips signs, so its least p-value with n differences is 2^(1 - n): with few of them it can find nothing,
however large the effect is, and its power says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

Floats = NDArray[np.float64]

RESAMPLES = 4999
"""Of the sign-flip test; up to 12 differences have fewer patterns than that, and every pattern is counted."""

AT_ONCE = 2**18
"""Signs that are drawn together, which bounds memory: 2 MiB of fp64; the p-value does not depend on it."""

CHANCE = 0.8
"""Power at which an effect is called detectable."""


def constant(values: Floats) -> bool:
    """Whether values differ by no more than their rounding."""
    return float(values.max() / 2 - values.min() / 2) <= 1e-13 * float(np.abs(values).max())


def paired_test(differences: Floats, *, resamples: int = RESAMPLES) -> float:
    """Two-sided p-value that the mean difference over prompts is 0, by a sign-flip permutation test.

    1 when there are fewer than two differences or all are 0: nothing can be told.

    Args:
        differences: one per prompt; those that are not finite are left out.
        resamples: patterns that are drawn; where there are no more than that, every pattern is counted.
    """
    kept = differences[np.isfinite(differences)]
    if len(kept) < 2 or not np.any(kept):
        return 1.0
    result = stats.permutation_test(
        (kept,),
        lambda x, axis: np.mean(x, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, AT_ONCE // len(kept)),
        rng=np.random.default_rng(0),
    )
    return float(result.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of a family of tests: with all of them, a false finding is as rare as one alone promises.

    Holm, Scandinavian Journal of Statistics 6 (1979): the i-th smallest of m is multiplied by m - i + 1, and none is
    smaller than one before it; at most 1.
    """
    order = np.argsort(p_values, kind="stable")
    scaled = np.array(p_values, dtype=np.float64)[order] * np.arange(len(p_values), 0, -1)
    found = np.empty(len(p_values))
    found[order] = np.minimum(np.maximum.accumulate(scaled), 1.0) if len(p_values) else scaled
    return [float(value) for value in found]


def attainable(confidence: float, n: int, *, resamples: int = RESAMPLES) -> float:
    """Level that the sign-flip test of n differences really has, below 1 - confidence: the largest of its p-values is.

    Where all patterns are counted they are multiples of 2^(1 - n); with 6 differences at 95 % only the least of them,
    1 / 32, is below 5 %. Where patterns are drawn they are multiples of 2 / (resamples + 1), so that of 125 tests
    together and 4,999 patterns Holm's finds nothing: 125 times the least is 5 %, and not below it. 0 where not even the
    least p is below the level: nothing can be found.
    """
    steps = 2 ** (n - 1) if 2**n <= resamples else (resamples + 1) // 2
    below = math.ceil((1 - confidence) * steps - 1e-9) - 1  # 1 - 0.9 is a rounding below 0.1
    return max(below, 0) / steps


def power(effect: float, spread: float, n: int, *, confidence: float, resamples: int = RESAMPLES) -> float:
    """Chance that the paired test finds a true mean difference, in [0, 1].

    By the noncentral t distribution at the level that the test really has; the sign-flip test follows it closely
    (Lehmann and Romano, Testing Statistical Hypotheses, section 15.2: same asymptotic power as the t-test).

    Args:
        effect: true mean difference.
        spread: standard deviation of the differences over prompts; 0 makes any effect certain.
        n: prompts; 0 with fewer than 2, and where the test's least p-value is above its level, as with up to 5 at 95 %.
        confidence: 1 - the level of the two-sided test.
        resamples: as of `paired_test`.
    """
    level = attainable(confidence, n, resamples=resamples) if n > 1 else 0.0
    return power_by_t(effect, spread / math.sqrt(n), n - 1, confidence=1 - level) if level else 0.0


def detectable(differences: Floats, *, confidence: float, chance: float = CHANCE, resamples: int = RESAMPLES) -> float:
    """Smallest true mean difference that the paired test would find with a given chance.

    Args:
        differences: one per prompt, as in `paired_test`; their spread is taken as known.
        confidence: 1 - the level of the two-sided test.
        chance: power that is wanted, above 1 - confidence.
        resamples: as of `paired_test`.

    Returns:
        in the unit of the differences, 0 when all are equal; NaN where the test can find nothing, see `power`.
    """
    kept = differences[np.isfinite(differences)]
    level = attainable(confidence, len(kept), resamples=resamples) if len(kept) > 1 else 0.0
    if not level:
        return math.nan
    error = 0.0 if constant(kept) else float(kept.std(ddof=1)) / math.sqrt(len(kept))
    return detectable_by_t(error, len(kept) - 1, confidence=1 - level, chance=chance)


def power_by_t(effect: float, error: float, degrees: float, *, confidence: float) -> float:
    """Chance that a t-test finds a true effect, in [0, 1].

    Args:
        effect: true value of what is tested against 0.
        error: its standard error; 0 makes any effect certain.
        degrees: of freedom, at least 1.
        confidence: 1 - the level of the two-sided test.
    """
    if error == 0:
        return 1.0 if effect else 1 - confidence
    shift, bound = effect / error, stats.t.ppf(0.5 + confidence / 2, degrees)
    return float(stats.nct.sf(bound, degrees, shift) + stats.nct.sf(bound, degrees, -shift))


def detectable_by_t(error: float, degrees: float, *, confidence: float, chance: float = CHANCE) -> float:
    """Smallest true effect that a t-test would find with a given chance, in the unit of its standard error.

    Args:
        error: standard error, taken as known; 0: any effect is found.
        degrees: of freedom, at least 1.
        confidence: 1 - the level of the two-sided test.
        chance: power that is wanted, above 1 - confidence.
    """

    def missing(standardized: float) -> float:
        return power_by_t(standardized, 1.0, degrees, confidence=confidence) - chance

    most = 2.0 * (stats.t.ppf(0.5 + confidence / 2, degrees) + stats.norm.ppf(chance) + 4)
    return error * float(optimize.brentq(missing, 0.0, most)) if error else 0.0
