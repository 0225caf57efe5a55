"""MallowsPO (arXiv 2405.14953) as literals: psi on the score (theta), and the pair probability g_phi as link.

g_phi(s) = (s+1)/(1 - phi^(s+1)) - s/(1 - phi^s) for s > 0, and 1 - g_phi(-s) below. At phi = 1/2, psi = ln 2:
g(1) = 2/(3/4) - 1/(1/2) = 8/3 - 2 = 2/3, g(3) = 4/(15/16) - 3/(7/8) = 64/15 - 24/7 = 88/105.
"""

from __future__ import annotations

import math

import pytest
import torch
from examples import inputs, objective
from hand import LN_2, LN_3, Worked, worked

from raypo.dispersion.index import psi_of
from raypo.objective import set_loss

PAIR = (3.0, 1.0)


def phi(gap: float, psi: float, *, beta: float = 0.5, shift: float = 0.0) -> Worked:
    """Preset mallows-phi at beta (s_w - s_l) = gap, and its slopes."""
    made = inputs([[gap / beta + shift - 5, shift - 5]], [list(PAIR)], psi=torch.tensor([psi], dtype=torch.float64))
    made["policy_logps"].requires_grad_()
    loss = set_loss(objective("mallows-phi", beta=beta), **made).loss.sum()
    (slope,) = torch.autograd.grad(loss, made["policy_logps"])
    return Worked(loss.item(), slope[0].tolist())


def test_a_constant_psi_is_dpo_with_beta_times_it() -> None:
    """Psi 2, beta 1/2, odds 3, 1: z = 2 ln 3, ln(1 + 1/9) = .10536051565782628; slopes -+ 2 x 1/2 x 1/10.

    DPO at beta 1 has the same: Delta is 2 ln 3.
    """
    for found in (worked("mallows-theta", PAIR, PAIR, psi=2.0), worked("dpo", PAIR, PAIR, beta=1.0)):
        assert found.loss == pytest.approx(0.10536051565782628, abs=1e-15)
        assert found.slope == pytest.approx([-0.1, 0.1], abs=1e-15)


def test_phi_of_one_over_root_e_is_dpo() -> None:
    """-2 ln e^(-1/2) = 1: psi is 1 and theta is DPO, ln(4/3) and -+ 1/8 at odds 3, 1."""
    psi = psi_of(torch.tensor(math.exp(-0.5), dtype=torch.float64), model="theta").item()
    found = worked("mallows-theta", PAIR, PAIR, psi=psi)
    assert psi == pytest.approx(1.0, abs=1e-15)
    assert found.loss == pytest.approx(0.2876820724517808, abs=1e-15)
    assert found.slope == pytest.approx([-0.125, 0.125], abs=1e-15)


def test_psi_of_a_known_dispersion_is_the_log_odds_at_a_gap_of_one() -> None:
    """Phi 1/3: theta's sigma(2 ln 3) = 9/10; phi's g(1) = 1/(1 + 1/3) = 3/4 = sigma(ln 3)."""
    third = torch.tensor(1 / 3, dtype=torch.float64)
    assert psi_of(third, model="theta").item() == pytest.approx(2 * LN_3, abs=1e-15)
    assert psi_of(third, model="phi").item() == pytest.approx(LN_3, abs=1e-15)
    assert phi(1.0, LN_3).loss == pytest.approx(0.2876820724517808, abs=1e-14)  # -ln(3/4)


@pytest.mark.parametrize(("odds", "expected"), [(3.0, 0.6931471750668839), (1 / 3, 0.6931471860530067)])
def test_theta_without_agreement_has_no_gradient(odds: float, expected: float) -> None:
    """phi -> 1, psi 1e-8: ln 2 -+ psi ln(3) / 2 = ln 2 -+ 5.4930614e-9 to first order, slope -+ psi beta / 2."""
    found = worked("mallows-theta", (odds, 1.0), PAIR, psi=1e-8)
    assert found.loss == pytest.approx(expected, abs=1e-15)
    assert found.slope == pytest.approx([-2.5e-9, 2.5e-9], rel=1e-7)


@pytest.mark.parametrize(
    ("odds", "expected", "slope"), [(3.0, 0.0, 0.0), (1 / 3, 1098612.2886681098, -500000.0), (1.0, LN_2, -250000.0)]
)
def test_theta_in_full_agreement_is_a_step(odds: float, expected: float, slope: float) -> None:
    """phi -> 0, psi 1e6: 0 on the right side, psi ln 3 on the wrong one with slope -psi beta, ln 2 between."""
    found = worked("mallows-theta", (odds, 1.0), PAIR, psi=1e6)
    assert found.loss == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert found.slope == pytest.approx([slope, -slope], rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(
    ("gap", "psi", "expected"),
    [
        (1.0, LN_2, 0.4054651081081644),  # ln(3/2)
        (-1.0, LN_2, 1.0986122886681098),  # 1 - 2/3: ln 3
        (3.0, LN_2, 0.17662353567931685),  # ln(105/88)
        (-3.0, LN_2, 1.8207470061013074),  # 1 - 88/105 = 17/105: ln(105/17)
        # 11/(1 - 2^-11) - 10/(1 - 2^-10) = 22528/2047 - 10240/1023 = 2084864/2094081 = .9955985465700706
        (10.0, LN_2, 0.0044111683430495185),
        (-10.0, LN_2, 5.425820467619252),  # ln(2094081/9217)
        # phi .9: 11/(1 - .3138105961) - 10/(1 - .3486784401) = 16.0305694 - 15.3534093 = .6771600735375
        (10.0, 0.10536051565782628, 0.389847588616112),
        (0.0, LN_2, LN_2),  # a tie
        (0.0, 5.0, LN_2),
    ],
)
def test_the_phi_link_is_minus_the_log_of_the_pair_probability(gap: float, psi: float, expected: float) -> None:
    """-ln g_phi(beta Delta), whatever is added to both log-ratios."""
    for shift in (0.0, 40.0):
        assert phi(gap, psi, shift=shift).loss == pytest.approx(expected, abs=1e-12)


def test_the_phi_link_within_a_gap_of_one_is_a_cubic_in_the_logit() -> None:
    """Phi 1/2 at 1/2: logit a s + b s^3 with the formula's value and slope at 1, as the formula jumps at 0.

    kappa = ln 2 (1 + 1/4)/(1/4) - (3/2)/(1/2) = 5 ln 2 - 3 = .4657359; b = (kappa - ln 2)/2 = -.1137056, a = ln 2 - b =
    .8068528; logit .4034264 - .0142132 = .3892132, ln(1 + e^-.3892132) = .5173581140207422.
    """
    assert phi(0.5, LN_2).loss == pytest.approx(0.5173581140207422, abs=1e-14)


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
def test_phis_tail_has_the_slope_lambda_beta(beta: float) -> None:
    """Phi 1/2, gap -a: 1 - g(a) = a/(2^a - 1) - (a + 1)/(2^(a+1) - 1), which for large a is 2^-a (a - 1)/2.

    a = 1001: 1001 ln 2 - ln 500 = 687.625719642083, slope -beta (ln 2 - 1/1000) = -beta x .6921471805599453.
    a = 10^6 + 1: -beta x .6931461805599453, on the way to lambda beta.
    """
    found = phi(-1001.0, LN_2, beta=beta)
    assert found.loss == pytest.approx(687.625719642083, rel=1e-13)
    assert found.slope == pytest.approx([-0.6921471805599453 * beta, 0.6921471805599453 * beta], rel=1e-11)
    assert phi(-1000001.0, LN_2, beta=beta).slope[0] == pytest.approx(-0.6931461805599453 * beta, rel=1e-9)


def test_phi_without_agreement_has_no_gradient() -> None:
    """phi -> 1: g -> 1/2 for every gap, and the slope at a tie is -beta a / 2, a = psi - (2/3 psi - psi)/2 = 7/6 psi.

    beta 1/2, psi 1e-3: -7/24 x 1e-3 = -2.9166667e-4; psi 1e-6: a thousandth of it, with ln 2 at gaps -3 and 3 to 1e-5.
    """
    assert phi(0.0, 1e-3).slope == pytest.approx([-2.9166667e-4, 2.9166667e-4], rel=1e-6)
    assert phi(0.0, 1e-6).slope == pytest.approx([-2.9166667e-7, 2.9166667e-7], rel=1e-6)
    assert [phi(gap, 1e-6).loss for gap in (-3.0, 3.0)] == pytest.approx([LN_2, LN_2], abs=1e-5)


def test_phi_in_full_agreement_is_a_step() -> None:
    """phi -> 0, 1e-6 at psi 13.8155: g(2) = 3/(1 - phi^3) - 2/(1 - phi^2) = 1 - 2 phi^2, so the loss is 2e-12."""
    assert phi(2.0, 13.8155).loss == pytest.approx(2e-12, rel=1e-4)


def test_psi_scales_scores_and_not_deviations_in_a_set() -> None:
    """Psi 2, beta 1/2, s = ln(1 1 3 1): scores ln(1 1 3 1); rewards 4 0 3 1, alpha ln 2: weights 4 4 2 2.

    W-MPO's fraction (arXiv 2412.04628) is (4 + 6)/(4 + 4 + 6 + 2): ln 1.6 = .4700036292457356.
    """
    found = worked("mallows-mpo", [n**0.5 for n in (1, 1, 3, 1)], (4.0, 0.0, 3.0, 1.0), psi=2.0, alpha=LN_2)
    assert found.loss == pytest.approx(0.4700036292457356, abs=1e-14)
    assert found.slope == pytest.approx([-0.15, 0.25, -0.225, 0.125], abs=1e-14)  # psi beta (p - q)
