"""Two methods against each other over their seeds, on the same prompts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from raypo.evaluation.intervals import Interval
from raypo.evaluation.seeds import Combined, combine_seeds, crossed, parts, untold
from raypo.evaluation.significance import Floats, detectable, paired_test
from raypo.evaluation.statistics import mean_interval


@dataclass(frozen=True)
class Difference:
    """A figure of one method less that of another.

    Args:
        interval: of the difference; n is the number of prompts.
        p: two-sided p-value that it is 0; 1 where nothing can be told.
        detectable: smallest true difference that would have been found four times in five; NaN where none would.
        seeds: of the one and of the other. With one each it is said of these two policies on new prompts, and not of
            the methods: another seed may turn it.
    """

    interval: Interval
    p: float
    detectable: float
    seeds: tuple[int, int]


def difference_over_seeds(one: Floats, other: Floats, *, confidence: float, samples: int) -> Difference:
    """The difference of two methods that were evaluated on the same prompts.

    As many seeds on both sides are paired by their number and put together by `combine_seeds`. Else each side has seeds
    of its own, the prompts are shared, and `crossed` takes Welch's view of the seeds. A single seed beside several has
    a spread that nothing tells: no bounds, p 1. One on each side: prompts alone.

    Args:
        one: [S, P], a row per seed; prompts with NaN on either side are left out.
        other: [S', P], on the same prompts.
        confidence: coverage, in (0, 1).
        samples: bootstrap resamples, where prompts alone are left.
    """
    seeds = len(one), len(other)
    if seeds == (1, 1):
        alone = (one - other)[0]
        found = mean_interval(alone, confidence=confidence, samples=samples)
        return Difference(found, paired_test(alone), detectable(alone, confidence=confidence), seeds)
    if seeds[0] == seeds[1]:
        both = combine_seeds(one - other, confidence=confidence)
    else:
        both = apart(one, other, confidence=confidence)
    return Difference(both.interval, both.p, both.detectable, seeds)


def apart(one: Floats, other: Floats, *, confidence: float) -> Combined:
    """The difference of two methods whose seeds have nothing to do with each other, [S, P] and [S', P].

    Variance of the difference: of one's seeds, of the other's seeds, and of the prompts' differences, each of which
    holds what neither factor explains; that is counted once too often and taken off.
    """
    known = np.isfinite(one).all(0) & np.isfinite(other).all(0)
    one, other = one[:, known], other[:, known]
    prompts, fewest = one.shape[1], min(len(one), len(other))
    mean = float(one.mean() - other.mean()) if prompts else math.nan
    if prompts < 2 or fewest < 2:
        return untold(mean, prompts, fewest)
    (first, _, rest), (second, _, remains) = parts(one), parts(other)
    shared = float((one.mean(0) - other.mean(0)).var(ddof=1)) / prompts, prompts - 1.0
    return crossed(mean, [first, second], shared, [rest, remains], confidence=confidence, seeds=fewest, prompts=prompts)
