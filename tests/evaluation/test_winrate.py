"""Win shares per prompt: literals and symmetries."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypo.evaluation.significance import detectable
from raypo.evaluation.winrate import judged, win_shares

NAN = math.nan
ROWS = st.lists(st.sampled_from([0.0, 1.0, 2.0, None, NAN]), min_size=1, max_size=5)


def test_every_pair_counts_once_and_a_tie_half() -> None:
    """(2 against 1, 2), (0 against 1, 2): wins 1, tie 1, losses 2: 1.5 / 4. One clear win: 1 / 1."""
    assert win_shares([[2.0, 0.0], [5.0]], [[1.0, 2.0], [4.0]]).tolist() == [0.375, 1.0]


def test_responses_without_a_reward_are_in_no_pair() -> None:
    """3 beats 1: 1 / 1. Nothing against 1: not known."""
    found = win_shares([[3.0, None, NAN], [None]], [[1.0, NAN], [1.0]])
    assert found[0] == 1.0
    assert math.isnan(found[1])


def test_prompts_must_be_the_same() -> None:
    with pytest.raises(ValueError, match="shorter"):
        win_shares([[1.0], [2.0]], [[1.0]])


@given(ROWS, ROWS)
def test_the_shares_of_the_two_sides_add_to_one(mine: list[float | None], theirs: list[float | None]) -> None:
    ours, other = win_shares([mine], [theirs])[0], win_shares([theirs], [mine])[0]
    assert (np.isnan(ours) and np.isnan(other)) or ours + other == pytest.approx(1.0)


@given(ROWS.filter(lambda row: any(v is not None and math.isfinite(v) for v in row)))
def test_a_policy_wins_half_against_itself(row: list[float | None]) -> None:
    assert win_shares([row], [row])[0] == 0.5


def test_verdicts_of_both_orders() -> None:
    """Prompt 1: (1, 1) and (1, 0): preferences 1 and 1/2. Prompt 2: (1/2, 1/2) and one unanswered: 1/2.

    Win rate (3/4 + 1/2) / 2 = 5/8. Ties (1/2 + 1) / 2. First place: in pair 2 it won both times: (1 - 0) / 2, so
    prompt 1 has (0 + 1/2) / 2 = 1/4, prompt 2 has 0: 1/8. Turned: 1/2 and 0: 1/4. Unanswered: 1 of 4.
    """
    found = judged([[1.0, 1.0], [0.5, None]], [[1.0, 0.0], [0.5, 1.0]], confidence=0.95, samples=100)
    means = (found.win_rate.mean, found.tie_rate.mean, found.position_bias.mean, found.turned.mean)
    assert means == (0.625, 0.75, 0.125, 0.25)
    assert (found.unanswered, found.pairs) == (0.25, 4)


def test_a_judge_that_always_takes_the_first_place_has_a_bias_of_one_half() -> None:
    found = judged([[1.0]] * 5, [[0.0]] * 5, confidence=0.95, samples=100)
    assert (found.win_rate.mean, found.position_bias.mean, found.turned.mean, found.p) == (0.5, 0.5, 1.0, 1.0)


def test_the_win_rate_by_a_judge_has_a_test_and_what_it_could_find() -> None:
    """Preferences 1, 1, 1, 1, 1, 1/2, 1/2, 1/2 less 1/2: of 2^5 patterns of the five that count two are as extreme.

    Spread of five halves and three zeros: sqrt(1/4 * 15/64 * 8/7) = 0.2588, error 0.0915; 3 to 4 errors are found.
    """
    first = [[1.0]] * 8
    second = [[1.0]] * 5 + [[0.0]] * 3
    found = judged(first, second, confidence=0.95, samples=100)
    assert found.p == pytest.approx(2 / 32)
    spread = np.array([0.5] * 5 + [0.0] * 3)
    assert found.detectable == detectable(spread, confidence=0.95)
    assert 0.2588 / np.sqrt(8) * 3 < found.detectable < 0.2588 / np.sqrt(8) * 4
    assert found.win_rate.high <= 1.0


def test_a_judge_that_never_answered_tells_nothing() -> None:
    found = judged([[None]], [[1.0]], confidence=0.95, samples=100)
    assert math.isnan(found.win_rate.mean)
    assert found.unanswered == 1.0
