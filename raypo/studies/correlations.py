"""Rows of rank correlations: interval over prompts, p against 0 and what matters, and the power to find that.

With z = atanh(r), a rank correlation r of n pairs has z about normal around atanh(rho) with variance 1.06 / (n - 3),
for |rho| up to 0.8 (Fieller, Hartley and Pearson, Biometrika 44 (1957), 470-481; Fisher's own 1 / (n - 3), Metron 1
(1921), is of Pearson's r). A mean over several cuts of the same people varies less than one correlation does, so there
p is too large and power too small: neither says more than is known.
"""

from __future__ import annotations

import math

from scipy import stats

from raypo.evaluation.intervals import Interval
from raypo.studies.result import CONFIDENCE, Row

RANK = "rank correlation"
CEILING = "ceiling"
"""Measure of what a perfect index would reach, beside a rank correlation."""

FOUND = 0.8
"""Chance with which `detectable` is found."""


def error(n: int) -> float:
    """Standard error of atanh of a rank correlation of n pairs; NaN below four."""
    return math.sqrt(1.06 / (n - 3)) if n > 3 else math.nan


def rank_p(r: float, n: int, rho: float = 0.0) -> float:
    """Two-sided p that the true correlation is rho, in (-1, 1): 2 Phi(-|atanh r - atanh rho| / error).

    NaN where r is, or below four pairs. r is taken as no nearer to 1 in size than half a step of n ranks, as in the
    interval (`raypo.evaluation.statistics.of_few_ranks`): 1 has no atanh, and few ranks that agree are no certainty.
    """
    if n < 4 or math.isnan(r):
        return math.nan
    most = 1 - 6 / (n * (n**2 - 1))
    r = min(max(r, -most), most)
    return float(2 * stats.norm.sf(abs(math.atanh(r) - math.atanh(rho)) / error(n)))


def rank_power(rho: float, n: int, confidence: float = CONFIDENCE) -> float:
    """Chance that p is below 1 - confidence where the true correlation is rho.

    Phi(atanh(rho) / error - z) + Phi(-atanh(rho) / error - z), z the normal quantile of (1 + confidence) / 2.

    Args:
        rho: in (-1, 1).
        n: pairs; below four nothing can be found.
        confidence: 1 - the level of the two-sided test.
    """
    if n < 4:
        return 0.0
    bound, shift = stats.norm.ppf(0.5 + confidence / 2), math.atanh(rho) / error(n)
    return float(stats.norm.cdf(shift - bound) + stats.norm.cdf(-shift - bound))


def rank_detectable(n: int, confidence: float = CONFIDENCE) -> float:
    """Correlation that is found with chance FOUND: tanh((z + z_FOUND) error), the other side left out; NaN below 4."""
    return math.tanh((stats.norm.ppf(0.5 + confidence / 2) + stats.norm.ppf(FOUND)) * error(n))


def correlated(condition: str, found: Interval, *, matters: float, measure: str = RANK) -> Row:
    """A row from a rank correlation over prompts.

    Args:
        condition: see `Row`.
        found: the correlation, its interval and the number of prompts.
        matters: smallest correlation that matters, in (0, 1).
        measure: see `Row`.
    """
    return Row(
        condition,
        measure,
        found.n,
        1,
        found.mean,
        found.low,
        found.high,
        p=rank_p(found.mean, found.n),
        matters=matters,
        power=rank_power(matters, found.n),
        detectable=rank_detectable(found.n),
        p_up=rank_p(found.mean, found.n, matters),
        p_down=rank_p(found.mean, found.n, -matters),
        means=lambda confidence: (rank_power(matters, found.n, confidence), rank_detectable(found.n, confidence)),
    )
