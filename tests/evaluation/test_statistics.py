"""Intervals and tests over prompts: literals, properties, and what is said where nothing can be told."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from raypo.evaluation.intervals import AMOUNT, EVERYWHERE, SHARE, Interval
from raypo.evaluation.seeds import combine_seeds
from raypo.evaluation.significance import (
    attainable,
    detectable,
    detectable_by_t,
    holm,
    paired_test,
    power,
    power_by_t,
)
from raypo.evaluation.statistics import correlation, correlation_interval, mean_interval, prompt_means, ratio_interval

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
    """(1 + 2 + 6) / 3 = 3. Spread sqrt((4 + 1 + 9) / 2), error sqrt(7 / 3) = 1.528, t of 2 is 4.303: 3 -+ 6.572."""
    found = interval([1.0, NAN, 2.0, 6.0])
    assert (found.mean, found.n) == (3.0, 3)
    assert (found.low, found.high) == (pytest.approx(-3.572, abs=1e-3), pytest.approx(9.572, abs=1e-3))


def test_what_a_figure_cannot_be_is_cut_off_its_interval() -> None:
    """Shares 0.9, 1, 0.8: 0.9 -+ 4.303 * 0.1 / sqrt(3) = 0.652 to 1.148, of which a share can be at most 1."""
    found = mean_interval(np.array([0.9, 1.0, 0.8]), confidence=0.95, samples=300, within=SHARE)
    assert (found.low, found.high) == (pytest.approx(0.6516, abs=1e-4), 1.0)


def test_ten_prompts_and_more_are_resampled() -> None:
    """Student's interval is symmetric, the bootstrap's follows the values: of one 9 and nine 0 it goes further up."""
    few, many = interval([9.0] + [0.0] * 8), interval([9.0] + [0.0] * 9)
    assert few.mean - few.low == pytest.approx(few.high - few.mean)
    assert many.high - many.mean > 1.5 * (many.mean - many.low)
    assert many.low >= 0.0


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
@given(st.lists(FINITE, min_size=10, max_size=16))
def test_an_interval_is_finite_ordered_and_within_the_values(values: list[float]) -> None:
    """A mean of resampled values cannot leave their range; no warning of the library either (warnings are errors)."""
    found = interval(values)
    slack = 1e-9 * max(1.0, max(map(abs, values)))
    assert min(values) - slack <= found.low <= found.high <= max(values) + slack
    assert min(values) - slack <= found.mean <= max(values) + slack


@settings(max_examples=30)
@given(st.lists(st.integers(-50, 50), min_size=3, max_size=12), st.integers(-64, 64), st.sampled_from([0.25, 2.0, 8.0]))
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
@pytest.mark.parametrize("times", [1, 5])
def test_values_at_the_edge_of_what_numbers_can_tell_give_an_interval(values: list[float], times: int) -> None:
    """Differences of rounding only, of the smallest number, and of nearly the largest.

    Student's bounds may be infinite; five times two or three values are resampled, and so stay within them.
    """
    found = interval(values * times)
    assert found.low <= found.mean <= found.high
    if times == 5:
        assert min(values) <= found.low <= found.high <= max(values)


def test_a_ratio_is_of_sums_and_not_a_mean_of_ratios() -> None:
    """(1 + 6) / (1 + 2) nats per token, not (1 / 1 + 6 / 2) / 2; prompts without tokens count for nothing.

    Without one prompt in turn: 3, 1, 7 / 3, of mean 19 / 9: error sqrt(2 / 3 (64 + 100 + 4) / 81) = 1.176; times
    4.303: 7 / 3 -+ 5.060.
    """
    given = np.array([1.0, 6.0, 0.0]), np.array([1.0, 2.0, 0.0])
    found = ratio_interval(*given, confidence=0.95, samples=200)
    assert found.mean == pytest.approx(7 / 3)
    assert (found.low, found.high) == (pytest.approx(-2.726, abs=1e-3), pytest.approx(7.393, abs=1e-3))
    assert ratio_interval(*given, confidence=0.95, samples=200, within=AMOUNT).low == 0.0
    many = ratio_interval(*(np.tile(one, 4) for one in given), confidence=0.95, samples=200)
    assert 1.0 <= many.low <= many.high <= 3.0
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
    """No effect: the level. 3 standard errors, n large, at 4.96 %: P(z > 1.9633 - 3) = P(z > -1.0367) = 0.850."""
    assert power(0.0, 1.0, 20, confidence=0.95) == pytest.approx(124 / 2500)
    assert power(0.03, 1.0, 10_000, confidence=0.95) == pytest.approx(0.850, abs=1e-3)
    assert power(0.5, 1.0, 1, confidence=0.95) == 0.0
    assert power(0.5, 0.0, 9, confidence=0.95) == 1.0


@pytest.mark.parametrize(("n", "least"), [(2, 0.5), (3, 0.25), (4, 0.125), (5, 0.0625)])
def test_where_the_test_can_find_nothing_no_power_is_claimed(n: int, least: float) -> None:
    """The least p-value of n sign flips is 2 / 2^n; up to 5 it is above 5 %."""
    differences = 100.0 + np.arange(n)
    assert paired_test(differences) == least
    assert power(100.0, 1.0, n, confidence=0.95) == 0.0
    assert power(100.0, 0.0, n, confidence=0.95) == 0.0
    assert math.isnan(detectable(differences, confidence=0.95))
    assert power(100.0, 1.0, n, confidence=1 - 1.001 * least) == pytest.approx(1.0)


def test_the_level_of_few_sign_flips_is_one_that_they_have() -> None:
    """p-values are multiples of 2^(1 - n): 1 / 32 of 6, 3 / 64 of 7, 0.05 * 2048 = 102.4 so 102 / 2048 of 12."""
    assert [attainable(0.95, n) for n in (5, 6, 7, 12)] == [0.0, 1 / 32, 3 / 64, 102 / 2048]
    # 2,500 steps: 125 of them are 5 %, and not below; of 76 tests together 5 % / 76 = 1.6 of them, of 125 just one
    assert [attainable(0.95, 13), attainable(0.9, 40)] == [124 / 2500, 249 / 2500]
    assert [attainable(1 - 0.05 / tests, 40) for tests in (76, 124, 125)] == [1 / 2500, 1 / 2500, 0.0]


def test_what_is_attainable_is_what_holms_finds_of_so_many() -> None:
    """The least p, 1 / 2500: 124 times it is 0.0496, 125 times it is 0.05, and 5 % asks for less."""
    least = paired_test(np.full(40, 1.0) + np.arange(40) / 100)
    assert least == 1 / 2500
    assert [holm([least] * tests)[0] < 0.05 for tests in (124, 125)] == [True, False]


def test_more_patterns_have_smaller_p_values_and_memory_does_not_change_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 differences have 2^16 patterns, two of which are as far off; of 40 the least is 2 / 100,000, 50,000 steps."""
    assert paired_test(np.arange(1.0, 17.0), resamples=99_999) == 2**-15
    assert paired_test(np.full(40, 1.0), resamples=99_999) == pytest.approx(2e-5)
    assert attainable(1 - 0.05 / 125, 40, resamples=99_999) == 19 / 50_000
    assert attainable(0.95, 16, resamples=99_999) == 1638 / 2**15
    values = np.random.default_rng(0).normal(0.2, 1.0, 40)
    told = paired_test(values)
    monkeypatch.setattr("raypo.evaluation.significance.AT_ONCE", 1)
    assert paired_test(values) == told
    assert power(0.5, 1.0, 40, confidence=1 - 0.05 / 125) == 0.0
    assert power(0.5, 1.0, 40, confidence=1 - 0.05 / 125, resamples=99_999) > 0.2
    assert detectable(values, confidence=1 - 0.05 / 125, resamples=99_999) > 0


def test_no_effect_is_found_as_often_as_the_level_of_six() -> None:
    assert power(0.0, 1.0, 6, confidence=0.95) == pytest.approx(1 / 32)


def test_the_power_of_few_prompts_is_what_the_test_has() -> None:
    """Effect of 1.5 spreads, 7 prompts: the t distribution says 0.900 at 3 / 64; all 400 draws are counted."""
    found = [paired_test(1.5 + np.random.default_rng([6, one]).normal(size=7)) < 0.05 for one in range(400)]
    assert power(1.5, 1.0, 7, confidence=0.95) == pytest.approx(0.900, abs=1e-3)
    assert np.mean(found) == pytest.approx(0.9, abs=0.05)


@pytest.mark.parametrize(("degrees", "expected"), [(1.0, 16.0), (2.0, 5.6), (1000.0, 2.80)])
def test_what_a_t_test_can_detect(degrees: float, expected: float) -> None:
    """Many degrees: 1.96 + 0.84 = 2.80 errors. One degree: 12.7 errors are passed in 80 % only by an effect of 16."""
    found = detectable_by_t(2.0, degrees, confidence=0.95)
    assert found / 2.0 == pytest.approx(expected, rel=0.03)
    assert power_by_t(found, 2.0, degrees, confidence=0.95) == pytest.approx(0.8, abs=1e-6)
    assert detectable_by_t(0.0, degrees, confidence=0.95) == 0.0


@pytest.mark.parametrize("n", [6, 10, 64, 500])
def test_what_can_be_detected_has_the_power_that_was_asked_for(n: int) -> None:
    differences = np.random.default_rng(n).normal(size=n)
    found = detectable(differences, confidence=0.95, chance=0.8)
    assert power(found, float(differences.std(ddof=1)), n, confidence=0.95) == pytest.approx(0.8, abs=1e-6)


def test_what_can_be_detected_without_spread_or_without_prompts() -> None:
    assert detectable(np.array([0.5] * 6 + [NAN]), confidence=0.95) == 0.0
    assert math.isnan(detectable(np.array([0.5, 0.5, NAN]), confidence=0.95))
    assert math.isnan(detectable(np.array([0.5]), confidence=0.95))


def test_seeds_and_prompts_are_both_samples() -> None:
    """Seeds' means 1 and 3, prompts' means 1, 2, 3, nothing beyond: y = seed + prompt - 2.

    MS_seed = 3 ((1 - 2)^2 + (3 - 2)^2) / 1 = 6; MS_prompt = 2 (1 + 0 + 1) / 2 = 2; MS_rest = 0.
    Var(mean) = (6 + 2) / 6 = 4 / 3; df = 8^2 / (36 / 1 + 4 / 2) = 64 / 38: 2 -+ 6.0. The seeds alone, 1 and 3, have the
    error sqrt(6 / 6) and one degree: 2 -+ 12.706, which is wider. p = 2 (1/2 - atan(2) / pi) = 0.295.
    Spread of seeds: sqrt(6 / 3).
    """
    found = combine_seeds(np.array([[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]]), confidence=0.95)
    assert found.interval == Interval(2.0, pytest.approx(-10.706, abs=1e-3), pytest.approx(14.706, abs=1e-3), 3)
    assert found.seeds == 2
    assert found.seed_spread == pytest.approx(math.sqrt(2))
    assert found.p == pytest.approx(1 - 2 * math.atan(2) / math.pi)
    assert (found.error, found.degrees) == (pytest.approx(1.0), 1.0)
    assert found.detectable == pytest.approx(detectable_by_t(1.0, 1.0, confidence=0.95))


def test_both_factors_together_may_be_the_widest() -> None:
    """y = seed + prompt with seeds -2, -1, 0, 1, 2 and prompts as many times 2 and 1: MS_rest = 0.

    Var by seeds 2.5 / 5 = 0.5, by prompts 10 / 5 = 2; both 2.5, df = 2.5^2 / (0.25 / 4 + 4 / 4) = 5.88.
    Half widths: t_{5.88} sqrt(2.5) = 3.89, and t_4 sqrt(2) = 3.93 of the prompts alone. Of twenty prompts, each of the
    five four times: 4 * 40 / 19 / 20 = 0.421 by prompts, 0.921 of both, which is the widest.
    """
    seeds, prompts = np.arange(-2.0, 3.0), 2.0 * np.arange(-2.0, 3.0)
    found = combine_seeds(seeds[:, None] + prompts[None, :], confidence=0.95)
    assert (found.error, found.degrees) == (pytest.approx(math.sqrt(2.0)), 4.0)
    more = combine_seeds(seeds[:, None] + np.tile(prompts, 4)[None, :], confidence=0.95)
    shared = 4 * 40 / 19 / 20
    total = 0.5 + shared
    assert more.error == pytest.approx(math.sqrt(total))
    assert more.degrees == pytest.approx(total**2 / (0.25 / 4 + shared**2 / 19))
    half = stats.t.ppf(0.975, more.degrees) * more.error
    assert more.interval.high == pytest.approx(half)


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


def test_prompts_that_are_all_at_an_end_have_an_interval_all_the_same() -> None:
    """Of 10 wins of 10 the share is at least 0.025^(1/10) = 0.6915; of [-1/2, 1/2] as far along. Inside: no more."""
    options = {"confidence": 0.95, "samples": 50}
    won = mean_interval(np.ones(10), **options, within=SHARE)
    assert (won.low, won.high) == (pytest.approx(0.6915, abs=1e-4), 1.0)
    lost = mean_interval(np.zeros(10), **options, within=SHARE)
    assert (lost.low, lost.high) == (0.0, pytest.approx(0.3085, abs=1e-4))
    biased = mean_interval(np.full(10, 0.5), **options, within=(-0.5, 0.5))
    assert (biased.low, biased.high) == (pytest.approx(0.1915, abs=1e-4), 0.5)
    for values, within in ((np.full(10, 0.5), SHARE), (np.zeros(10), AMOUNT), (np.ones(10), EVERYWHERE)):
        one = mean_interval(values, **options, within=within)
        assert one.low == one.mean == one.high


def test_the_interval_of_prompts_at_an_end_covers_as_often_as_it_says() -> None:
    """A policy that wins 95 % of prompts wins all of 20 with chance 0.36. [1, 1] would miss the truth each time."""
    rng, held = np.random.default_rng(0), []
    for _ in range(400):
        values = (rng.random(20) < 0.95).astype(float)
        found = mean_interval(values, confidence=0.95, samples=200, within=SHARE)
        held.append(found.low <= 0.95 <= found.high)
    assert np.mean(held) >= 0.93


def test_a_share_is_told_in_percent() -> None:
    assert Interval(0.625, 0.5, 0.75, 9).percent() == "62% [50%, 75%]"
    assert Interval(1.0, NAN, NAN, 1).percent() == "100%"
