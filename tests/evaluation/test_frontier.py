"""Reward against KL: literals."""

from __future__ import annotations

import numpy as np
import pytest

from raypo.evaluation.frontier import Point, at_equal_kl, at_kl, least_end, on_frontier, passed

NAN = float("nan")


def test_the_frontier_is_what_nobody_beats_at_both() -> None:
    """(1, 2) is beaten by (1, 3) and by (0.5, 2); of two equal points both stay; NaN is never on it."""
    kl, reward = [0.0, 1.0, 1.0, 0.5, 2.0, 2.0, NAN], [0.0, 2.0, 3.0, 2.0, 4.0, 4.0, 9.0]
    assert on_frontier(kl, reward) == [True, False, True, True, True, True, False]


def path(*points: tuple[float, list[float]]) -> list[Point]:
    return [Point(kl, np.array(rewards)) for kl, rewards in points]


def test_between_two_points_reward_is_straight_in_the_root_of_kl() -> None:
    """Roots 0 and 2: KL 1 is half way. At a point it is the point's own."""
    line = path((4.0, [2.0, 6.0]), (0.0, [0.0, 2.0]))
    assert at_kl(line, 1.0).tolist() == [1.0, 4.0]  # type: ignore[union-attr]
    assert at_kl(line, 4.0).tolist() == [2.0, 6.0]  # type: ignore[union-attr]
    assert at_kl(line, 4.1) is None
    assert at_kl(line[:1], 1.0) is None


def test_methods_are_compared_as_far_as_both_went() -> None:
    """One reaches KL 4 with rewards 2, 6 from 0, 2; the other KL 1 with 0.5, 3.5. At 1: (1, 4) - (0.5, 3.5)."""
    one = path((0.0, [0.0, 2.0]), (4.0, [2.0, 6.0]))
    other = path((0.0, [0.0, 2.0]), (1.0, [0.5, 3.5]))
    found = at_equal_kl([one], [other], confidence=0.95, samples=100)
    assert found is not None
    assert (found.kl, found.difference.mean, found.seeds) == (1.0, pytest.approx(0.5), (1, 1))
    assert (found.p, np.isnan(found.detectable)) == (0.5, True)  # of two prompts no test finds anything
    assert at_equal_kl([one[1:]], [other], confidence=0.95, samples=100) is None


def test_a_path_is_read_where_it_last_passed_a_kl() -> None:
    """Of KL 0, 4, 1, 9 with 0, 9, 2, 6 the KL 2.25 is passed first on the way to 4 and at last between 1 and 9.

    Roots 1, 1.5, 3, so 2 + 4 / 4 = 3. At 1 it is the version itself, and at 9 the end. It was never beyond, and
    without its start never at 0.
    """
    turned = path((0.0, [0.0]), (4.0, [9.0]), (1.0, [2.0]), (9.0, [6.0]))
    assert [passed(turned, kl).tolist() for kl in (2.25, 1.0, 9.0)] == [[3.0], [2.0], [6.0]]  # type: ignore[union-attr]
    assert passed(turned, 9.1) is None
    assert passed(turned[1:], 0.0) is None
    assert passed(turned[:3], 2.25) is None  # it ended at 1: no policy with which training went on


def test_a_version_that_training_left_again_decides_nothing() -> None:
    """KL 0, 4, 1 with rewards 0, 9, 2 ended at 1 nat with 2. The other goes on, 0, 1, 4 with 0, 1, 3: 2 - 1 = 1 there.

    At the largest KL of both, 4, it were 9 - 3.
    """
    back = path((0.0, [0.0, 0.0]), (4.0, [9.0, 9.0]), (1.0, [2.0, 2.0]))
    on = path((0.0, [0.0, 0.0]), (1.0, [1.0, 1.0]), (4.0, [3.0, 3.0]))
    assert least_end([back, on]) == 1.0
    for one, other, expected in ((back, on, 1.0), (on, back, -1.0)):
        found = at_equal_kl([one], [other], confidence=0.95, samples=100)
        assert found is not None
        assert (found.kl, found.difference.mean) == (1.0, expected)


def test_a_kl_that_was_estimated_below_0_is_0() -> None:
    """One that never moved, estimated at -0.01: both are where they start, with 1 and 2 there."""
    one, other = path((-0.01, [1.0, 1.0])), path((0.0, [2.0, 2.0]), (1.0, [5.0, 5.0]))
    assert at_kl(other, -0.01).tolist() == [2.0, 2.0]  # type: ignore[union-attr]
    found = at_equal_kl([one], [other], confidence=0.95, samples=100)
    assert found is not None
    assert (found.kl, found.difference.mean) == (0.0, -1.0)
    assert at_kl(other, NAN) is None


def test_each_seed_goes_its_own_path() -> None:
    """Seeds at KL 1 and 4 with gains 1 and 4, all prompts alike. At 1: the second is half way, 2. The other: 0 and 1.

    Differences 1 - 0 and 2 - 1: 1, of which both seeds are sure. Averaged first, the path would be at (2.5, 2.5), and
    at 1 have 2.5 / sqrt(2.5) = 1.58.
    """
    start = (0.0, [0.0, 0.0])
    one = [path(start, (1.0, [1.0, 1.0])), path(start, (4.0, [4.0, 4.0]))]
    other = [path(start, (1.0, [0.0, 0.0])), path(start, (1.0, [1.0, 1.0]))]
    found = at_equal_kl(one, other, confidence=0.95, samples=100)
    assert found is not None
    assert (found.kl, found.seeds, found.difference.mean) == (1.0, (2, 2), 1.0)
    assert (found.difference.low, found.difference.high, found.p) == (1.0, 1.0, 0.0)
    assert at_equal_kl([one[0], one[1][1:]], other, confidence=0.95, samples=100) is None
