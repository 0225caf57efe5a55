"""Intervals and tests clustered by prompt: a prompt's responses are not independent, prompts are.

A mean is first taken within each prompt; the bootstrap then resamples prompts. Figures that are no mean over prompts
are computed again on each resample of whole prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

Floats = NDArray[np.float64]


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


def expanded(confidence: float, n: int, samples: int) -> float:
    """Confidence to ask of a bootstrap of n values so that its interval covers as often as it says.

    Resampling n values understates their variance by (n - 1) / n and knows no Student t. Hesterberg's expanded
    percentiles, arXiv 1411.5279 section 5.1: alpha' / 2 = Phi(-sqrt(n / (n - 1)) t_{1 - alpha/2, n - 1}).

    Args:
        confidence: coverage that is wanted, in (0, 1).
        n: values, at least 2.
        samples: resamples; more confidence than they can show, 1 - 1 / samples, is never asked.
    """
    quantile = stats.t.ppf(0.5 + confidence / 2, n - 1)
    return min(float(1 - 2 * stats.norm.cdf(-math.sqrt(n / (n - 1)) * quantile)), 1 - 1 / samples)


def constant(values: Floats) -> bool:
    """Whether values differ by no more than their rounding."""
    return float(values.max() / 2 - values.min() / 2) <= 1e-13 * float(np.abs(values).max())


def mean_interval(values: Floats, *, confidence: float, samples: int, seed: int = 0) -> Interval:
    """Mean over prompts with a bias-corrected and accelerated bootstrap interval (scipy.stats.bootstrap), expanded.

    Args:
        values: one per prompt; NaN (nothing measured) is left out.
        confidence: coverage, in (0, 1).
        samples: bootstrap resamples.
        seed: of the resampling.
    """
    kept = values[np.isfinite(values)]
    if len(kept) == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    if len(kept) == 1:
        return Interval(float(kept[0]), math.nan, math.nan, 1)
    if constant(kept):  # BCa divides by the spread; the interval of a constant is that constant
        return Interval(float(kept[0]), float(kept[0]), float(kept[0]), len(kept))
    exponent = np.frexp(np.abs(kept).max())[1]  # cubes of the deviations must neither vanish nor overflow
    scaled = np.ldexp(kept, -exponent)
    found = stats.bootstrap(
        (scaled,),
        np.mean,
        vectorized=True,
        n_resamples=samples,
        confidence_level=expanded(confidence, len(kept), samples),
        method="BCa",
        rng=np.random.default_rng(seed),
    )
    mean, low, high = np.ldexp([scaled.mean(), *found.confidence_interval], exponent).tolist()
    return Interval(mean, low, high, len(kept))


def resampled(
    figure: Callable[[NDArray[np.int64]], float],
    prompts: int,
    *,
    confidence: float,
    samples: int,
    seed: int = 0,
) -> Interval:
    """A figure of whole prompts with an expanded percentile interval from resampled prompts.

    Args:
        figure: of the prompts with these indices (repeated as often as drawn); NaN where it is not defined.
        prompts: number of prompts.
        confidence: coverage, in (0, 1).
        samples: bootstrap resamples; those in which the figure is NaN are left out.
        seed: of the resampling.

    Returns:
        the figure of all prompts; no bounds when it is NaN, or when there are fewer than two prompts.
    """
    whole = figure(np.arange(prompts))
    if prompts < 2 or math.isnan(whole):
        return Interval(whole, math.nan, math.nan, prompts)
    rng = np.random.default_rng(seed)
    draws = np.array([figure(index) for index in rng.integers(0, prompts, (samples, prompts))])
    tail = (1 - expanded(confidence, prompts, samples)) / 2
    low, high = np.nanquantile(draws, [tail, 1 - tail])
    return Interval(whole, float(low), float(high), prompts)


def ratio_interval(above: Floats, below: Floats, *, confidence: float, samples: int, seed: int = 0) -> Interval:
    """Sum over sum, such as nats over tokens, with an interval from resampled prompts.

    Args:
        above: per prompt; a prompt with NaN on either side is left out.
        below: per prompt, not negative. NaN where all of it is 0.
        confidence: coverage, in (0, 1).
        samples: bootstrap resamples.
        seed: of the resampling.
    """
    kept = np.isfinite(above) & np.isfinite(below)
    above, below = above[kept], below[kept]

    def ratio(index: NDArray[np.int64]) -> float:
        total = float(below[index].sum())
        return float(above[index].sum()) / total if total else math.nan

    return resampled(ratio, len(above), confidence=confidence, samples=samples, seed=seed)


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


def correlation(a: Floats, b: Floats) -> float:
    """Spearman rank correlation; NaN when either is constant or fewer than three pairs are finite."""
    both = np.isfinite(a) & np.isfinite(b)
    if both.sum() < 3 or np.ptp(a[both]) == 0 or np.ptp(b[both]) == 0:
        return math.nan
    # Pearson's of the ranks: what stats.spearmanr gives, without the p-value that would be most of its time
    return float(np.corrcoef(stats.rankdata(a[both]), stats.rankdata(b[both]))[0, 1])


def correlation_interval(
    a: Sequence[Floats] | Floats, b: Sequence[Floats] | Floats, *, confidence: float, samples: int, seed: int = 0
) -> Interval:
    """Spearman rank correlation with an interval from resampled prompts.

    Args:
        a: one value per prompt, or the values of its responses, which then stay together.
        b: the same for the other quantity.
        confidence: coverage, in (0, 1).
        samples: bootstrap resamples.
        seed: of the resampling.

    Returns:
        the correlation over all pairs, with the prompts that have a finite pair counted; no bounds when it is NaN.
    """
    pairs = [np.stack([np.atleast_1d(x), np.atleast_1d(y)]) for x, y in zip(a, b, strict=True)]
    finite = [pair[:, np.isfinite(pair).all(0)] for pair in pairs]
    kept = [pair for pair in finite if pair.shape[1]]

    def figure(index: NDArray[np.int64]) -> float:
        both = np.concatenate([kept[i] for i in index], axis=1) if len(index) else np.empty((2, 0))
        return correlation(both[0], both[1])

    return resampled(figure, len(kept), confidence=confidence, samples=samples, seed=seed)


def power(effect: float, spread: float, n: int, *, confidence: float) -> float:
    """Chance that the paired test finds a true mean difference, in [0, 1].

    By the noncentral t distribution, which the sign-flip test follows closely (Lehmann and Romano, Testing Statistical
    Hypotheses, section 15.2: same asymptotic power as the t-test).

    Args:
        effect: true mean difference.
        spread: standard deviation of the differences over prompts; 0 makes any effect certain.
        n: prompts; with fewer than 2 nothing can be found.
        confidence: 1 - the level of the two-sided test.
    """
    if n < 2:
        return 0.0
    if spread == 0:
        return 1.0 if effect else 1 - confidence
    shift, bound = effect / spread * math.sqrt(n), stats.t.ppf(0.5 + confidence / 2, n - 1)
    return float(stats.nct.sf(bound, n - 1, shift) + stats.nct.sf(bound, n - 1, -shift))


def detectable(differences: Floats, *, confidence: float, chance: float = 0.8) -> float:
    """Smallest true mean difference that the paired test would find with a given chance.

    Args:
        differences: one per prompt, as in `paired_test`; their spread is taken as known.
        confidence: 1 - the level of the two-sided test.
        chance: power that is wanted, above 1 - confidence.

    Returns:
        in the unit of the differences; NaN with fewer than two, 0 when all are equal.
    """
    kept = differences[np.isfinite(differences)]
    if len(kept) < 2:
        return math.nan
    if constant(kept):
        return 0.0
    spread, n = float(kept.std(ddof=1)), len(kept)

    def missing(standardized: float) -> float:
        return power(standardized, 1.0, n, confidence=confidence) - chance

    most = 2.0 * (stats.t.ppf(0.5 + confidence / 2, n - 1) + stats.norm.ppf(chance) + 4) / math.sqrt(n)
    return spread * float(optimize.brentq(missing, 0.0, most))


@dataclass(frozen=True)
class Combined:
    """A mean over several seeds and prompts.

    Args:
        interval: mean over seeds and prompts, with its interval; n is the number of prompts.
        p: two-sided p-value that the mean is 0; 1 where nothing can be told.
        seeds: number of seeds.
        seed_spread: standard deviation between seeds that prompts and responses do not explain.
    """

    interval: Interval
    p: float
    seeds: int
    seed_spread: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def combine_seeds(values: Floats, *, confidence: float) -> Combined:
    """Combine seeds that were evaluated on the same prompts: both the seeds and the prompts are samples.

    Two crossed random factors without replication: Var(mean) = (MS_seed + MS_prompt - MS_rest) / (S P), degrees of
    freedom by Satterthwaite (Searle, Casella, McCulloch, Variance Components, sections 4.5 and 2.3). Pooling the
    responses of all seeds would take each seed for certain; averaging them first would as well.

    Args:
        values: [S, P], one row per seed and one column per prompt. Prompts with NaN in any seed are left out.
        confidence: coverage, in (0, 1).

    Returns:
        bounds are NaN with fewer than two seeds or two prompts: one seed says nothing of seeds.
    """
    kept = values[:, np.isfinite(values).all(0)]
    seeds, prompts = kept.shape
    mean = float(kept.mean()) if kept.size else math.nan
    if seeds < 2 or prompts < 2:
        return Combined(Interval(mean, math.nan, math.nan, prompts), 1.0, seeds, math.nan)
    by_seed, by_prompt = kept.mean(1), kept.mean(0)
    rest = kept - by_seed[:, None] - by_prompt[None, :] + mean
    squares = np.array([prompts * by_seed.var(ddof=1), seeds * by_prompt.var(ddof=1), 0.0])
    freedom = np.array([seeds - 1, prompts - 1, (seeds - 1) * (prompts - 1)], dtype=np.float64)
    squares[2] = (rest**2).sum() / freedom[2]
    spread = math.sqrt(max(squares[0] - squares[2], 0.0) / prompts)
    # a component estimated below 0 is 0: the variance is at least what either factor alone shows
    total = max(squares[0] + squares[1] - squares[2], squares[0], squares[1])
    if total <= 1e-26 * mean**2 * seeds * prompts or total == 0:
        return Combined(Interval(mean, mean, mean, prompts), 1.0 if mean == 0 else 0.0, seeds, spread)
    degrees = total**2 / float((squares**2 / freedom).sum())
    error = math.sqrt(total / (seeds * prompts))
    bound = float(stats.t.ppf(0.5 + confidence / 2, degrees)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, degrees))
    return Combined(Interval(mean, mean - bound, mean + bound, prompts), p, seeds, spread)
