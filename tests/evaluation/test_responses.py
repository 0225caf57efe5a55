"""Variety, the best of n and ties: literals with their arithmetic, and properties."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypo.evaluation.intervals import SHARE, constant_interval
from raypo.evaluation.responses import best_of, distinct_2, distinct_within, n_grams, self_similarity, tied_pairs
from raypo.evaluation.statistics import mean_interval

REWARDS = st.lists(st.integers(-20, 20).map(float), min_size=1, max_size=7)
IDS = st.lists(st.lists(st.integers(0, 3), max_size=6), min_size=1, max_size=4)


def test_n_grams_of_short_responses() -> None:
    assert n_grams([1, 2, 3], 2) == [(1, 2), (2, 3)]
    assert n_grams([1], 2) == []


def test_distinct_pairs_over_all_and_within_a_prompt() -> None:
    """Pairs 12 23, 12; 12: one prompt has 2 distinct of 3, the other 1 of 1; over both 2 of 4."""
    rows = [[[1, 2, 3], [1, 2]], [[1, 2]]]
    assert distinct_2(rows) == 0.5
    assert distinct_within(rows, 2) == pytest.approx([2 / 3, 1.0])
    assert distinct_within(rows, 1) == pytest.approx([3 / 5, 1.0])  # tokens 1 2 3 1 2
    assert math.isnan(distinct_2([[[1]]]))
    assert np.isnan(distinct_within([[[1]], [[]]], 2)).all()


def test_likeness_is_the_mean_cosine_of_pairs() -> None:
    """Counts (12: 1, 23: 1), (12: 1), (45: 1): cosines 1 / sqrt(2), 0, 0: mean 0.2357."""
    assert self_similarity([[[1, 2, 3], [1, 2], [4, 5]]])[0] == pytest.approx(math.sqrt(0.5) / 3)
    assert self_similarity([[[1, 2], [1, 2]]])[0] == pytest.approx(1.0)
    assert np.isnan(self_similarity([[[1, 2]], [[1, 2], [3]], [[], []]])).all()


@given(IDS)
def test_variety_is_a_share(row: list[list[int]]) -> None:
    for found in (distinct_within([row], 1)[0], distinct_within([row], 2)[0], self_similarity([row])[0]):
        assert math.isnan(found) or 0 <= found <= 1


def test_identical_responses_are_exactly_alike() -> None:
    """Counts 12: 2, 21: 1: 5 / sqrt(5 * 5) = 1, where sqrt(5)^2 is 5 + 9e-16. All of 20 prompts are at the end of a
    share, so that others may have missed the sample: the least is 0.025^(1 / 20) = 0.8316."""
    alike = self_similarity([[[1, 2, 1, 2]] * 2] * 20)
    assert alike.tolist() == [1.0] * 20
    found = mean_interval(alike, confidence=0.95, samples=50, within=SHARE)
    assert (found.mean, found.low, found.high) == (1.0, pytest.approx(0.8316, abs=1e-4), 1.0)


@pytest.mark.parametrize("value", [1.0, 1 + 2.3e-16, 1 - 1.2e-16])
def test_an_end_is_an_end_but_for_rounding(value: float) -> None:
    """0.025^(1 / 2) = 0.1581; a share of 0.9 is no end, and tells nothing of others."""
    found = constant_interval(value, 2, confidence=0.95, within=SHARE)
    assert (found.mean, found.low, found.high) == (1.0, pytest.approx(0.1581, abs=1e-4), 1.0)
    inner = constant_interval(0.9, 2, confidence=0.95, within=SHARE)
    assert (inner.low, inner.high) == (0.9, 0.9)


def test_the_best_of_n_is_over_all_subsets() -> None:
    """Rewards 1, 2, 4. Of one: 7 / 3. Of two: (2 + 4 + 4) / 3. Of three: 4. Of four: not known."""
    rewards = [[4.0, 1.0, 2.0]]
    assert [best_of(rewards, n)[0] for n in (1, 2, 3)] == pytest.approx([7 / 3, 10 / 3, 4.0])
    assert math.isnan(best_of(rewards, 4)[0])
    assert best_of([[4.0, None, math.nan, 1.0, 2.0]], 2)[0] == pytest.approx(10 / 3)


@given(REWARDS, st.integers(1, 7))
def test_the_best_of_n_is_the_mean_maximum_of_all_subsets_counted_one_by_one(row: list[float], n: int) -> None:
    if n <= len(row):
        expected = np.mean([max(chosen) for chosen in itertools.combinations(row, n)])
        assert best_of([row], n)[0] == pytest.approx(expected, abs=1e-9)


def test_the_best_of_n_has_no_bias() -> None:
    """Uniform rewards: the best of 3 is 3 / 4 on average; the best three of ten draws say so, and the plain maximum of
    ten, 10 / 11, does not."""
    rows = np.random.default_rng(0).random((4000, 10)).tolist()
    assert float(best_of(rows, 3).mean()) == pytest.approx(0.75, abs=0.006)


@given(REWARDS)
def test_more_to_choose_from_is_never_worse(row: list[float]) -> None:
    curve = [best_of([row], n)[0] for n in range(1, len(row) + 1)]
    assert curve[0] == pytest.approx(np.mean(row), abs=1e-9)
    assert curve[-1] == pytest.approx(max(row), abs=1e-9)
    assert (np.diff(curve) >= -1e-9).all()


def test_tied_pairs() -> None:
    """1 1 2: one of three pairs; 1 1 1: all; 1 2: none; one known reward: not known."""
    found = tied_pairs([[1.0, 1.0, 2.0], [1.0, 1.0, 1.0], [1.0, 2.0], [1.0, None]])
    assert found[:3] == pytest.approx([1 / 3, 1.0, 0.0])
    assert math.isnan(found[3])
