"""A judge's verdicts on policies against the start, and how often each reward orders a pair as the judge does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raypo.evaluation.diagnostics import by_source
from raypo.evaluation.doubts import RIGHT
from raypo.evaluation.inputs import audited_pairs
from raypo.evaluation.intervals import Interval
from raypo.evaluation.length import Duel
from raypo.evaluation.significance import Floats

TOGETHER = "training reward"
"""Name of the weighted sum, where there are several sources."""


@dataclass(frozen=True)
class Verdicts:
    """A judge's words on one policy against the start: per prompt and pair, in both orders.

    Args:
        ours_first: 1 for the policy, 0 for the start, 1/2 for a tie, None without an answer.
        ours_second: the same with the policy's response in the second place.
        longer: characters of the policy's response less those of the start's.
    """

    ours_first: list[list[float | None]]
    ours_second: list[list[float | None]]
    longer: list[list[float]]

    def preferences(self) -> list[Floats]:
        """Per prompt and pair: mean of both orders, in [0, 1]; NaN unless both were answered."""
        return [
            np.array([(a + b) / 2 if a is not None and b is not None else math.nan for a, b in zip(*row, strict=True)])
            for row in zip(self.ours_first, self.ours_second, strict=True)
        ]

    def duel(self) -> Duel:
        """As the length-controlled regression takes it."""
        prompt = [number for number, row in enumerate(self.longer) for _ in row]
        longer = [length for row in self.longer for length in row]
        preference = np.concatenate(self.preferences() or [np.empty(0)])
        return Duel(np.array(prompt, dtype=np.int64), preference, np.array(longer, dtype=np.float64))


@dataclass(frozen=True)
class AsJudged:
    """A reward beside the judge, on the pairs of all policies with the start.

    It describes the reward and is not tested: the interval tells whether it may be a coin. Pairs on which the judge is
    undecided, in one order or by taking the other side in the other, say nothing of the reward and are left out.

    Args:
        right: share of pairs that the reward orders as the judge does, its ties a half; a prompt's pairs are averaged
            first. 1/2 is a coin.
        slope: logits of the judge's preference per unit of reward difference; 1: the difference is log-odds.
        error: expected calibration error of the difference read as log-odds, in [0, 1]; of these very pairs, no bounds.
        brier: mean squared error of the same; a coin has 1/4.
        pairs: compared.
    """

    right: Interval
    slope: Interval
    error: float
    brier: float
    pairs: int


def as_judged(
    rows: Mapping[str, pa.Table], start: pa.Table, verdicts: Mapping[str, Verdicts], *, confidence: float, samples: int
) -> dict[str, AsJudged]:
    """How each reward source orders the judged pairs, and their weighted sum where there are several sources.

    Args:
        rows: records.SCORED of each policy, sorted by prompt id.
        start: the start's, for the same prompts.
        verdicts: of the judge, by policy; of the first responses of each prompt.
        confidence: coverage, in (0, 1).
        samples: bootstrap resamples of prompts.

    Returns:
        by source; nothing without a verdict.
    """
    if not verdicts:
        return {}
    told = {name: one.preferences() for name, one in verdicts.items()}
    before = rewards_of(start)
    mine = {name: rewards_of(rows[name]) for name in told}
    found = {}
    for source, theirs in before.items():
        gaps = [
            np.concatenate(
                [
                    known(mine[name][source][at])[: len(row[at])] - known(other)[: len(row[at])]
                    for name, row in told.items()
                ]
            )
            for at, other in enumerate(theirs)
        ]
        truths = [np.concatenate([row[at] for row in told.values()]) - 0.5 for at in range(len(theirs))]
        one = audited_pairs(gaps, truths, confidence=confidence, samples=samples)
        found[source] = AsJudged(one.right, one.slope, one.calibration.error, one.calibration.brier, one.pairs)
    return found


def rewards_of(rows: pa.Table) -> dict[str, Sequence[Sequence[float | None]]]:
    """Rewards by source, per prompt and response; the weighted sum among them where there are several."""
    found: dict[str, Sequence[Sequence[float | None]]] = {**by_source(rows)}
    return found | ({TOGETHER: rows["rewards"].to_pylist()} if len(found) > 1 else {})


def known(row: Sequence[float | None]) -> Floats:
    """One array; None becomes NaN."""
    return np.array([math.nan if value is None else value for value in row], dtype=np.float64)


def misjudged(found: Mapping[str, AsJudged]) -> list[str]:
    """A warning for each reward that orders too few pairs as the judge does."""
    return [
        f"reward {name!r} orders {one.right.percent()} of pairs as the judge does; a coin has 50%"
        for name, one in found.items()
        if one.right.mean < RIGHT
    ]
