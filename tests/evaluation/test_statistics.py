"""Intervals and tests over prompts: literals, properties, and what is said where nothing can be told."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from raypo.evaluation.statistics import (
    Interval,
    combine_seeds,
    correlation,
    correlation_interval,
    detectable,
    mean_interval,
    paired_test,
    power,
    prompt_means,
    ratio_interval,
)

NAN = math.nan
FINITE = st.floats(-1e6, 1e6, allow_nan=False)


def interval(values: list[float], **changes: float) -> Interval:
    return mean_interval(np.array(values), **({"confidence": 0.95, "samples": 300} | changes))


def test_a_prompts_mean_is_over_its_finite_values() -> None:
    """(1 + 2) / 2; (4) / 1 beside None, NaN and infinity; nothing finite; no response."""
    found = prompt_means([[1.0, 2.0], [4.0, None, NAN, math.inf], [None, NAN], []])
    assert found[:2].tolist() == [1.5, 4.0]
    assert np.isnan(found[2:]).all()


def test_the_mean_is_over_prompts_and_unmeasured_ones_are_left_out() -> None:
    """(1 + 2 + 6) / 3 = 3."""
    found = interval([1.0, NAN, 2.0, 6.0])
    assert (found.mean, found.n) == (3.0, 3)
    assert 1.0 <= found.low < 3.0 < found.high <= 6.0


@pytest.mark.parametrize(("values", "n"), [([], 0), ([NAN], 0), ([2.0], 1), ([2.0, NAN], 1)])
def test_fewer_than_two_prompts_tell_no_interval(values: list[float], n: int) -> None:
    found = interval(values)
    assert found.n == n
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert not found.excludes_zero


def test_a_constant_has_itself_as_interval() -> None:
    assert interval([0.1, 0.1, 0.1]) == Interval(0.1, 0.1, 0.1, 3)


@settings(max_examples=60)
@given(st.lists(FINITE, min_size=2, max_size=8))
def test_an_interval_is_finite_ordered_and_within_the_values(values: list[float]) -> None:
    """A mean of resampled values cannot leave their range; no warning of the library either (warnings are errors)."""
    found = interval(values)
    slack = 1e-9 * max(1.0, max(map(abs, values)))
    assert min(values) - slack <= found.low <= found.high <= max(values) + slack
    assert min(values) - slack <= found.mean <= max(values) + slack


@settings(max_examples=30)
@given(st.lists(st.integers(-50, 50), min_size=3, max_size=8), st.integers(-64, 64), st.sampled_from([0.25, 2.0, 8.0]))
def test_an_interval_moves_and_stretches_with_the_values(values: list[int], shift: int, scale: float) -> None:
    """Interval of a x + b = a (interval of x) + b, for a > 0: the same resamples are drawn."""
    plain, moved = interval([float(v) for v in values]), interval([scale * v + shift for v in values])
    for before, after in ((plain.mean, moved.mean), (plain.low, moved.low), (plain.high, moved.high)):
        assert after == pytest.approx(scale * before + shift, abs=1e-6)


@settings(max_examples=30)
@given(st.lists(FINITE, min_size=2, max_size=12))
def test_more_confidence_is_never_a_narrower_interval(values: list[float]) -> None:
    narrow, wide = interval(values, confidence=0.5), interval(values, confidence=0.95)
    slack = 1e-9 * max(1.0, max(map(abs, values)))
    assert wide.low <= narrow.low + slack
    assert wide.high >= narrow.high - slack


def test_the_paired_test_counts_sign_flips() -> None:
    """Differences 1, 2, 3: of the 8 sign patterns +++ and --- have a mean as extreme as 2: 2 / 8.

    Differences 1, 1, 1, 1, -1: of 32 patterns those with a sum of at least 3 in size have at most one sign against
    the rest: 2 (1 + 5) = 12; 12 / 32.
    """
    assert paired_test(np.array([1.0, 2.0, 3.0])) == pytest.approx(2 / 8)
    assert paired_test(np.array([1.0, 1.0, 1.0, 1.0, -1.0])) == pytest.approx(12 / 32)


def test_nothing_can_be_told_without_two_differences() -> None:
    for values in ([], [3.0], [NAN, 3.0], [0.0, 0.0, 0.0]):
        assert paired_test(np.array(values)) == 1.0


@settings(max_examples=30)
@given(st.lists(st.integers(-9, 9), min_size=2, max_size=9))
def test_the_paired_test_knows_no_direction_and_no_unit(values: list[int]) -> None:
    p = paired_test(np.array(values, dtype=np.float64))
    assert 0.0 < p <= 1.0
    assert paired_test(-4.0 * np.array(values)) == pytest.approx(p)


def test_rank_correlation() -> None:
    """Ranks 1 2 3 against 1 3 2: 1 - 6 (0 + 1 + 1) / (3 * 8) = 0.5. NaN pairs are left out."""
    a, b = np.array([1.0, 2.0, 30.0, NAN, 5.0]), np.array([1.0, 9.0, 4.0, 2.0, NAN])
    assert correlation(a, b) == pytest.approx(0.5)


@pytest.mark.parametrize(("a", "b"), [([1.0, 2.0], [1.0, 2.0]), ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]), ([], [])])
def test_no_rank_correlation_of_constants_or_of_two(a: list[float], b: list[float]) -> None:
    assert math.isnan(correlation(np.array(a), np.array(b)))
    assert math.isnan(correlation_interval(np.array(a), np.array(b), confidence=0.95, samples=100).low)


def test_the_interval_of_a_correlation_counts_the_pairs_that_were_used() -> None:
    """Five pairs, one with NaN: four."""
    a, b = np.array([1.0, 2.0, 3.0, 4.0, NAN]), np.array([2.0, 1.0, 4.0, 3.0, 0.0])
    found = correlation_interval(a, b, confidence=0.9, samples=200)
    assert found.mean == pytest.approx(0.6)  # 1 - 6 * 4 / (4 * 15)
    assert found.n == 4
    assert -1.0 <= found.low <= 0.6 <= found.high <= 1.0


@pytest.mark.parametrize("values", [[1e6, 1e6 + 1e-9], [0.0, 5e-324], [1e308, -1e308], [0.1 + 0.2, 0.3, 0.3]])
def test_values_at_the_edge_of_what_numbers_can_tell_give_an_interval(values: list[float]) -> None:
    """Differences of rounding only, of the smallest number, and of nearly the largest."""
    found = interval(values)
    assert min(values) <= found.low <= found.high <= max(values)


def test_a_ratio_is_of_sums_and_not_a_mean_of_ratios() -> None:
    """(1 + 6) / (1 + 2) nats per token, not (1 / 1 + 6 / 2) / 2; prompts without tokens count for nothing."""
    found = ratio_interval(np.array([1.0, 6.0, 0.0]), np.array([1.0, 2.0, 0.0]), confidence=0.95, samples=200)
    assert found.mean == pytest.approx(7 / 3)
    assert 1.0 <= found.low <= found.high <= 3.0
    nothing = ratio_interval(np.array([0.0, 0.0]), np.array([0.0, 0.0]), confidence=0.95, samples=200)
    assert math.isnan(nothing.mean)


def test_responses_of_a_prompt_stay_together() -> None:
    """One prompt alone has nothing to resample, however many responses it has."""
    one = correlation_interval([np.arange(9.0)], [np.arange(9.0) ** 2], confidence=0.95, samples=200)
    assert one.mean == 1.0
    assert math.isnan(one.low)
    rng = np.random.default_rng(0)
    base = rng.normal(size=(12, 1)) * [[1.0, 1.0]]
    copies = [np.repeat(row, 20) for row in base[:, 0]]
    alone = correlation_interval(base[:, 0], base[:, 1] + rng.normal(size=12), confidence=0.95, samples=400)
    many = correlation_interval(
        copies, [row + rng.normal() * np.ones(20) for row in copies], confidence=0.95, samples=400
    )
    assert many.high - many.low > 0.5 * (alone.high - alone.low)  # 240 pairs are 12 prompts


def test_the_power_of_the_paired_test() -> None:
    """No effect: the level. An effect of 3 standard errors, n large: P(z > 1.96 - 3) = P(z > -1.04) = 0.851."""
    assert power(0.0, 1.0, 20, confidence=0.95) == pytest.approx(0.05)
    assert power(0.03, 1.0, 10_000, confidence=0.95) == pytest.approx(0.851, abs=1e-3)
    assert power(0.5, 1.0, 1, confidence=0.95) == 0.0
    assert power(0.5, 0.0, 9, confidence=0.95) == 1.0


@pytest.mark.parametrize("n", [2, 3, 10, 64, 500])
def test_what_can_be_detected_has_the_power_that_was_asked_for(n: int) -> None:
    differences = np.random.default_rng(n).normal(size=n)
    found = detectable(differences, confidence=0.95, chance=0.8)
    assert power(found, float(differences.std(ddof=1)), n, confidence=0.95) == pytest.approx(0.8, abs=1e-6)


def test_what_can_be_detected_without_spread_or_without_prompts() -> None:
    assert detectable(np.array([0.5, 0.5, NAN]), confidence=0.95) == 0.0
    assert math.isnan(detectable(np.array([0.5]), confidence=0.95))


def test_seeds_and_prompts_are_both_samples() -> None:
    """Seeds' means 1 and 3, prompts' means 1, 2, 3, nothing beyond: y = seed + prompt - 2.

    MS_seed = 3 ((1 - 2)^2 + (3 - 2)^2) / 1 = 6; MS_prompt = 2 (1 + 0 + 1) / 2 = 2; MS_rest = 0.
    Var(mean) = (6 + 2) / 6 = 4 / 3; df = 8^2 / (36 / 1 + 4 / 2) = 64 / 38; t_{0.975} of that: the interval.
    Spread of seeds: sqrt(6 / 3).
    """
    found = combine_seeds(np.array([[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]]), confidence=0.95)
    half = stats.t.ppf(0.975, 64 / 38) * math.sqrt(4 / 3)
    assert found.interval == Interval(2.0, pytest.approx(2 - half), pytest.approx(2 + half), 3)
    assert found.seeds == 2
    assert found.seed_spread == pytest.approx(math.sqrt(2))
    assert found.p == pytest.approx(2 * stats.t.sf(2 / math.sqrt(4 / 3), 64 / 38))


def test_one_seed_tells_nothing_of_seeds() -> None:
    found = combine_seeds(np.array([[1.0, 2.0, 3.0]]), confidence=0.95)
    assert found.interval.mean == 2.0
    assert math.isnan(found.interval.low)
    assert found.p == 1.0
    gone = combine_seeds(np.array([[1.0, NAN], [NAN, 1.0]]), confidence=0.95)
    assert math.isnan(gone.interval.mean)


def test_seeds_that_agree_in_all_are_certain() -> None:
    assert combine_seeds(np.zeros((3, 4)), confidence=0.95).p == 1.0
    found = combine_seeds(np.full((3, 4), 0.1), confidence=0.95)
    assert found.interval.low == pytest.approx(0.1)
    assert found.p == 0.0
