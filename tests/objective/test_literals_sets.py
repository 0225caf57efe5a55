"""Objectives over sets as literals: MPO, W-MPO and its forms, InfoNCA, EXO, Plackett-Luce, LiPO.

beta is 1/2. "Odds" means e^(beta s) of each response, so that the pools of MPO are sums of small numbers. A slope is
the derivative by a response's log-prob sum.
"""

from __future__ import annotations

from typing import Any

import pytest
from hand import LN_2, worked

REWARDS = (4.0, 0.0, 3.0, 1.0)  # mean 2, deviations 2 -2 1 -1: e^(alpha |dev|) is 4 4 2 2 at alpha ln 2
ODDS = (1.0, 1.0, 3.0, 1.0)


def test_the_gradient_of_mpo_is_beta_times_a_difference_of_softmaxes() -> None:
    """MPO (arXiv 2412.04628; gradient: 2412.16378): d/ds_i = beta (p_i - q_i), p over the set, q over the chosen.

    Rewards 9 1 7 4 2: chosen are the first and third. Odds 2 1 3 1 1: p = (2 1 3 1 1)/8, q = (2 0 3 0 0)/5, loss
    ln(8/5); p - q = -.15 .125 -.225 .125 .125, halved, and 0 in sum.
    """
    found = worked("mpo", (2.0, 1.0, 3.0, 1.0, 1.0), (9.0, 1.0, 7.0, 4.0, 2.0))
    assert found.loss == pytest.approx(0.4700036292457356, abs=1e-15)
    assert found.slope == pytest.approx([-0.075, 0.0625, -0.1125, 0.0625, 0.0625], abs=1e-15)
    assert sum(found.slope) == pytest.approx(0.0, abs=1e-16)


@pytest.mark.parametrize(
    ("name", "hyper", "expected", "slope"),
    [
        # absolute: 4 4 6 2 of 16, chosen 10: ln 1.6; p = 1/4 1/4 3/8 1/8, q = .4 0 .6 0
        ("w-mpo", {}, 0.4700036292457356, [-0.075, 0.125, -0.1125, 0.0625]),
        # squared: weights 16 16 2 2, so 16 16 6 2 of 40, chosen 22: ln(20/11); q = 8/11 0 3/11 0
        ("w-mpo", {"power": 2.0}, 0.5978370007556204, [0.2 - 4 / 11, 0.2, 0.075 - 1.5 / 11, 0.025]),
        # signed: weights 4 1/4 2 1/2, so 4 1/4 6 1/2 of 10.75, chosen 10: ln 1.075
        ("w-mpo-signed", {}, 0.0723206615796261, [2 / 10.75 - 0.2, 0.125 / 10.75, 3 / 10.75 - 0.3, 0.25 / 10.75]),
        # inside beta: beta alpha = ln 2 at alpha 2 ln 2, so the same
        (
            "w-mpo-inside",
            {"alpha": 2 * LN_2},
            0.0723206615796261,
            [2 / 10.75 - 0.2, 0.125 / 10.75, 3 / 10.75 - 0.3, 0.25 / 10.75],
        ),
        # no weights: 1 1 3 1 of 6, chosen 4: ln 1.5; q = 1/4 0 3/4 0
        ("w-mpo", {"alpha": 0.0}, 0.4054651081081644, [1 / 12 - 1 / 8, 1 / 12, 1 / 4 - 3 / 8, 1 / 12]),
        ("mpo", {}, 0.4054651081081644, [1 / 12 - 1 / 8, 1 / 12, 1 / 4 - 3 / 8, 1 / 12]),
    ],
)
def test_the_forms_of_w_mpo(name: str, hyper: dict[str, Any], expected: float, slope: list[float]) -> None:
    """Rewards 4 0 3 1, odds 1 1 3 1, alpha ln 2: absolute (arXiv 2412.04628 v4) and signed (2412.16378, Eq. 5; G.5)."""
    found = worked(name, ODDS, REWARDS, **({} if name == "mpo" else {"alpha": LN_2} | hyper))
    assert found.loss == pytest.approx(expected, abs=1e-15)
    assert found.slope == pytest.approx(slope, abs=1e-15)
    assert sum(found.slope) == pytest.approx(0.0, abs=1e-16)


@pytest.mark.parametrize("alpha", [0.0, LN_2, 5.0])
def test_two_responses_are_dpo_whatever_the_weight_of_absolute_deviations(alpha: float) -> None:
    """Both deviate by 1: ln(4/3), -+ 1/8 at odds 3, 1 (arXiv 2412.04628)."""
    found = worked("w-mpo", (3.0, 1.0), (3.0, 1.0), alpha=alpha)
    assert found.loss == pytest.approx(0.2876820724517808, abs=1e-14)
    assert found.slope == pytest.approx([-0.125, 0.125], abs=1e-14)


def test_signed_deviations_of_two_responses_are_an_offset_in_favour_of_the_better() -> None:
    """-ln sigma(beta Delta + alpha (r_w - r_l)) = -ln sigma(ln 3 + 2 ln 2): ln(13/12); 1/2 x 1/13 (2412.16378)."""
    found = worked("w-mpo-signed", (3.0, 1.0), (3.0, 1.0), alpha=LN_2)
    assert found.loss == pytest.approx(0.08004270767353636, abs=1e-15)
    assert found.slope == pytest.approx([-0.5 / 13, 0.5 / 13], abs=1e-15)


@pytest.mark.parametrize(("name", "hyper"), [("mpo", {}), ("one-vs-rest", {}), ("infonca", {"temperature": 1e-3})])
def test_one_chosen_response_is_the_softmax_of_the_best(name: str, hyper: dict[str, Any]) -> None:
    """Odds 2 1 3 2, the first best: -ln(2/8) = ln 4; MPO = InfoNCA at T -> 0 (arXiv 2402.05369): beta (p - 1 at it)."""
    found = worked(name, (2.0, 1.0, 3.0, 2.0), (9.0, 1.0, 1.0, 1.0), **hyper)
    assert found.loss == pytest.approx(1.3862943611198906, abs=1e-15)
    assert found.slope == pytest.approx([-0.375, 0.0625, 0.1875, 0.125], abs=1e-15)


def test_infonca_rests_where_scores_have_the_rewards_softmax_and_mpo_does_not() -> None:
    """Rewards ln(1 2 5), T 1, odds 1 2 5: softmaxes (1 2 5)/8 both, InfoNCA (arXiv 2402.05369) has slope 0 there.

    Its value is their entropy: ln(8)/8 + ln(4)/4 + 5/8 ln(8/5) = .2599302 + .3465736 + .2937523 = .9002560512685369.
    MPO (2412.04628), with 5 alone above the mean ln(10)/3: ln(8/5), slopes (1/8, 2/8, -3/8)/2.
    """
    rewards = (0.0, LN_2, 1.6094379124341003)
    infonca = worked("infonca", (1.0, 2.0, 5.0), rewards, temperature=1.0)
    mpo = worked("mpo", (1.0, 2.0, 5.0), rewards)
    assert infonca.loss == pytest.approx(0.9002560512685369, abs=1e-14)
    assert infonca.slope == pytest.approx([0.0, 0.0, 0.0], abs=1e-16)
    assert mpo.loss == pytest.approx(0.4700036292457356, abs=1e-15)
    assert mpo.slope == pytest.approx([0.0625, 0.125, -0.1875], abs=1e-15)


@pytest.mark.parametrize(
    ("odds", "expected", "slope"),
    [
        (1.0, 1.0986122886681098, -1 / 3),  # ln 3; (1/3 - 1)/2
        (1e3, 0.0019980026626730579, -0.001 / 1.002),  # ln(1 + 2e-3)
        (1e6, 1.9999980000026667e-06, -1e-6 / 1.000002),  # ln(1 + 2e-6)
    ],
)
def test_mpo_has_no_finite_optimum(odds: float, expected: float, slope: float) -> None:
    """MPO (arXiv 2412.04628) falls with the mass 2/(n + 2) of the two others; the slope -beta 2/(n + 2) is never 0."""
    found = worked("mpo", (odds, 1.0, 1.0), (3.0, 1.0, 1.0))
    assert found.loss == pytest.approx(expected, rel=1e-12)
    assert found.slope == pytest.approx([slope, -slope / 2, -slope / 2], rel=1e-12)


@pytest.mark.parametrize(
    ("odds", "rewards"),
    [
        (ODDS, REWARDS),
        ((7.0, 7.0, 21.0, 7.0), REWARDS),  # 2 ln 7 added to every log-ratio
        (ODDS, (104.0, 100.0, 103.0, 101.0)),  # 100 added to every reward
        ((3.0, 1.0, 1.0, 1.0), (3.0, 1.0, 4.0, 0.0)),  # another order
        (ODDS * 2, REWARDS * 2),  # every response twice
    ],
)
def test_what_does_not_change_w_mpo(odds: tuple[float, ...], rewards: tuple[float, ...]) -> None:
    """W-MPO (arXiv 2412.04628): ln(16/10) each time, of 4 4 6 2 and the chosen 4 6."""
    assert worked("w-mpo", odds, rewards, alpha=LN_2).loss == pytest.approx(0.4700036292457356, abs=1e-14)


def test_infonca_of_scores_that_disagree_with_the_rewards() -> None:
    """Equal weights 1/2 at a temperature without end, odds 3, 1: -(ln(3/4) + ln(1/4))/2 = ln(16/3)/2 (2402.05369)."""
    found = worked("infonca", (3.0, 1.0), (3.0, 1.0), temperature=1e15)
    assert found.loss == pytest.approx(0.8369882167858358, abs=1e-14)
    assert found.slope == pytest.approx([0.125, -0.125], abs=1e-14)  # (3/4 - 1/2)/2


def test_exo_over_a_set_is_the_reverse_kl() -> None:
    """EXO (arXiv 2402.00856): targets (1 1 2)/4 of rewards ln(1 1 2) and odds 2 1 1, T 1.

    KL((2 1 1)/4 || (1 1 2)/4) = ln(2)/2 + 0 - ln(2)/4 = ln(2)/4 = .17328679513998632; where odds are 1 1 2, 0.
    """
    rewards = (0.0, 0.0, LN_2)
    assert worked("exo-rewards", (2.0, 1.0, 1.0), rewards, temperature=1.0).loss == pytest.approx(
        0.17328679513998632, abs=1e-15
    )
    optimum = worked("exo-rewards", (1.0, 1.0, 2.0), rewards, temperature=1.0)
    assert optimum.loss == pytest.approx(0.0, abs=1e-15)
    assert optimum.slope == pytest.approx([0.0, 0.0, 0.0], abs=1e-15)


def test_plackett_luce_takes_the_best_of_what_is_left() -> None:
    """DPO (arXiv 2305.18290), Appendix A.3: order of rewards 3 2 1, odds 3 2 1: ln(6/3) + ln(3/2) = ln 3.

    Slopes: (3/6 - 1, 2/6 + 2/3 - 1, 1/6 + 1/3)/2.
    """
    found = worked("plackett-luce", (3.0, 2.0, 1.0), (3.0, 2.0, 1.0))
    assert found.loss == pytest.approx(1.0986122886681098, abs=1e-15)
    assert found.slope == pytest.approx([-0.25, 0.0, 0.25], abs=1e-15)


@pytest.mark.parametrize("lowest", [0.0, 1.0])
def test_lipo_weighs_a_pair_by_its_gains_and_discounts(lowest: float) -> None:
    """LiPO-lambda (arXiv 2402.01878), rewards 2 1 0, odds 2 3 1: gains 2^r - 1 = 3 1 0, ranks by score 2 1 3.

    Discounts 1/log2(1 + rank) are 1/log2(3) = .6309297535714575, 1 and 1/2. First over second: (3 - 1)(1 -
    .63092975) ln(5/2) = .73814049 x .91629073 = .67635129; first over third: 3 (.63092975 - .5) ln(3/2) = .39278926 x
    .40546511 = .15926234; second over third: 1 x 1/2 x ln(4/3) = .14384104. Together .9794546687111374.

    Gains count from the lowest reward of the set: 3 2 1 is the same.
    """
    found = worked("lipo", (2.0, 3.0, 1.0), (2 + lowest, 1 + lowest, lowest))
    assert found.loss == pytest.approx(0.9794546687111374, abs=1e-14)


@pytest.mark.parametrize(
    ("name", "hyper", "expected"),
    [
        # 4 > 0, 4 > 3, 4 > 1, 3 > 0, 3 > 1, 1 > 0: odds 1:1 1:3 1:1 3:1 3:1 1:1: (3 ln 2 + ln 4 + 2 ln(4/3))/6
        ("all-pairs", {}, 0.6735166746172147),
        ("chosen-by-rejected", {}, 0.4904146265058631),  # 4 > 0, 4 > 1, 3 > 0, 3 > 1: (2 ln 2 + 2 ln(4/3))/4
        ("mpo-top-bottom", {"top": 1.0, "bottom": 1.0, "alpha": 3.0}, LN_2),  # 4 > 0 alone
        ("mpo-top-bottom", {"top": 1.0, "bottom": 3.0, "alpha": 0.0}, 1.791759469228055),  # 4 over 0, 3, 1: ln(6/1)
        ("mpo-top-bottom", {"top": 3.0, "bottom": 1.0, "alpha": 0.0}, 0.1823215567939546),  # 4, 3, 1 over 0: ln(6/5)
        ("mpo-top-bottom", {"top": 1.0, "bottom": 9.0, "alpha": 0.0}, 1.0986122886681098),  # too few: 4 over 0, 1: ln 3
        # cuts after ceil(4/3) = 2 and ceil(8/3) = 3: {4 3} over {1 0}: ln(6/4); {4 3 1} over {0}: ln(6/5); halved
        ("mpo-levels", {"levels": 3.0}, 0.2938933324510595),
        ("ampo-bottom", {"keep": 2.0}, 1.0986122886681098),  # 4 over the two worst, 0 and 1: ln 3
    ],
)
def test_other_comparisons_of_the_same_set(name: str, hyper: dict[str, Any], expected: float) -> None:
    """Rewards 4 0 3 1, odds 1 1 3 1: DPO over pairs (arXiv 2305.18290), MPO at cuts (2412.04628), AMPO (2502.18293)."""
    assert worked(name, ODDS, REWARDS, **hyper).loss == pytest.approx(expected, abs=1e-14)
