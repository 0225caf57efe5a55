"""Reward against KL: which policies nobody beats at both, and which is better at the same KL.

A higher reward bought with more KL is no better method: policies are compared where they moved equally far.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raypo.evaluation.statistics import Floats, Interval, mean_interval, paired_test


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
        kl: nats per response, not negative.
    """
    ordered = sorted(path, key=lambda point: point.kl)
    roots = np.sqrt([max(point.kl, 0.0) for point in ordered])
    wanted = math.sqrt(kl)
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
        kl: nats per response at which they are compared: the most that both reach.
        difference: of the first's reward and the second's, paired by prompt.
        p: p-value that it is 0.
    """

    kl: float
    difference: Interval
    p: float


def at_equal_kl(one: Sequence[Point], other: Sequence[Point], *, confidence: float, samples: int) -> AtEqualKl | None:
    """Compare two methods at the largest KL that both reach; None where their paths share no KL.

    Args:
        one: points of a method on some prompts.
        other: points of the other, on the same prompts.
        confidence: coverage, in (0, 1).
        samples: bootstrap resamples.
    """
    kl = min(max(point.kl for point in path) for path in (one, other))
    first, second = at_kl(one, kl), at_kl(other, kl)
    if first is None or second is None:
        return None
    difference = first - second
    return AtEqualKl(kl, mean_interval(difference, confidence=confidence, samples=samples), paired_test(difference))
