"""Two methods over their seeds: literals, and what one seed leaves unsaid."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from raypo.evaluation.methods import apart, difference_over_seeds
from raypo.evaluation.seeds import combine_seeds

OPTIONS = {"confidence": 0.95, "samples": 200}


def test_as_many_seeds_are_paired_by_their_number() -> None:
    """Seeds 0 and 9 of both, 1 apart: what the seeds of a number share is in no difference."""
    base = np.array([[0.0], [9.0]]) + np.random.default_rng(0).normal(size=(2, 12))
    found = difference_over_seeds(base + 1.0, base, **OPTIONS)
    assert (found.interval.mean, found.seeds) == (pytest.approx(1.0), (2, 2))
    assert found.interval.high - found.interval.low < 1e-6
    one = base + np.random.default_rng(1).normal(size=(2, 12))
    both = combine_seeds(one - base, confidence=0.95)
    found = difference_over_seeds(one, base, **OPTIONS)
    assert (found.interval, found.p, found.detectable) == (both.interval, both.p, both.detectable)


def test_other_numbers_of_seeds_are_two_samples_on_shared_prompts() -> None:
    """Seeds' means 1, 3 (variance 2 / 2 = 1 of the mean) and 0, 1, 2 (1 / 3): difference 1, variance 4 / 3.

    The prompts add the same to both, so that they are in no difference, and nothing is left. Welch:
    (4 / 3)^2 / (1 / 1 + (1 / 9) / 2) = 1.68 degrees.
    """
    prompts = np.array([-5.0, 0.0, 5.0])
    one, other = (np.array(seeds)[:, None] + prompts for seeds in ([1.0, 3.0], [0.0, 1.0, 2.0]))
    found = apart(one, other, confidence=0.95)
    degrees = (16 / 9) / (1 + 1 / 18)
    assert found.interval.mean == pytest.approx(1.0)
    assert found.error == pytest.approx(math.sqrt(4 / 3))
    assert found.degrees == pytest.approx(degrees)
    assert found.interval.high == pytest.approx(1 + stats.t.ppf(0.975, degrees) * math.sqrt(4 / 3))
    told = difference_over_seeds(one, other, **OPTIONS)
    assert (told.interval, told.seeds) == (found.interval, (2, 3))


def test_one_seed_beside_several_tells_no_bounds() -> None:
    found = difference_over_seeds(np.ones((3, 8)), np.zeros((1, 8)), **OPTIONS)
    assert (found.interval.mean, found.p) == (1.0, 1.0)
    assert math.isnan(found.interval.low)
    assert math.isnan(found.detectable)


def test_one_seed_each_is_a_comparison_of_two_policies() -> None:
    """Differences 1, 2, 3: 2 / 8 by sign flips."""
    found = difference_over_seeds(np.array([[1.0, 2.0, 3.0]]), np.zeros((1, 3)), **OPTIONS)
    assert (found.interval.mean, found.p, found.seeds) == (2.0, 0.25, (1, 1))


def test_prompts_that_one_side_does_not_know_are_left_out() -> None:
    one, other = np.arange(8.0).reshape(2, 4), np.zeros((3, 4))
    one[0, 1], other[2, 3] = math.nan, math.nan
    assert difference_over_seeds(one, other, **OPTIONS).interval.n == 2
    nothing = difference_over_seeds(np.full((2, 4), math.nan), other, **OPTIONS)
    assert (nothing.p, nothing.interval.n) == (1.0, 0)
