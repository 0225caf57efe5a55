"""A judge beside the rewards: pairs by hand, and a reward that is log-odds of the judge."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from scipy.special import expit
from test_diagnostics import scored

from raypo.evaluation.verdicts import TOGETHER, AsJudged, Verdicts, as_judged, misjudged


def table(*rewards: float | None) -> pa.Table:
    """One response a prompt."""
    return scored([[one] for one in rewards], [[[1, 2]]] * len(rewards))


def verdicts(first: list[float | None], second: list[float | None]) -> Verdicts:
    return Verdicts([[one] for one in first], [[one] for one in second], [[0.0]] * len(first))


def test_pairs_of_all_policies_by_hand() -> None:
    """a less the start: 1, -1, 0, and the judge takes a each time (the second by 3/4): right, wrong, a tie.

    b less the start: -1, 2, unknown. The judge takes the start, then turns with the order, then does not answer: right,
    and two that say nothing. By prompt (1 + 1) / 2, 0 and 1/2: mean 1/2 of three prompts and four pairs. Differences
    1, -1, 0, -1 told as expit: squares 0.0723, 0.5344, 0.25, 0.0723.
    """
    start = table(1.0, 1.0, 1.0)
    rows = {"a": table(2.0, 0.0, 1.0), "b": table(0.0, 3.0, None)}
    told = {
        "a": verdicts([1.0, 1.0, 1.0], [1.0, 0.5, 1.0]),
        "b": verdicts([0.0, 1.0, None], [0.0, 0.0, 0.0]),
    }
    one = as_judged(rows, start, told, confidence=0.95, samples=200)["watched"]
    assert (one.right.mean, one.right.n, one.pairs) == (pytest.approx(0.5), 3, 4)
    tenfold = [expit(-10.0) ** 2, expit(10.0) ** 2, 0.25, expit(-10.0) ** 2]  # `watched` is ten times the reward
    assert one.brier == pytest.approx(np.mean(tenfold))
    assert as_judged({}, start, {}, confidence=0.95, samples=200) == {}


def test_a_reward_that_is_log_odds_of_the_judge_has_slope_one_within_its_bounds() -> None:
    """600 prompts; the judge takes the first with log-odds of the difference, the same in both orders.

    Right is a pair with chance expit(|d|): 0.74 for d of spread sqrt(2). The other source is noise: a coin, slope 0.
    """
    rng = np.random.default_rng(0)
    ours, theirs, noise = rng.normal(size=(3, 600))
    won = [float(one) for one in rng.random(600) < expit(ours - theirs)]

    def rows(values: np.ndarray, other: np.ndarray) -> pa.Table:
        found = table(*values.tolist())
        sources = [
            [{"name": "odds", "values": [a]}, {"name": "noise", "values": [b]}]
            for a, b in zip(values.tolist(), other.tolist(), strict=True)
        ]
        place = found.schema.get_field_index("reward_values")
        return found.set_column(place, found.schema.field(place), pa.array(sources, found.schema.field(place).type))

    told = as_judged(
        {"a": rows(ours, noise)}, rows(theirs, 0 * noise), {"a": verdicts(won, won)}, confidence=0.95, samples=200
    )
    assert list(told) == ["odds", "noise", TOGETHER]
    odds, other = told["odds"], told["noise"]
    assert odds.right.low < np.mean(expit(np.abs(ours - theirs))) < odds.right.high
    assert odds.slope.low < 1.0 < odds.slope.high
    assert odds.slope.high - odds.slope.low < 1.0
    assert other.right.low < 0.5 < other.right.high
    assert other.slope.low < 0.0 < other.slope.high
    assert odds.right == told[TOGETHER].right  # the table's training reward is the first source's
    assert [text.split(" [")[0] for text in misjudged(told)] == [f"reward 'noise' orders {other.right.mean:.0%}"]


def test_a_judge_that_turns_with_the_order_decides_no_pair() -> None:
    rows, start = {"a": table(2.0, 0.0)}, table(1.0, 1.0)
    one = as_judged(rows, start, {"a": verdicts([1.0, 1.0], [0.0, 0.0])}, confidence=0.95, samples=200)["watched"]
    assert (one.pairs, one.right.n) == (0, 0)
    assert math.isnan(one.right.mean)
    assert misjudged({"watched": one}) == []
    assert isinstance(one, AsJudged)
