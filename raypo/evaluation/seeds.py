"""Several seeds put together: the seeds and the prompts are both samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from raypo.evaluation.intervals import Interval
from raypo.evaluation.significance import Floats, detectable_by_t


@dataclass(frozen=True)
class Combined:
    """A mean over several seeds and prompts.

    Args:
        interval: mean over seeds and prompts, with its interval; n is the number of prompts.
        p: two-sided p-value that the mean is 0; 1 where nothing can be told.
        seeds: number of seeds.
        seed_spread: standard deviation between seeds that prompts and responses do not explain.
        detectable: smallest true mean that would have been found four times in five; NaN where nothing can be told.
        error: standard error that the interval and `detectable` come from; NaN likewise.
        degrees: of freedom of that error.
    """

    interval: Interval
    p: float
    seeds: int
    seed_spread: float
    detectable: float
    error: float
    degrees: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def combine_seeds(values: Floats, *, confidence: float) -> Combined:
    """Combine seeds that were evaluated on the same prompts: both the seeds and the prompts are samples.

    Pooling the responses of all seeds would take each seed for certain; averaging them first would as well.

    Args:
        values: [S, P], one row per seed and one column per prompt. Prompts with NaN in any seed are left out.
        confidence: coverage, in (0, 1).

    Returns:
        as of `crossed`; bounds are NaN with fewer than two seeds or two prompts: one seed says nothing of seeds.
    """
    kept = values[:, np.isfinite(values).all(0)]
    seeds, prompts = kept.shape
    mean = float(kept.mean()) if kept.size else math.nan
    if seeds < 2 or prompts < 2:
        return untold(mean, prompts, seeds)
    by_seed, by_prompt, rest = parts(kept)
    return crossed(mean, [by_seed], by_prompt, [rest], confidence=confidence, seeds=seeds, prompts=prompts)


def untold(mean: float, prompts: int, seeds: int) -> Combined:
    """A mean of which nothing can be told."""
    nan = math.nan
    return Combined(Interval(mean, nan, nan, prompts), 1.0, seeds, nan, nan, nan, nan)


Part = tuple[float, float]
"""A variance of a mean, and its degrees of freedom."""


def parts(values: Floats) -> tuple[Part, Part, Part]:
    """Variance of the mean of [S, P] values as seeds show it, as prompts do, and as what neither explains does.

    Mean squares of two crossed random factors without replication, over S P; S and P at least 2.
    """
    seeds, prompts = values.shape
    by_seed, by_prompt = values.mean(1), values.mean(0)
    rest = values - by_seed[:, None] - by_prompt[None, :] + values.mean()
    freedom = float((seeds - 1) * (prompts - 1))
    return (
        (float(by_seed.var(ddof=1)) / seeds, seeds - 1.0),
        (float(by_prompt.var(ddof=1)) / prompts, prompts - 1.0),
        (float((rest**2).sum()) / freedom / (seeds * prompts), freedom),
    )


def crossed(
    mean: float,
    by_seed: Sequence[Part],
    by_prompt: Part,
    rest: Sequence[Part],
    *,
    confidence: float,
    seeds: int,
    prompts: int,
) -> Combined:
    """A mean whose variance is a part of seeds and a part of prompts, both of which hold the rest: s + p - r.

    Degrees of freedom by Satterthwaite (Searle, Casella, McCulloch, Variance Components, sections 4.5 and 2.3). Two or
    three seeds that happen to agree would lend it the many degrees of the prompts: it then misses 11 % of truths and
    not 5 %. So the interval is the widest of three, and p the largest: of all parts, of the seeds alone (Student's, or
    Welch's where two methods have seeds of their own), and of the prompts alone.

    Args:
        mean: of all.
        by_seed: of each method whose seeds are drawn apart.
        by_prompt: of the prompts, which are shared.
        rest: as by_seed.
        confidence: coverage, in (0, 1).
        seeds: their number, to be told.
        prompts: likewise.
    """
    alone = float(sum(variance for variance, _ in by_seed)), by_prompt[0]
    both = sum(alone) - sum(variance for variance, _ in rest)
    spread = math.sqrt(max(alone[0] - sum(variance for variance, _ in rest), 0.0) * seeds)
    # a component estimated below 0 is 0: the variance is at least what either factor alone shows
    total = max(both, *alone)
    if total <= 1e-26 * mean**2 or total == 0:
        p = 1.0 if mean == 0 else 0.0
        return Combined(Interval(mean, mean, mean, prompts), p, seeds, spread, 0.0, 0.0, math.nan)

    def satterthwaite(variance: float, of: Sequence[Part]) -> Part:
        uncertain = sum(one**2 / freedom for one, freedom in of)
        fewest = min(freedom for _, freedom in of)  # what is subtracted could bring it below any of the parts
        return variance, max(variance**2 / uncertain, fewest) if uncertain else fewest

    views = [satterthwaite(total, [*by_seed, by_prompt, *rest]), satterthwaite(alone[0], by_seed), by_prompt]
    bounds = [math.sqrt(one) * float(stats.t.ppf(0.5 + confidence / 2, degrees)) for one, degrees in views]
    variance, degrees = views[int(np.argmax(bounds))]
    error, bound = math.sqrt(variance), max(bounds)
    p = max(float(2 * stats.t.sf(abs(mean) / math.sqrt(one), free)) if one else 0.0 for one, free in views)
    least = detectable_by_t(error, degrees, confidence=confidence)
    return Combined(Interval(mean, mean - bound, mean + bound, prompts), p, seeds, spread, least, error, degrees)
