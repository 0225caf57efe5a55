"""Reward against KL: which policies nobody beats at both, and which is better at the same KL.

A higher reward bought with more KL is no better method: policies are compared where they moved equally far, which is
where the one that moved less ended. Where training ends is what a method gives, and both that KL and the versions
beside it are chosen without a look at rewards. The largest KL that a path ever has may be that of a version which
training left again, worse at more KL than what came after; the best of all versions (the frontier) would be chosen by
the rewards that are compared, and favour whoever's vary more.
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


def passed(path: Sequence[Point], kl: float) -> Floats | None:
    """Each prompt's reward where a path last passed a KL, see `at_kl`; None where it began above or ended below.

    A path may turn back: a version that went too far, and was left again, lies beyond its end. Between the last version
    at or below the KL and the one after it lies the policy with which training went on for good.

    Args:
        path: points of one method in the order of training, the start first.
        kl: see `at_kl`.
    """
    below = [at for at, point in enumerate(path) if max(point.kl, 0.0) <= max(kl, 0.0)]
    return at_kl(path[below[-1] : below[-1] + 2], kl) if below else None


def least_end(paths: Sequence[Sequence[Point]]) -> float:
    """KL at which paths are compared: that of the one that ended closest to the start; at least 0."""
    return max(min(path[-1].kl for path in paths), 0.0)


@dataclass(frozen=True)
class AtEqualKl:
    """Two methods where both have moved equally far.

    Args:
        kl: nats per response at which they are compared: the least at which a seed of either ended.
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
    """Compare two methods at the KL where the seed that moved least ended; None where a path never was so close.

    Each seed has its own path and its own reward at that KL: a mean path would take the seeds for certain.

    Args:
        one: of each seed of a method, its points on some prompts, in the order of training.
        other: of each seed of the other, on the same prompts.
        confidence: coverage, in (0, 1).
        samples: bootstrap resamples.
    """
    kl = least_end([*one, *other])
    sides = []
    for paths in (one, other):
        ends = [passed(path, kl) for path in paths]
        known = [end for end in ends if end is not None]
        if len(known) < len(ends):
            return None
        sides.append(np.stack(known))
    found = difference_over_seeds(*sides, confidence=confidence, samples=samples)
    return AtEqualKl(kl, found.interval, found.p, found.p, found.detectable, found.seeds)
