"""Win rates by reward and by a judge, paired by prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raypo.evaluation.intervals import SHARE, Interval
from raypo.evaluation.significance import Floats, detectable, paired_test
from raypo.evaluation.statistics import mean_interval


def win_shares(policy: Sequence[Sequence[float | None]], other: Sequence[Sequence[float | None]]) -> Floats:
    """Per prompt: the share of all pairs (own response, other's response) that the own one wins, a tie counting half.

    Args:
        policy: rewards per prompt and response.
        other: the other policy's, for the same prompts in the same order.

    Returns:
        one number in [0, 1] per prompt; NaN where either side has no finite reward.
    """
    shares = []
    for mine, theirs in zip(policy, other, strict=True):
        a = np.array([v for v in mine if v is not None and math.isfinite(v)])[:, None]
        b = np.array([v for v in theirs if v is not None and math.isfinite(v)])[None, :]
        if a.size == 0 or b.size == 0:
            shares.append(math.nan)
        else:
            shares.append(float(((a > b) + 0.5 * (a == b)).mean()))
    return np.array(shares, dtype=np.float64)


@dataclass(frozen=True)
class Judged:
    """What a judge said of a policy against another, over prompts.

    Tested is the win rate; ties, position bias and turned verdicts describe the judge, and their intervals tell enough.

    Args:
        win_rate: mean preference of both orders, ties half. A prompt's pairs are averaged first.
        p: p-value that it is one half, paired by prompt.
        detectable: smallest true distance from one half that would have been found four times in five.
        tie_rate: pairs whose preference is exactly one half, of those with a preference.
        position_bias: how much more often the first place wins than one half, in [-1/2, 1/2].
        turned: pairs whose verdict names another winner in the other order.
        unanswered: pairs without a verdict in both orders, of all.
        pairs: all.
    """

    win_rate: Interval
    p: float
    detectable: float
    tie_rate: Interval
    position_bias: Interval
    turned: Interval
    unanswered: float
    pairs: int


def judged(
    ours_first: Sequence[Sequence[float | None]],
    ours_second: Sequence[Sequence[float | None]],
    *,
    confidence: float,
    samples: int,
) -> Judged:
    """Win rate and position bias from verdicts in both orders.

    Args:
        ours_first: per prompt and pair: 1 for the policy, 0 for the other, 1/2 for a tie, with the policy's response in
            the first place; None without an answer.
        ours_second: the same pairs with the policy's response in the second place.
        confidence: coverage, in (0, 1).
        samples: bootstrap resamples of prompts.
    """
    shares: list[float] = []
    ties: list[float] = []
    bias: list[float] = []
    turned: list[float] = []
    pairs = known = 0
    for row in zip(ours_first, ours_second, strict=True):
        first, second = (np.array([math.nan if v is None else v for v in one], dtype=np.float64) for one in row)
        kept = np.isfinite(first) & np.isfinite(second)
        pairs, known = pairs + len(kept), known + int(kept.sum())
        first, second = first[kept], second[kept]
        if not len(first):
            for column in (shares, ties, bias, turned):
                column.append(math.nan)
            continue
        preference = (first + second) / 2
        shares.append(float(preference.mean()))
        ties.append(float((preference == 0.5).mean()))
        bias.append(float((first - second).mean() / 2))  # first place won: first in one order, 1 - second in the other
        turned.append(float(((first - 0.5) * (second - 0.5) < 0).mean()))

    def interval(values: list[float], within: tuple[float, float] = SHARE) -> Interval:
        return mean_interval(np.array(values, dtype=np.float64), confidence=confidence, samples=samples, within=within)

    beyond = np.array(shares, dtype=np.float64) - 0.5
    return Judged(
        interval(shares),
        paired_test(beyond),
        detectable(beyond, confidence=confidence),
        interval(ties),
        interval(bias, (-0.5, 0.5)),
        interval(turned),
        1 - known / pairs if pairs else math.nan,
        pairs,
    )
