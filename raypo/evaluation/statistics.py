"""Intervals and tests clustered by prompt: a prompt's responses are not independent, prompts are.

A mean is first taken within each prompt; the bootstrap then resamples prompts. Figures that are no mean over prompts
are computed again on each resample of whole prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from raypo.evaluation.intervals import EVERYWHERE, FEW, Interval, constant_interval, jackknife, student
from raypo.evaluation.significance import Floats, constant


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


def mean_interval(
    values: Floats,
    *,
    confidence: float,
    samples: int,
    seed: int = 0,
    within: tuple[float, float] = EVERYWHERE,
) -> Interval:
    """Mean over prompts with a bias-corrected and accelerated bootstrap interval (scipy.stats.bootstrap), expanded.

    Below FEW values it is Student's t interval. A resample of so few never shows what they did not happen to hold: the
    bootstrap covers 50 % of truths with 2 values, 71 % with 3 and 89-93 % with 5, named 95 %. Student's is exact for a
    normal law and near it for others without heavy tails; it is wide, as it should be.

    Args:
        values: one per prompt; NaN (nothing measured) is left out.
        confidence: coverage, in (0, 1).
        samples: bootstrap resamples.
        seed: of the resampling.
        within: least and greatest value that a prompt can have; only Student's interval could leave it, and values that
            are all one of the two have the interval of `constant_interval`.
    """
    kept = values[np.isfinite(values)]
    if len(kept) == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    if len(kept) == 1:
        return Interval(float(kept[0]), math.nan, math.nan, 1)
    if constant(kept):  # BCa divides by the spread
        return constant_interval(float(kept[0]), len(kept), confidence=confidence, within=within)
    exponent = np.frexp(np.abs(kept).max())[1]  # cubes of the deviations must neither vanish nor overflow
    scaled = np.ldexp(kept, -exponent)
    if len(kept) < FEW:
        mean, error = float(np.ldexp(scaled.mean(), exponent)), scaled.std(ddof=1) / math.sqrt(len(kept))
        return student(mean, float(np.ldexp(error, exponent)), len(kept), confidence=confidence, within=within)
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
    within: tuple[float, float] = EVERYWHERE,
) -> Interval:
    """A figure of whole prompts with an expanded percentile interval from resampled prompts.

    Below FEW prompts the interval is Student's, by the jackknife: as of `mean_interval`.

    Args:
        figure: of the prompts with these indices (repeated as often as drawn); NaN where it is not defined.
        prompts: number of prompts.
        confidence: coverage, in (0, 1).
        samples: bootstrap resamples; those in which the figure is NaN are left out.
        seed: of the resampling.
        within: least and greatest value that the figure can have.

    Returns:
        the figure of all prompts; no bounds when it is NaN, when there are fewer than two prompts, or when one of few
        left out leaves the figure not defined.
    """
    everyone = np.arange(prompts)
    whole = figure(everyone)
    if prompts < 2 or math.isnan(whole):
        return Interval(whole, math.nan, math.nan, prompts)
    if prompts < FEW:
        left = np.array([figure(np.delete(everyone, one)) for one in everyone])
        return jackknife(whole, left, confidence=confidence, within=within)
    rng = np.random.default_rng(seed)
    draws = np.array([figure(index) for index in rng.integers(0, prompts, (samples, prompts))])
    tail = (1 - expanded(confidence, prompts, samples)) / 2
    low, high = np.nanquantile(draws, [tail, 1 - tail])
    return Interval(whole, float(low), float(high), prompts)


def ratio_interval(
    above: Floats,
    below: Floats,
    *,
    confidence: float,
    samples: int,
    seed: int = 0,
    within: tuple[float, float] = EVERYWHERE,
) -> Interval:
    """Sum over sum, such as nats over tokens, with an interval from resampled prompts.

    Args:
        above: per prompt; a prompt with NaN on either side is left out.
        below: per prompt, not negative. NaN where all of it is 0.
        confidence: coverage, in (0, 1).
        samples: bootstrap resamples.
        seed: of the resampling.
        within: least and greatest value that the ratio can have.
    """
    kept = np.isfinite(above) & np.isfinite(below)
    above, below = above[kept], below[kept]

    def ratio(index: NDArray[np.int64]) -> float:
        total = float(below[index].sum())
        return float(above[index].sum()) / total if total else math.nan

    return resampled(ratio, len(above), confidence=confidence, samples=samples, seed=seed, within=within)


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

    Below FEW prompts neither resamples nor the jackknife tell how far ranks may move. The interval is then that of
    Bonett and Wright, Psychometrika 65 (2000): atanh r +- z sqrt((1 + r^2 / 2) / (n - 3)) for n independent pairs, at
    least 4; a prompt with several responses counts once, which is wide.

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

    if len(kept) < FEW:
        return of_few_ranks(figure(np.arange(len(kept))), len(kept), confidence=confidence)
    return resampled(figure, len(kept), confidence=confidence, samples=samples, seed=seed)


def of_few_ranks(found: float, n: int, *, confidence: float) -> Interval:
    """Interval of a rank correlation of few pairs, see `correlation_interval`.

    Args:
        found: the correlation; NaN has no bounds.
        n: pairs; fewer than 4 give no bounds.
        confidence: coverage, in (0, 1).
    """
    if n < 4 or math.isnan(found):
        return Interval(found, math.nan, math.nan, n)
    most = 1 - 6 / (n * (n**2 - 1))  # half a step of n ranks below 1, which has no atanh
    middle = math.atanh(min(max(found, -most), most))
    bound = float(stats.norm.ppf(0.5 + confidence / 2)) * math.sqrt((1 + found**2 / 2) / (n - 3))
    return Interval(found, min(math.tanh(middle - bound), found), max(math.tanh(middle + bound), found), n)
