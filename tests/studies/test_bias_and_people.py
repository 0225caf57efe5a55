"""The bias over responses against its theorem, and people's disagreement against arithmetic."""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hf_folders import make_model

from raypo.errors import ConfigError, DataError
from raypo.evaluation.intervals import Interval
from raypo.evaluation.significance import Floats, power
from raypo.evaluation.statistics import correlation
from raypo.studies import annotators, correlations, dispersion, display, reference, responses
from raypo.studies import people as people_of
from raypo.studies.annotators import Judged
from raypo.studies.result import Row, Setting, adjusted, overall

COUNTS = (2, 8, 32)
COST = {2: responses.Cost(np.array([0.5, 1.0, 7.0]), 0.5), 8: responses.Cost(np.array([3.0, 3.0, 3.0]), 0.75)}


def slope(law: str, seeds: int = 20) -> Row:
    """Slope of the bias of plain means over all of the study's n."""
    bias = responses.biases(law, None, responses.COUNTS, seeds, 20, 0)
    return responses.slope_row(f"{law}, mpo", responses.slopes(bias), 20)


def test_the_slope_of_an_exact_root_is_one_half() -> None:
    bias = 3 / np.sqrt(np.array([responses.COUNTS, responses.COUNTS]))
    assert responses.slopes(bias).tolist() == pytest.approx([-0.5, -0.5])
    assert responses.slopes(bias[:, :3]).tolist() == pytest.approx([-0.5, -0.5])


def test_the_bias_of_a_mean_of_normal_attributes_is_known() -> None:
    """E |mean of n| = sqrt(2 / (pi n)): 0.564, 0.282, 0.141 at 2, 8, 32. 16,000 prompts: a relative error of 0.006."""
    bias = responses.biases("normal", None, COUNTS, 40, 400, 0).mean(0)
    assert bias.tolist() == pytest.approx([math.sqrt(2 / (math.pi * n)) for n in COUNTS], rel=0.025)


def test_responses_that_share_a_part_keep_a_bias() -> None:
    """Correlation 0.3: the variance of the mean is 0.3 + 0.7 / n; at 512 the bias is sqrt(2 / pi * 0.3014) = 0.438."""
    bias = responses.biases(responses.LAWS[-1], None, (512,), 20, 40, 0)
    assert float(bias.mean()) == pytest.approx(0.438, rel=0.1)


@pytest.mark.parametrize(
    ("law", "expected"),
    [("normal", "holds"), ("uniform", "holds"), ("cauchy", "fails"), (responses.LAWS[-1], "fails")],
)
def test_the_root_law_holds_by_the_theorem_and_fails_outside_of_it(law: str, expected: str) -> None:
    """The mean of n Cauchy variables is Cauchy for every n: slope 0."""
    row = slope(law)
    assert responses.at_claim(row) == expected
    assert overall(responses.votes([replace(row, condition="normal, mpo")])) == expected
    assert overall(responses.votes([row])) == (expected if law == "normal" else "undecided")  # no part of the claim
    told = responses.finding([row], COST)
    assert ("(not -1/2)" in told) == (expected == "fails")
    assert "with 8 responses takes 3.0 times as long as with 2 (4 times as many), at 0.75 against 0.50 GiB" in told


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.55, -0.45, "holds"),
        (-0.6, -0.4, "holds"),
        (-0.39, -0.2, "fails"),
        (-0.9, -0.61, "fails"),
        (-0.75, -0.01, "undecided"),  # -1/2 fits, and so do 0 and -3/4
        (-0.5, -0.35, "undecided"),
        (math.nan, math.nan, "undecided"),
    ],
)
def test_a_slope_is_the_claimed_one_only_where_the_interval_says_so(low: float, high: float, expected: str) -> None:
    row = Row("normal, mpo", responses.SLOPE, 20, 20, (low + high) / 2, low, high)
    assert responses.at_claim(row) == expected
    assert overall(responses.votes([row])) == expected
    assert ("(undecided)" in responses.finding([row], COST)) == (expected == "undecided")


@pytest.mark.parametrize(
    ("low", "high", "down", "up", "expected"),
    [
        (-0.55, -0.45, 0.01, 0.01, "holds"),
        (-0.55, -0.45, 0.01, 0.06, "undecided"),  # among so many it may be -0.4
        (-0.55, -0.45, 0.06, 0.01, "undecided"),
        (-0.39, -0.2, 0.9, 0.01, "fails"),
        (-0.39, -0.2, 0.01, 0.06, "undecided"),
        (-0.9, -0.61, 0.01, 0.9, "fails"),
        (-0.9, -0.61, 0.06, 0.01, "undecided"),
    ],
)
def test_a_slope_differs_from_the_bounds_by_a_test_among_many_as_well(
    low: float, high: float, down: float, up: float, expected: str
) -> None:
    row = Row("normal, mpo", responses.SLOPE, 20, 20, (low + high) / 2, low, high, p_up=up, p_down=down)
    assert responses.at_claim(row) == expected


def test_slopes_are_tested_against_the_claim_with_the_power_to_see_the_tolerance() -> None:
    """Twelve slopes, -7/16 and -9/16 in turn: mean -1/2, p 1. Spread sqrt(12 / 11) / 16 = 0.0653: 0.1 is 5.3 errors.

    The same 0.3 higher: all twelve on one side, p of the sign flips 2 / 2^12 = 0.0005. With a spread of 0.522 the
    tolerance is 0.66 errors: noncentral t with 11 degrees of freedom, at the 204 / 4096 that twelve signs allow: power
    0.0929 of one bound, which promises nothing of both. With a spread of 0.1044 it is 3.317 errors, and 0.8542 of one:
    both at least in 2 * 0.8542 - 1 = 0.7083.
    """
    around = np.array([-7 / 16, -9 / 16] * 6)
    there, off = (responses.slope_row("a", values, 20) for values in (around, around + 0.3))
    assert (there.effect, there.against, there.matters) == (pytest.approx(-0.5), -0.5, 0.1)
    assert (there.p, off.p) == (1.0, pytest.approx(2 / 2**12))
    assert there.power > 0.99
    assert (responses.at_claim(there), responses.at_claim(off)) == ("holds", "fails")
    assert responses.slope_row("a", np.array([0.0, -1.0] * 6), 20).power == 0.0
    assert power(0.1, (12 / 11) ** 0.5 / 2, 12, confidence=0.95) == pytest.approx(0.0929, abs=0.0002)
    wide = responses.slope_row("a", np.array([-0.4, -0.6] * 6), 20)
    assert power(0.1, (12 / 11) ** 0.5 / 10, 12, confidence=0.95) == pytest.approx(0.8542, abs=0.0002)
    assert adjusted([wide])[0].power == wide.power == pytest.approx(0.7083, abs=0.0004)
    assert power(there.detectable, (12 / 11) ** 0.5 / 16, 12, confidence=0.95) == pytest.approx(0.8)


def test_a_step_costs_its_median() -> None:
    """Of 0.5, 1 and 7 s: 1 s; three steps have no interval.

    Of 1 to 12 s: 6.5 s, between the third and the third last: 2 (1 + 12 + 66) of 4,096 orders miss it, 3.9 %.
    """
    rows = responses.cost_rows(COST)
    assert [(row.measure, row.n, row.effect) for row in rows] == [
        ("seconds per step", 3, 1.0), ("peak GiB", 1, 0.5), ("seconds per step", 3, 3.0), ("peak GiB", 1, 0.75)
    ]  # fmt: skip
    assert math.isnan(rows[0].low)
    dozen = responses.cost_rows({2: responses.Cost(np.arange(1.0, 13.0), 0.5)})[0]
    assert (dozen.effect, dozen.low, dozen.high) == (6.5, 3.0, 10.0)


def test_attributes_have_the_variance_that_the_theorem_asks_for() -> None:
    for law in ("normal", "uniform", responses.LAWS[-1]):
        drawn = responses.attributes(law, (1, 20_000, 2), torch.Generator().manual_seed(0))
        assert float(drawn.var()) == pytest.approx(1.0, abs=0.05)
        both = float(np.corrcoef(drawn[0, :, 0].numpy(), drawn[0, :, 1].numpy())[0, 1])
        assert both == pytest.approx(responses.SHARED if "corr" in law else 0.0, abs=0.03)


def test_a_policy_is_trained_to_the_better_responses() -> None:
    """DPO moves the best and the worst alone: the two between keep equal shares."""
    rewards = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    (best, second, third, worst) = responses.trained(responses.METHODS["dpo"], rewards)[0].tolist()
    assert best > max(second, third)
    assert second == pytest.approx(third)
    assert worst < min(second, third)
    assert best + second + third + worst == pytest.approx(1.0, abs=1e-5)
    by_set = responses.trained(responses.METHODS["mpo"], rewards)[0]
    assert float(by_set[:2].min()) > 0.4
    assert float(by_set[2:].max()) < 0.1


# rank correlations


def test_the_test_of_a_rank_correlation_by_hand() -> None:
    """n = 100: error sqrt(1.06 / 97) = 0.104536. atanh 0.1 = 0.100335 is 0.95981 errors.

    p = 2 Phi(-0.95981) = 0.3371. Power: Phi(0.95981 - 1.95996) + Phi(-0.95981 - 1.95996) = 0.15862 + 0.00175 = 0.1604.
    Found in 80 %: tanh((1.95996 + 0.84162) 0.104536) = tanh 0.29287 = 0.2848. At rho 0 power is the level.
    """
    assert correlations.error(100) == pytest.approx(0.104536, abs=1e-6)
    row = correlations.correlated("a", Interval(0.1, -0.1, 0.3, 100), matters=0.1)
    assert (row.n, row.seeds, row.matters) == (100, 1, 0.1)
    assert (row.p, row.power) == (pytest.approx(0.3371, abs=1e-4), pytest.approx(0.1604, abs=1e-4))
    assert row.detectable == pytest.approx(0.2848, abs=1e-4)
    assert correlations.rank_power(0.0, 100) == pytest.approx(0.05)
    assert correlations.rank_power(row.detectable, 100) == pytest.approx(0.8, abs=1e-4)
    assert correlations.rank_p(1.0, 100) < 1e-300
    # four ranks that agree are one of 24 orders: 1 - 6 / 60 = 0.9, atanh 1.472 over sqrt(1.06) is 1.430, p = 0.153
    assert correlations.rank_p(1.0, 4) == correlations.rank_p(-1.0, 4) == pytest.approx(0.153, abs=1e-3)
    assert math.isnan(correlations.rank_p(1.0, 3))
    # 109 pairs: error sqrt(1.06 / 106) = 0.1; atanh 0.1 = 0.10034, so 2 Phi(-1.0034) = 0.3157, and twice as far 0.0448
    assert correlations.rank_p(0.0, 109, 0.1) == pytest.approx(0.3157, abs=1e-4)
    assert correlations.rank_p(0.1, 109, -0.1) == pytest.approx(0.0448, abs=1e-4)
    # what cannot be told
    assert correlations.rank_power(0.1, 3) == 0.0
    assert math.isnan(correlations.rank_p(math.nan, 100))
    assert math.isnan(correlations.rank_detectable(3))
    assert math.isnan(correlations.rank_p(0.5, 3))


def test_the_error_of_a_rank_correlation_is_that_of_draws() -> None:
    """Of 4,000 samples of 40 normal pairs with rank correlation 0.3, atanh spreads by sqrt(1.06 / 37) = 0.169."""
    rng = np.random.default_rng(0)
    pearson = 2 * math.sin(math.pi * 0.3 / 6)  # of normal pairs with that rank correlation
    drawn = rng.multivariate_normal([0, 0], [[1, pearson], [pearson, 1]], (4000, 40))
    z = np.arctanh([correlation(one[:, 0], one[:, 1]) for one in drawn])
    assert float(z.std()) == pytest.approx(correlations.error(40), rel=0.03)
    assert float(z.mean()) == pytest.approx(math.atanh(0.3), abs=0.015)


# people


def test_every_cut_into_halves_comes_once() -> None:
    """Four people: 3 cuts. Five: the last is left out. Six: 10. Eight: 35, ten of them. Three: none into two and two.

    Two protocols of four people: C(4, 2)^2 / 2 = 18 cuts with two of each protocol in both halves; ten of them.
    """
    assert annotators.halves(4) == [([0, 1], [2, 3]), ([0, 2], [1, 3]), ([0, 3], [1, 2])]
    assert annotators.halves(5) == annotators.halves(4)
    assert [len(annotators.halves(people)) for people in (2, 6, 8)] == [0, 10, 10]
    for people in (6, 8):
        for mine, other in annotators.halves(people):
            assert sorted(mine + other) == list(range(people))
            assert len(mine) == len(other)
    assert annotators.halves(3) == []
    both = annotators.halves(8, 2)
    assert len({tuple(mine) for mine, _ in both}) == 10
    for mine, other in both:
        assert sorted(mine + other) == list(range(8))
        assert sum(one < 4 for one in mine) == sum(one < 4 for one in other) == 2
    assert annotators.halves(4, 2) == [([0, 2], [1, 3]), ([0, 3], [1, 2])]
    assert annotators.spaced("abcdefg", 3) == ["a", "c", "e"]


def test_disagreement_by_hand() -> None:
    """Levels apart (2, 3) and (3, 2) about their own means: -.5, .5 and .5, -.5; variance .5 in both responses.

    Verdicts of three people 1, 1, -1: of three pairs of people two differ.
    """
    assert annotators.by_variance(np.array([[2.0, 3.0], [3.0, 2.0]])) == pytest.approx(0.5)
    assert annotators.by_variance(np.array([[2.0, 3.0], [4.0, 5.0]])) == 0.0
    assert annotators.by_pairs(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])) == pytest.approx(2 / 3)
    # three of four rank the first before the second: Kendall's phi is 1/3
    scores = np.array([[2.0, 1.0], [2.0, 1.0], [5.0, 1.0], [1.0, 2.0]])
    assert annotators.by_mallows("kendall")(scores) == pytest.approx(1 / 3)


def people(noise: Floats, seed: int = 0, count: int = 6) -> Judged:
    """Scores of four responses by so many people: utility 0, 1, 2, 3 and noise of a size that each prompt has."""
    rng = np.random.default_rng(seed)
    scores = [np.arange(4.0) + size * rng.normal(size=(count, 4)) for size in noise]
    return Judged(["p"] * len(scores), [["a", "b", "c", "d"]] * len(scores), scores)


def test_halves_agree_where_prompts_really_differ_and_not_where_they_do_not() -> None:
    differ, alike = people(np.geomspace(0.1, 10, 60)), people(np.ones(60))
    sure = annotators.reliability(annotators.cuts(differ, annotators.by_variance), 6)
    assert sure.half.low > 0.8
    assert sure.ceiling.mean == pytest.approx(math.sqrt(2.5 * sure.half.mean / (1 + 1.5 * sure.half.mean)))
    assert sure.ceiling_of_half.mean == pytest.approx(math.sqrt(sure.half.mean))
    unsure = annotators.reliability(annotators.cuts(alike, annotators.by_variance), 6)
    assert unsure.half.low < 0.1
    assert unsure.half.high < 0.5


def test_the_spread_of_one_half_tells_the_disagreement_of_the_other() -> None:
    """Utilities 0 to 3 times 0.05 to 5, seen with noise 1: far apart, people agree and their means spread."""
    rng = np.random.default_rng(0)
    scores = [size * np.arange(4.0) + rng.normal(size=(6, 4)) for size in np.geomspace(0.05, 5, 60)]
    judged = Judged(["p"] * 60, [["a", "b", "c", "d"]] * 60, scores)
    index = people_of.spread(judged, [0, 1, 2])
    assert ((index > 0) & (index < 1)).all()
    measure = annotators.by_mallows("kendall")
    assert correlation(index, annotators.disagreements(judged, measure, [3, 4, 5])) > 0.7


def test_a_ceiling_is_the_root_of_what_the_halves_tell() -> None:
    """Of 2 people against 2, h = 0.17: against one half sqrt(0.17) = 0.412.

    Four people are three differences, two are one: k = 3, sqrt(0.51 / 1.34) = 0.617; five against two: k = 4, and six
    against three: 5 / 2. The bounds 0 and 0.36 become 0 and sqrt(1.08 / 1.72) = 0.792; an h below 0 is a ceiling of 0.
    """
    h = Interval(0.17, -0.1, 0.36, 36)
    assert [annotators.gained(4, 2), annotators.gained(5, 2), annotators.gained(6, 3)] == [3.0, 4.0, 2.5]
    all_four, half = annotators.ceiling(h, 3.0), annotators.ceiling(h, 1.0)
    assert [all_four.mean, all_four.low, all_four.high] == pytest.approx([0.617, 0.0, 0.792], abs=5e-4)
    assert [half.mean, half.low, half.high] == pytest.approx([0.412, 0.0, 0.6], abs=5e-4)
    nothing = annotators.ceiling(Interval(math.nan, math.nan, math.nan, 2), 2.0)
    assert math.isnan(nothing.mean)
    assert math.isnan(nothing.low)


@pytest.mark.parametrize(("count", "by_hand", "of_half"), [(4, 0.757, 0.556), (6, 0.832, 0.683)])
def test_a_perfect_index_reaches_the_ceilings(count: int, by_hand: float, of_half: float) -> None:
    """The true size of the noise at 4,000 prompts against the disagreement of all people and of half of them.

    ln variance spreads by 0.6; from m people and 4 responses, of which one is their level, it has 3 (m - 1) degrees of
    freedom, and its logarithm errs by trigamma(3 (m - 1) / 2): 0.2487 of 4, 0.9348 of 2, 0.1427 of 6, 0.3949 of 3.
    sqrt(0.36 / (0.36 + error)): 0.769, 0.527; 0.846, 0.690 by Pearson's. Ranks give what is asserted, within 0.03.
    """
    size = np.exp(0.3 * np.random.default_rng(1).normal(size=4000))
    judged = people(size, count=count)
    found = annotators.reliability(annotators.cuts(judged, annotators.by_variance), count)
    assert correlation(size, annotators.disagreements(judged, annotators.by_variance)) == pytest.approx(
        by_hand, abs=0.03
    )
    assert found.ceiling.mean == pytest.approx(by_hand, abs=0.03)
    half = annotators.disagreements(judged, annotators.by_variance, range(count // 2))
    assert correlation(size, half) == pytest.approx(of_half, abs=0.03)
    assert found.ceiling_of_half.mean == pytest.approx(of_half, abs=0.03)


def test_each_correlation_stands_beside_its_own_ceiling() -> None:
    """One half's reward spread is held against the other half's disagreement, and its ceiling is the half's."""
    judged = people(np.geomspace(0.3, 3, 40))
    rows = people_of.halved("gold, variance", judged, annotators.by_variance)
    effect = {row.condition.removeprefix("gold, variance, "): row for row in rows}
    h = effect[people_of.HALVES].effect
    assert effect[people_of.PERFECT].effect == pytest.approx(math.sqrt(2.5 * h / (1 + 1.5 * h)))
    assert effect[people_of.PERFECT_ON_HALF].effect == pytest.approx(math.sqrt(h))
    assert effect[people_of.PERFECT].low == pytest.approx(
        math.sqrt(2.5 * effect[people_of.HALVES].low / (1 + 1.5 * effect[people_of.HALVES].low))
    )
    told = dispersion.finding(rows)
    assert f"gold, variance (ceiling {effect[people_of.PERFECT].effect:.2f} [" in told
    assert f"{people_of.OTHER_HALF} (ceiling {effect[people_of.PERFECT_ON_HALF].effect:.2f} [" in told
    tested = [row for row in rows if row.measure == correlations.RANK]
    assert [row.power for row in tested] == pytest.approx([correlations.rank_power(0.1, 40)] * 2)


def sorted_sources(judged: Judged) -> Judged:
    return replace(judged, sources=[["alpaca", "baize", "chatgpt", "cohere"]] * len(judged.prompts))


def test_who_kept_the_order_of_display_is_seen_and_left_out() -> None:
    """Of three people one gives 4, 3, 2, 1 down the page each time: 1 to them; the others have no order."""
    rng = np.random.default_rng(0)
    scores = [np.stack([[4.0, 3, 2, 1], rng.permutation(4), rng.permutation(4)]).astype(np.float64) for _ in range(100)]
    judged = Judged(["p"] * 100, [["a", "b", "c", "d"]] * 100, scores)
    found = display.control(judged, None, annotators.by_mallows("kendall"))
    by = {(row.measure, row.condition.removeprefix("cobbler, ")): row for row in found.rows}
    kept = [by[display.FILE_ORDER, f"annotator {who}"] for who in range(3)]
    assert (kept[0].effect, kept[0].low, kept[0].high) == (1.0, 1.0, 1.0)
    assert kept[0].p < 0.01
    assert max(abs(row.effect) for row in kept[1:]) < 0.25
    repeated = [by[display.ONE_ORDER, f"annotator {who}"] for who in range(3)]
    assert repeated[0].effect == pytest.approx(1.0)  # the same order at every prompt
    assert max(abs(row.effect) for row in repeated[1:]) < 0.1
    assert repeated[1].low < 0 < repeated[1].high
    assert found.judged.people == 2
    assert "Of 3 annotators 1, 2 are used, whose correlation with the order of the file is below 0.3" in found.told
    assert "does not tell whether its order of responses is the order of display" in found.told
    assert "of keeping" not in found.told
    assert not [row for row in found.rows if row.measure == display.OF_FOUR]  # of three people there are no four
    named = display.control(judged, "0,2", annotators.by_mallows("kendall"))
    assert (named.judged.people, named.everyone) == (2, judged)
    assert display.control(judged, "0,1,2", annotators.by_mallows("kendall")).everyone is None
    assert "Of 3 annotators 0, 2 are used, as slots= names them" in named.told


@pytest.mark.parametrize("slots", ["0,9", "a", "1", "2,2", "2,2,1,1", "-1,-2", "0,-1", "\u00b2,1", ""])
def test_slots_name_two_people_at_least_each_once(slots: str) -> None:
    judged = people(np.ones(5), count=3)
    with pytest.raises(ConfigError, match=r"slots=.*\n.*two at least of the annotators 0 to 2, with commas, each once"):
        display.chosen_people(judged, slots, np.zeros(3))


def test_nobody_is_left_by_the_order_of_the_file() -> None:
    with pytest.raises(ConfigError, match=r"1 annotators of cobbler who did not keep.*\n.*\n.*slots="):
        display.chosen_people(people(np.ones(5), count=3), None, np.array([0.9, -0.4, 0.1]))


def test_a_ceiling_that_rests_on_two_people_falls_without_them() -> None:
    """Four of six rank by quality with noise, alike at every prompt; 0 and 1 mostly keep an order of display.

    Their order fits the quality of some prompts' responses and not of others', so halves with one of them each disagree
    at the same prompts. Without both, halves agree on nothing. The file's own order tells nothing of it.
    """
    rng = np.random.default_rng(0)
    kept, swapped, scores = np.array([2.0, 0, 3, 1]), np.array([2.0, 1, 3, 0]), []
    for _ in range(150):
        quality = rng.permutation(4).astype(np.float64)
        tasted = np.argsort(np.argsort(quality + 0.8 * rng.normal(size=(4, 4)))).astype(np.float64)
        shown = [swapped if rng.random() < 0.2 else kept for _ in range(2)]
        scores.append(np.concatenate([shown, tasted]))
    judged = sorted_sources(Judged(["p"] * 150, [["a", "b", "c", "d"]] * 150, scores))
    found = display.control(judged, None, annotators.by_mallows("kendall"))
    by = {row.condition.removeprefix("cobbler, "): row for row in found.rows if row.measure == display.OF_FOUR}
    assert set(by) == {f"{word} annotator {who}" for word in ("with", "without") for who in range(6)} | {
        "with annotators 0 and 1", "without annotators 0 and 1"
    }  # fmt: skip
    assert by["with annotators 0 and 1"].effect > 0.5
    assert by["without annotators 0 and 1"].low == 0.0 < by["with annotators 0 and 1"].low
    assert by["with annotator 0"].effect > by["without annotator 0"].effect + 0.1
    assert by["with annotator 5"].effect < by["without annotator 5"].effect + 0.1
    assert "Most alike are annotators 0 and 1, +0." in found.told
    assert "alphabetical order of their sources at every prompt" in found.told
    assert "A ceiling that falls without somebody rests on them." in found.told


def test_what_the_order_of_a_file_can_say() -> None:
    judged = people(np.ones(3))
    assert "does not tell whether its order" in display.order_of_file(judged)
    assert "alphabetical" in display.order_of_file(sorted_sources(judged))
    one = replace(judged, sources=[["gpt4", "alpaca", "koala", "mpt"]] * 3)
    assert "one order of their sources" in display.order_of_file(one)
    mixed = replace(judged, sources=[["b", "a", "c", "d"], ["a", "b", "c", "d"], ["a", "b", "c", "d"]])
    assert "does not tell whether its order" in display.order_of_file(mixed)


def test_rankings_that_cannot_be_fitted_are_told_before_anything_is_computed(tmp_path: Path) -> None:
    """Seventeen responses: one more than the Mallows models are fitted to."""
    place = tmp_path / "cobbler.jsonl"
    ranked = [{"text": "a", "annotator_points": [at, 16 - at]} for at in range(17)]
    place.write_text(json.dumps({"prompt": "q", "responses": ranked}) + "\n")
    with pytest.raises(ConfigError, match=r"rankings of 17 responses\n.*at most 16.*\n.*fewer responses"):
        people_of.given(Setting(True, options={"cobbler": str(place)}))
    with pytest.raises(ConfigError, match=r"slots=1,2 without cobbler="):
        people_of.given(Setting(True, options={"slots": "1,2"}))
    place.write_text("")
    with pytest.raises(DataError, match="0 prompts"):
        people_of.given(Setting(True, options={"cobbler": str(place)}))


def test_files_of_judgements_are_read(tmp_path: Path) -> None:
    """Plain and compressed; rows of one person each turned to [people, responses]."""
    place = tmp_path / "gold.jsonl.gz"
    rows: dict[str, Any] = {
        "prompt": "q",
        "responses": [{"text": "a", "unbiased": [1], "granular": [2]}, {"text": "b", "unbiased": [3], "granular": [4]}],
    }
    place.write_bytes(gzip.compress((json.dumps(rows) + "\n").encode()))
    gold = annotators.judged(str(place), "gold")
    assert (gold.prompts, gold.responses, gold.people) == (["q"], [["a", "b"]], 2)
    assert gold.scores[0].tolist() == [[1.0, 3.0], [2.0, 4.0]]
    rows["responses"][1]["unbiased"] = [3, 5, 5]  # more people than the other response has: the first are taken
    place.write_bytes(gzip.compress((json.dumps(rows) + "\n").encode()))
    assert annotators.judged(str(place), "gold").scores[0].tolist() == [[1.0, 3.0], [2.0, 4.0]]
    # prompts of 2 + 2 and of 4 + 4 people: two of each protocol are taken of both
    few = {"prompt": "r", "responses": [{"text": "a", "unbiased": [1, 2], "granular": [3, 4]}]}
    more = {"prompt": "r", "responses": [{"text": "a", "unbiased": [5, 6, 7, 8], "granular": [1, 2, 3, 4]}]}
    place.write_bytes(gzip.compress((json.dumps(few) + "\n" + json.dumps(more) + "\n").encode()))
    gold = annotators.judged(str(place), "gold")
    assert (gold.people, gold.protocols) == (4, 2)
    assert [one[:, 0].tolist() for one in gold.scores] == [[1, 2, 3, 4], [5, 6, 1, 2]]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(json.dumps({"prompt": "q", "response1": "a", "response2": "b", "annotators": [1, 2, 0]}) + "\n")
    assert annotators.judged(str(pairs), "pandalm").scores[0].tolist() == [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    with pytest.raises(DataError, match="a file of the kind cobbler"):
        annotators.judged(str(place), "cobbler")
    (tmp_path / "torn.jsonl").write_text('{"prompt": ')
    for name in ("torn.jsonl", "none.jsonl"):
        with pytest.raises(DataError, match=name):
            annotators.judged(str(tmp_path / name), "gold")


def test_a_model_reads_what_people_judged_and_not_what_is_empty(tmp_path: Path) -> None:
    """Entropy per token over ln V lies in (0, 1); an empty response is left out, a prompt of empty ones is NaN."""
    folder = make_model(tmp_path / "model", tied=True)
    judged = Judged(["w1 w2"] * 3, [["w3 w4", ""], ["", ""], ["w3 w4", "w3 w4"]], [np.zeros((2, 2))] * 3)
    found = reference.under_model(judged, str(folder))
    assert set(found) == {"entropy", "likelihood"}
    for values in found.values():
        assert np.isnan(values).tolist() == [False, True, False]
        assert 0 < values[0] < 1
        assert values[0] == pytest.approx(values[2])


def test_a_model_is_told_with_what_a_token_of_the_judged_text_costs_it(tmp_path: Path) -> None:
    """An untrained model spreads over all its tokens: a token costs about ln V."""
    folder = make_model(tmp_path / "model", tied=True)
    judged = Judged(["w1 w2"] * 12, [["w3 w4", "w5"]] * 12, [np.array([[1.0, 0.0]] * 3)] * 12)
    setting = Setting(quick=True, options={"model": str(folder)})
    rows, everyone = people_of.on_people("pandalm", display.Control([], judged, ""), setting)
    assert everyone == []  # nobody is left out
    (cost,) = [row for row in rows if row.measure == people_of.COST]
    assert (cost.condition, cost.n) == ("pandalm, the model", 12)
    assert cost.effect == pytest.approx(1.0, abs=0.1)
    assert f"a token of what was judged costs the model {cost.effect:.2f}" in dispersion.finding(rows)


def test_the_claim_on_dispersion_is_about_the_references_entropy_where_people_judged() -> None:
    def rows(entropy: float, spread: float, where: str = "gold, variance") -> list[Row]:
        each = {"entropy": entropy, "reward spread": spread}
        return [
            Row(f"{where}, {name}", correlations.RANK, 192, 1, mean, mean - 0.1, mean + 0.1, matters=people_of.MATTERS)
            for name, mean in each.items()
        ]

    assert overall(dispersion.votes(rows(0.5, 0.0))) == "holds"
    most = people_of.ceiling_row(f"language, {people_of.PERFECT}", Interval(0.9, 0.8, 0.95, 192))
    independent = [*rows(0.0, 0.9, "language"), most]
    headline = dispersion.beside([*independent, *rows(0.5, 0.0)])
    assert [row.condition for row in headline] == [
        "language, a perfect index",
        "language, entropy",
        "gold, variance, entropy",
    ]
    assert overall(dispersion.votes(rows(-0.05, 0.9))) == "fails"
    assert overall(dispersion.votes([*independent, *rows(0.5, 0.0)])) == "holds"
    assert overall(dispersion.votes(independent)) == "undecided"  # there the two are independent by construction
    told = dispersion.finding([*independent, *rows(-0.05, 0.9)])
    assert (
        "gold, variance (no ceiling can be told): entropy -0.050 [-0.150, +0.050], not by as much as matters;" in told
    )
    assert "independent of token entropy by construction" in told
    assert "Without people's judgements" not in told
    assert "Without people's judgements and a model the claim is undecided." in dispersion.finding(independent)


def test_what_all_annotators_give_stands_beside_the_claim_and_decides_nothing() -> None:
    """Entropy tracks the disagreement of the four who are used, and not that of all six."""

    def row(where: str, effect: float) -> Row:
        condition = f"{where}, kendall, entropy"
        return Row(condition, correlations.RANK, 36, 1, effect, effect - 0.1, effect + 0.1, matters=people_of.MATTERS)

    rows = [row("cobbler", 0.5), row("cobbler with all 6 annotators", -0.4)]
    assert (overall(dispersion.votes(rows)), dispersion.beside(rows)) == ("holds", rows[:1])
    assert dispersion.plain(rows).startswith("That the reference's entropy tracks people's disagreement is confirmed;")
    told = dispersion.finding(rows)
    assert "cobbler with all 6 annotators, kendall (no ceiling can be told): entropy -0.400" in told
    (sentence,) = dispersion.left_out(rows)
    assert sentence.endswith("by kendall -0.400 [-0.500, -0.300] in place of +0.500 [+0.400, +0.600].")
    assert sentence in told
    assert dispersion.left_out(rows[:1]) == []


def test_all_annotators_are_measured_as_those_who_are_used(tmp_path: Path) -> None:
    """Six rankings of three responses at four prompts, of which slots leave four: the same rows of both."""
    rng = np.random.default_rng(0)
    scores = [np.stack([rng.permutation(3) for _ in range(6)]).astype(np.float64) for _ in range(4)]
    judged = Judged(["w1 w2"] * 4, [["w3", "w4", "w5 w6"]] * 4, scores)
    control = display.control(judged, "2,3,4,5", annotators.by_mallows("kendall"))
    model = {"model": str(make_model(tmp_path / "model", tied=True))}
    used, everyone = people_of.on_people("cobbler", control, Setting(quick=True, options=model))
    beside = [row.condition.replace(" with all 6 annotators", "") for row in everyone]
    assert beside == [row.condition for row in used if row.measure != people_of.COST]
    assert all(map(people_of.of_everyone, everyone))
    assert all(map(people_of.of_used, used))


def test_the_study_of_dispersion_runs_on_the_language_and_on_people(tmp_path: Path) -> None:
    """Four prompts and four steps of pretraining: nothing can be found, everything is told, and twice the same."""
    place = tmp_path / "pairs.jsonl"
    votes = ([1, 1, 1], [1, 2, 1], [2, 1, 0], [2, 2, 2])
    lines = [{"prompt": f"q{i}", "response1": "a", "response2": "b", "annotators": one} for i, one in enumerate(votes)]
    place.write_text("".join(json.dumps(line) + "\n" for line in lines))
    setting = Setting(quick=True, options={"pandalm": str(place)}, most=4)
    found, again = dispersion.run(setting), dispersion.run(setting)
    assert str(found.table()) == str(again.table())  # as text, where no number equals no number
    assert found.finding == again.finding
    assert "language (ceiling" in found.finding
    assert {row.condition for row in found.rows} >= {
        "language, entropy",
        "language, likelihood",
        "language, reward spread",
    }
    assert found.verdict in ("undecided", "fails", "holds")
