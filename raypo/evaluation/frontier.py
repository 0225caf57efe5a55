"""Reward against KL: which policies nobody beats at both, and which is better at the same KL.

A higher reward bought with more KL is no better method: policies are compared where they moved equally far.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raypo.evaluation.intervals import Interval
from raypo.evaluation.methods import difference_over_seeds
from raypo.evaluation.significance import Floats


@dataclass(frozen=True)
class Point:
    """One policy, or one weight version.

    Args:
        kl: to the initial policy, nats per response, mean over prompts.
        rewards: mean reward of each prompt, [prompts].
    """

    kl: float
    rewards: Floats


def on_frontier(kl: Sequence[float], reward: Sequence[float]) -> list[bool]:
    """Whether no other policy has at least the reward at no more KL, and is better in one of them."""
    points = list(zip(kl, reward, strict=True))
    return [
        not any(k <= mine and r >= own and (k, r) != (mine, own) for k, r in points) and not math.isnan(mine + own)
        for mine, own in points
    ]


def at_kl(path: Sequence[Point], kl: float) -> Floats | None:
    """Each prompt's reward at a KL, straight between the two nearest points in sqrt(KL); None outside of the path.

    Reward grows about as the root of KL close to the start (arXiv 2210.10760, section 1), so that between two points
    it is nearly straight in that root.

    Args:
        path: points of one method, such as its weight versions; the start (KL 0) among them.
        kl: nats per response. One below 0, which an estimate from samples can be, counts as 0; so do the points' own.
    """
    ordered = sorted(path, key=lambda point: point.kl)
    roots = np.sqrt([max(point.kl, 0.0) for point in ordered])
    wanted = math.sqrt(max(kl, 0.0))
    if not roots[0] <= wanted <= roots[-1]:
        return None
    right = int(np.searchsorted(roots, wanted))
    if roots[right] == wanted:
        return ordered[right].rewards
    share = (wanted - roots[right - 1]) / (roots[right] - roots[right - 1])
    return (1 - share) * ordered[right - 1].rewards + share * ordered[right].rewards


@dataclass(frozen=True)
class AtEqualKl:
    """Two methods where both have moved equally far.

    Args:
        kl: nats per response at which they are compared: the most that every seed of both reaches.
        difference: of the first's reward and the second's, over seeds and paired by prompt.
        p: p-value that it is 0, as it is.
        p_adjusted: the same for all comparisons of a table together (Holm); p where it is the only one.
        detectable: smallest true difference that would have been found four times in five; NaN where none would.
        seeds: of the first and of the second; with one each, see `methods.Difference`.
    """

    kl: float
    difference: Interval
    p: float
    p_adjusted: float
    detectable: float
    seeds: tuple[int, int]


def at_equal_kl(
    one: Sequence[Sequence[Point]], other: Sequence[Sequence[Point]], *, confidence: float, samples: int
) -> AtEqualKl | None:
    """Compare two methods at the largest KL that all their seeds reach; None where their paths share no KL.

    Each seed has its own path and its own reward at that KL: a mean path would take the seeds for certain.

    Args:
        one: of each seed of a method, its points on some prompts.
        other: of each seed of the other, on the same prompts.
        confidence: coverage, in (0, 1).
        samples: bootstrap resamples.
    """
    kl = max(min(max(point.kl for point in path) for path in (*one, *other)), 0.0)
    sides = []
    for paths in (one, other):
        ends = [at_kl(path, kl) for path in paths]
        known = [end for end in ends if end is not None]
        if len(known) < len(ends):
            return None
        sides.append(np.stack(known))
    found = difference_over_seeds(*sides, confidence=confidence, samples=samples)
    return AtEqualKl(kl, found.interval, found.p, found.p, found.detectable, found.seeds)
