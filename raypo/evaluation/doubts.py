"""Whether the size of rewards can be trusted, from rewards alone and a few audited pairs, before anything trains.

W-MPO and every objective that needs scalar rewards reads how much better a response is; a contrast reads at most the
order. Each doubt below is a way in which rewards mislead one of them (measured by the study `calibration`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy import stats

from raypo.evaluation.diagnostics import HACKED_CORRELATION, by_source
from raypo.evaluation.inputs import Values, deviations
from raypo.evaluation.significance import Floats
from raypo.evaluation.statistics import correlation

SKEWED = 1.0
"""Skewness of rewards within sets: an exponential's is 2, a symmetric law's 0."""

TAIL = 0.06
"""Share of all distance from the mean that the farthest hundredth of responses holds: 0.036 for a normal law."""

RIGHT = 0.65
"""Share of audited pairs that the reward orders as the judge does; a coin has 0.5."""


@dataclass(frozen=True)
class Doubts:
    """Figures and what they mean.

    Args:
        skew: of rewards less their set's mean.
        tail: share of all distance from the mean that the farthest 1 % of responses hold; NaN below 100 responses.
        length: mean over sets of the rank correlation of reward and length; NaN without lengths.
        right: share of audited pairs that the reward orders rightly, ties a half; NaN without an audit.
        warnings: sentences; empty where nothing is doubted.
    """

    skew: float
    tail: float
    length: float
    right: float
    warnings: tuple[str, ...]


def doubts(
    rewards: Values,
    lengths: list[Floats] | None = None,
    difference: Floats | None = None,
    verdict: Floats | None = None,
) -> Doubts:
    """What speaks against trusting the size, or the order, of rewards.

    Args:
        rewards: per prompt and response; None where a response has none.
        lengths: of the responses, in any unit, per prompt.
        difference: audited pairs: reward of one response less that of the other.
        verdict: of the same pairs: 1 where a trusted judge prefers the first, 0 the second, 1/2 a tie.

    Returns:
        figures that cannot be computed are NaN and raise no doubt.
    """
    whole = np.concatenate([part for part in deviations(rewards) if len(part) > 1] or [np.empty(0)])
    apart = len(whole) > 2 and np.ptp(whole) > 0
    skew = float(stats.skew(whole)) if apart else math.nan
    far = np.sort(np.abs(whole))[::-1]
    tail = float(far[: len(far) // 100].sum() / far.sum()) if apart and len(far) >= 100 else math.nan
    length = math.nan
    if lengths is not None:
        known = [[math.nan if v is None else v for v in row] for row in rewards]
        each = [correlation(np.array(row, dtype=np.float64), at) for row, at in zip(known, lengths, strict=True)]
        length = float(np.nanmean(each)) if np.isfinite(each).any() else math.nan
    right = math.nan
    if difference is not None and verdict is not None and len(difference):
        right = float(np.mean(1 - np.abs((np.sign(difference) + 1) / 2 - verdict)))
    return Doubts(skew, tail, length, right, _warnings(skew, tail, length, right))


def doubts_of_table(annotated: pa.Table) -> dict[str, tuple[str, ...]]:
    """What is doubted of each reward source of a round's sets, by its name; no pairs are audited there.

    Args:
        annotated: records.ANNOTATED.
    """
    lengths = [np.array(row, dtype=np.float64) for row in annotated["response_lengths"].to_pylist()]
    return {name: doubts(values, lengths).warnings for name, values in by_source(annotated).items()}


def _warnings(skew: float, tail: float, length: float, right: float) -> tuple[str, ...]:
    told = []
    if abs(skew) > SKEWED:
        told.append(f"rewards are skewed ({skew:+.1f}): the mean lies off the middle, and few responses weigh most")
    if tail > TAIL:
        told.append(f"the farthest hundredth of responses holds {tail:.0%} of all distance from the mean: outliers")
    if length > HACKED_CORRELATION:
        told.append(f"reward follows length (rank correlation {length:.2f})")
    if right < RIGHT:
        told.append(f"the reward orders only {right:.0%} of audited pairs as the judge does")
    return tuple(told)
