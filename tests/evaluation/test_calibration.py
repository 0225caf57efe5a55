"""A/A: the same policy against itself under other seeds, many times. What is told must be right as often as it says.

Rewards are synthetic and clustered: a prompt's responses share most of what they get. A share of 95 % has a standard
error of 1.5 % over 200 repeats and of 0.7 % over 1,000: the band of 3-7 % would be left by chance once in five tries
with 200, and once in 250 with 1,000, so the main check takes 1,000. CALIBRATION_REPEATS in the environment sets another
number.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from numpy.typing import NDArray

from raypo.evaluation.frontier import Point, at_equal_kl
from raypo.evaluation.seeds import combine_seeds
from raypo.evaluation.significance import paired_test
from raypo.evaluation.significance import power as power_of
from raypo.evaluation.statistics import correlation_interval, mean_interval, prompt_means, ratio_interval
from raypo.evaluation.winrate import win_shares

REPEATS = int(os.environ.get("CALIBRATION_REPEATS", "1000"))
PROMPTS, RESPONSES = 64, 4


def panel(rng: np.random.Generator, base: NDArray[np.float64]) -> list[list[float]]:
    """Rewards of one policy: a prompt's own level (skewed: some prompts pay much more) and noise per response."""
    return (base[:, None] + rng.normal(size=(len(base), RESPONSES))).tolist()


def repeats(share: float = 1.0) -> list[np.random.Generator]:
    return [np.random.default_rng([7, repeat]) for repeat in range(round(share * REPEATS))]


def levels(rng: np.random.Generator) -> NDArray[np.float64]:
    """Mean 0, standard deviation 2: responses of one prompt correlate by 4 / (4 + 1)."""
    return 2.0 * (rng.gamma(4.0, 0.5, PROMPTS) - 2.0)


@pytest.mark.slow
def test_a_policy_against_itself_is_found_better_as_often_as_the_level_says() -> None:
    """5 % of the paired tests, and 95 % of the intervals hold the truth: gain 0, win rate 1/2, mean reward 0."""
    significant, gains, wins, means = [], [], [], []
    for rng in repeats():
        base = levels(rng)
        one, other = panel(rng, base), panel(rng, base)
        gain = prompt_means(one) - prompt_means(other)
        significant.append(paired_test(gain) < 0.05)
        for found, values, truth in (
            (gains, gain, 0.0),
            (wins, win_shares(one, other), 0.5),
            (means, prompt_means(one), 0.0),
        ):
            interval = mean_interval(values, confidence=0.95, samples=500)
            found.append(interval.low <= truth <= interval.high)
    assert 0.03 <= np.mean(significant) <= 0.07, np.mean(significant)
    for found in (gains, wins, means):
        assert 0.93 <= np.mean(found) <= 0.97, np.mean(found)


def test_taking_responses_for_independent_would_not_be_calibrated() -> None:
    """The check can fail: intervals over responses cover the mean reward far less often than 95 %.

    Variance of the mean: (4 + 1/4) / 64 over prompts; taken for independent: 5 / 256. Ratio of errors 1.84, so the
    interval of 1.96 holds the truth as often as |z| < 1.96 / 1.84 = 1.06: 71 %.
    """
    held = []
    for rng in repeats(0.2):
        flat = np.array(panel(rng, levels(rng))).ravel()
        interval = mean_interval(flat, confidence=0.95, samples=300)
        held.append(interval.low <= 0.0 <= interval.high)
    assert 0.6 < np.mean(held) < 0.82


def test_the_paired_test_finds_a_true_gain_as_often_as_its_power_says() -> None:
    """Gain 0.4 / sqrt(2) of noise sqrt(2 / 4) per prompt, 64 prompts: effect 0.2828 / 0.7071 = 0.4 spreads.

    Shift 0.4 * 8 = 3.2 standard errors: power P(t > 2.0 - 3.2) = 0.88.
    """
    expected = power_of(0.4, 1.0, PROMPTS, confidence=0.95)
    assert expected == pytest.approx(0.88, abs=0.01)
    found = []
    for rng in repeats(0.2):
        base = levels(rng)
        better = np.array(panel(rng, base)) + 0.4 / np.sqrt(2)
        found.append(paired_test(prompt_means(better.tolist()) - prompt_means(panel(rng, base))) < 0.05)
    assert np.mean(found) == pytest.approx(expected, abs=3 * np.sqrt(expected * (1 - expected) / len(found)))


@pytest.mark.parametrize(("seeds", "seed_spread"), [(2, 0.3), (3, 0.2), (3, 0.3), (5, 0.3), (4, 0.0)])
def test_several_seeds_together_are_calibrated_for_new_seeds_and_new_prompts(seeds: int, seed_spread: float) -> None:
    """True mean 0; each seed is off by its own amount, each prompt by its own."""
    held, pooled = [], []
    for rng in repeats(0.5):
        own = rng.normal(size=(seeds, 1)) * seed_spread
        values = own + rng.normal(size=(1, PROMPTS)) + 0.5 * rng.normal(size=(seeds, PROMPTS))
        found = combine_seeds(values, confidence=0.95)
        held.append(found.p >= 0.05)
        assert (found.interval.low <= 0.0 <= found.interval.high) == held[-1]
        averaged = mean_interval(values.mean(0), confidence=0.95, samples=300)
        pooled.append(averaged.low <= 0.0 <= averaged.high)
    if seed_spread:
        assert 0.925 <= np.mean(held) <= 0.98, np.mean(held)
        assert np.mean(pooled) < 0.9  # averaging seeds first takes them for certain
    else:
        assert np.mean(held) >= 0.93, np.mean(held)


def test_the_interval_of_a_correlation_is_calibrated_over_prompts() -> None:
    """Two quantities that share nothing but the prompt's number of responses: the truth is 0."""
    held = []
    for rng in repeats(0.1):
        a, b = (rng.normal(size=(40, 1)) + 0.3 * rng.normal(size=(40, RESPONSES)) for _ in range(2))
        found = correlation_interval(list(a), list(b), confidence=0.95, samples=200)
        held.append(found.low <= 0.0 <= found.high)
    assert 0.90 <= np.mean(held) <= 0.99, np.mean(held)


@pytest.mark.parametrize("units", [2, 3, 5, 9])
def test_intervals_of_few_units_hold_the_truth_as_often_as_they_say(units: int) -> None:
    """Mean 0 of normal values; 2 nats per token of prompts that differ in their tokens.

    Below ten units nothing is resampled: two values would hold the truth in 50 % of cases.
    """
    means, ratios = [], []
    for rng in repeats():
        found = mean_interval(rng.normal(size=units), confidence=0.95, samples=100)
        means.append(found.low <= 0.0 <= found.high)
        tokens = rng.integers(5, 40, units).astype(np.float64)
        found = ratio_interval(tokens * (2 + 0.5 * rng.normal(size=units)), tokens, confidence=0.95, samples=100)
        ratios.append(found.low <= 2.0 <= found.high)
    assert 0.93 <= np.mean(means) <= 0.97, np.mean(means)
    assert 0.91 <= np.mean(ratios) <= 0.98, np.mean(ratios)


@pytest.mark.parametrize("units", [4, 6, 9])
def test_rank_correlations_of_few_prompts_are_not_told_too_narrowly(units: int) -> None:
    """Two quantities that share nothing: the interval of few is wide, never too narrow."""
    held = []
    for rng in repeats(0.5):
        found = correlation_interval(*rng.normal(size=(2, units)), confidence=0.95, samples=100)
        held.append(found.low <= 0.0 <= found.high)
    assert np.mean(held) >= 0.94, np.mean(held)


def path_of_a_seed(rng: np.random.Generator, base: NDArray[np.float64], spread: float) -> list[Point]:
    """The start and one version: gain 1 and what the seed adds to it, noise per prompt, KL near 1."""
    gain = 1.0 + spread * rng.normal() + 0.7 * rng.normal(size=len(base)) / np.sqrt(RESPONSES)
    return [Point(0.0, base), Point(float(rng.uniform(0.8, 1.2)), base + gain)]


@pytest.mark.parametrize("seeds", [(3, 3), (5, 5), (3, 4)])
def test_methods_that_are_one_method_are_found_different_at_equal_kl_as_often_as_the_level_says(
    seeds: tuple[int, int],
) -> None:
    """A/A with a spread of 0.2 between seeds and of 2 between prompts: 5 % of tests, and intervals agree with them.

    Means of the paths over seeds would be found different in half of all cases.
    """
    significant, averaged = [], []
    for rng in repeats():
        base = levels(rng)
        one, other = ([path_of_a_seed(rng, base, 0.2) for _ in range(count)] for count in seeds)
        found = at_equal_kl(one, other, confidence=0.95, samples=100)
        assert found is not None
        significant.append(found.p < 0.05)
        assert (found.difference.low <= 0.0 <= found.difference.high) != significant[-1]
        gap = np.mean([p[1].rewards for p in one], axis=0) - np.mean([p[1].rewards for p in other], axis=0)
        averaged.append(abs(gap.mean()) > 2 * gap.std(ddof=1) / np.sqrt(PROMPTS))
    assert 0.03 <= np.mean(significant) <= 0.07, np.mean(significant)
    assert np.mean(averaged) > 0.3, np.mean(averaged)
