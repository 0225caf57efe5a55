"""Objectives over a pair as literals: what becomes DPO, smoothed labels, shifts, masks of one.

beta is 1/2. "Odds a, b" means e^(beta s): the margin beta Delta is ln(a / b), sigma of it a / (a + b), and the DPO loss
ln((a + b) / a). A slope is the derivative by a response's log-prob sum: -+ beta sigma(-z) for DPO.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from examples import objective
from hand import BETA, LN_2, LN_3, worked
from torch import Tensor

from raypo.models.masks import MaskHead
from raypo.objective import tokens
from raypo.objective.overrides import override

PAIR = (3.0, 1.0)  # rewards; as odds: z = ln 3, sigma = 3/4, DPO ln(4/3)
LABELS = (1.0, 0.0)
OWNER = torch.tensor([0, 0, 1, 1, 1, 1])  # tokens of a response of two and one of four

Term = Callable[[Tensor], Tensor]


def weighted(weights: Tensor, shares: tuple[float, ...] = (0.5, 0.5, 0.25, 0.25, 0.25, 0.25)) -> Term:
    """sum_t m_t (lp_t - lr_t), each token with its share of its response's log-ratio."""
    share = torch.tensor(shares, dtype=torch.float64)

    def term(s: Tensor) -> Tensor:
        return tokens.weighted_log_ratios(weights.double(), s[0, OWNER] * share, torch.zeros_like(share), OWNER, 2)[
            None
        ]

    return term


WHOLE_TAIL = tokens.length_desensitized(OWNER, torch.tensor([2, 2]), tail=1.0)
AGREEING = tokens.importance(torch.zeros(6), OWNER == 0)


@pytest.mark.parametrize(
    ("name", "hyper", "terms"),
    [
        ("dpo", {"label_smoothing": 0.0}, {}),
        ("robust", {"flip_rate": 0.0}, {}),
        ("mallows-theta", {}, {}),
        ("mpo", {}, {}),
        ("plackett-luce", {}, {}),
        ("all-pairs", {}, {}),
        ("infonca", {"temperature": 1e-3}, {}),
        ("one-vs-rest", {}, {}),
        ("h-dpo", {"entropy_weight": 1.0}, {}),
        ("odpo", {"offset_scale": 0.0}, {}),
        ("r-dpo", {"length_reward": 0.0}, {}),
        ("f-dpo-alpha", {"order": 1.0}, {}),
        ("dpop", {"preferred_penalty": 0.0}, {}),
        ("tdpo2", {"kl_weight": 0.0}, {}),
        ("ld-dpo", {}, {"weighted_log_ratios": weighted(WHOLE_TAIL)}),
        (
            "tis-dpo",
            {},
            {"weighted_log_ratios": weighted(AGREEING)},
        ),
        ("wpo", {}, {"response_weights": torch.ones_like}),
        ("wpo-plain", {}, {"response_weights": torch.ones_like}),
        ("aot", {}, {}),
        ("aot-unpaired", {}, {}),
    ],
)
def test_what_becomes_dpo_has_its_value_and_its_gradient(
    name: str, hyper: dict[str, Any], terms: dict[str, Term]
) -> None:
    """DPO (arXiv 2305.18290) at odds 3, 1: ln(1 + 1/3) = .2876820724517808, slopes -+ 1/2 x 1/4 = -+ .125.

    Robust DPO (2403.00409) without flips; MallowsPO (2405.14953) at psi 1; MPO (2412.04628), InfoNCA (2402.05369) at
    T -> 0 and Plackett-Luce for two responses; H-DPO (2411.07595), LD-DPO (2409.06411) and f-DPO (2309.16240, order 1)
    at 1; ODPO (2402.10571), R-DPO (2403.19159), DPOP (2402.13228) and TDPO2 (2404.11999) at 0; TIS-DPO (2410.04350) of
    models that agree and WPO (2406.11827) at weight 1; AOT (2406.05882) of one set.
    """
    found = worked(name, PAIR, PAIR, terms=terms, **hyper)
    assert found.loss == pytest.approx(0.2876820724517808, abs=1e-15)
    assert found.slope == pytest.approx([-0.125, 0.125], abs=1e-15)


def test_f_dpo_under_the_reverse_kl_is_dpo() -> None:
    """f-DPO (arXiv 2309.16240): f'(u) = ln u + 1, whose 1 cancels: ln(4/3) and -+ 1/8 at odds 3, 1."""
    found = worked(override(objective("dpo", beta=BETA), {"prior": "reverse-kl"}), PAIR, PAIR)
    assert found.loss == pytest.approx(0.2876820724517808, abs=1e-15)
    assert found.slope == pytest.approx([-0.125, 0.125], abs=1e-15)


@pytest.mark.parametrize("odds", [(3.0, 1.0), (1.0, 3.0)])
def test_cdpo_at_one_half_does_not_know_which_response_won(odds: tuple[float, float]) -> None:
    """CDPO: ln(4/3) / 2 + ln(4) / 2 = ln(16/3) / 2 = .8369882167858358 in both orders; slope +-(3/4 - 1/2) / 2."""
    found = worked("dpo", odds, PAIR, label_smoothing=0.5)
    assert found.loss == pytest.approx(0.8369882167858358, abs=1e-15)
    expected = [0.125, -0.125] if odds[0] > 1 else [-0.125, 0.125]
    assert found.slope == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("odds", "expected", "slope"),
    [
        (2.0, 0.5787519032481507, -1 / 24),  # 3/4 ln(3/2) + 1/4 ln 3; (2/3 - 3/4) / 2
        (3.0, 0.5623351446188083, 0.0),  # 3/4 ln(4/3) + 1/4 ln 4, the entropy of 1/4
        (4.0, 0.5697171415941824, 0.025),  # 3/4 ln(5/4) + 1/4 ln 5; (4/5 - 3/4) / 2
    ],
)
def test_cdpo_is_least_where_the_margin_is_the_log_odds_of_a_right_label(
    odds: float, expected: float, slope: float
) -> None:
    """CDPO, eps 1/4: the optimum is beta Delta = logit(3/4) = ln 3; the slope is beta (sigma(z) - (1 - eps))."""
    found = worked("dpo", (odds, 1.0), PAIR, label_smoothing=0.25)
    assert found.loss == pytest.approx(expected, abs=1e-15)
    assert found.slope == pytest.approx([slope, -slope], abs=1e-15)


def test_robust_dpo_takes_the_flipped_share_away() -> None:
    """Robust DPO (arXiv 2403.00409), eps 1/4, odds 3, 1: (3/4 ln(4/3) - 1/4 ln 4) / (1/2) = -.261624071882274.

    Slope: beta (-3/4 x 1/4 - 1/4 x 3/4) / (1/2) = -3/8.
    """
    found = worked("robust", PAIR, PAIR, flip_rate=0.25)
    assert found.loss == pytest.approx(-0.261624071882274, abs=1e-15)
    assert found.slope == pytest.approx([-0.375, 0.375], abs=1e-15)


@pytest.mark.parametrize("scale", [1.0, 2.0, 1e6])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dpo", 0.4054651081081644),  # ln(3/2)
        ("mpo", 0.4054651081081644),
        ("ipo", 0.14922333343302444),  # (2 ln 2 - 1)^2
        ("hinge", 0.3068528194400547),  # 1 - ln 2
        ("mallows-theta", 0.22314355131420976),  # psi 2: ln(1 + 1/4)
    ],
)
def test_a_factor_on_all_odds_changes_no_comparison(name: str, expected: float, scale: float) -> None:
    """Odds 2, 1: Delta = 2 ln 2.

    DPO 2305.18290, MPO 2412.04628, IPO 2310.12036, SLiC 2309.06657, MallowsPO 2405.14953.
    """
    found = worked(name, (2 * scale, scale), PAIR, psi=2.0 if name == "mallows-theta" else 1.0)
    assert found.loss == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        # from ln(3/2) + ln(3) / 2 + ln(2) / 2 to ln(5/4) + ln(5) / 2 + ln(3) / 2
        ("nca", 1.3013448427221919, 1.577168651865315),
        ("bco-pair", LN_3, 1.3217558399823195),  # ln(3/2) + ln 2; ln(5/4) + ln 3
        ("kto", 5 / 12, 13 / 30),  # (1/3 + 1/2) / 2; (1/5 + 2/3) / 2
        ("apo-zero", 5 / 6, 13 / 15),  # 1/3 + 1/2; 1/5 + 2/3
        ("apo-down", 1.0, 17 / 15),  # 2/3 + 1/3; 4/5 + 1/3
        # (2 ln 2 - 1)^2 + 1 = .149223 + 1; (4 ln 2 - 1)^2 + (2 ln 2 + 1)^2 = 3.142071 + 5.694401
        ("sppo-hard", 1.1492233334330244, 8.836471556124248),
        # DPO of beta 1, Delta = 2 ln 2: ln(5/4) = .223144, and half of SPPO
        ("cal-dpo", 0.7977552180307219, 4.641379329376334),
    ],
)
def test_a_factor_on_all_odds_changes_what_is_held_against_a_constant(name: str, before: float, after: float) -> None:
    """Odds 2, 1, then 4, 2.

    NCA 2402.05369 (T -> 0), BCO 2404.04656, KTO 2402.01306 (z = 0), APO 2408.06266, SPPO 2405.00675, Cal-DPO
    2412.14516.
    """
    hyper: dict[str, Any] = {"temperature": 1e-3} if name == "nca" else {}
    terms: dict[str, Term] = {"anchor": torch.zeros_like} if name == "kto" else {}
    found = [worked(name, odds, LABELS, terms=terms, **hyper).loss for odds in ((2.0, 1.0), (4.0, 2.0))]
    assert found == pytest.approx([before, after], abs=1e-14)


def test_simpo_without_a_margin_and_with_equal_lengths_is_cpo() -> None:
    """SimPO (arXiv 2405.14734), beta 2, 4 tokens each, is CPO's preference (2401.08417) at 2 / 4: ln(4/3), -+ 1/8."""
    simpo = worked("simpo", PAIR, PAIR, beta=2.0, gamma=0.0)
    cpo = worked("cpo", PAIR, PAIR, nll=0.0)
    for found in (simpo, cpo):
        assert found.loss == pytest.approx(0.2876820724517808, abs=1e-15)
        assert found.slope == pytest.approx([-0.125, 0.125], abs=1e-15)


@pytest.mark.parametrize("name", ["tdpo1", "sparsepo", "sparsepo-independent", "mapo"])
def test_masks_of_one_make_sparsepo_tdpo1(name: str) -> None:
    """TDPO1 (arXiv 2404.11999): z = beta (Delta + KL_w - KL_l) = ln 3 + ln 2 at KLs 2 ln 2 and 0: ln(7/6).

    KL falls by .1 per nat of s, so dr/ds = .9 and slopes are -+ 1/2 x .9 / 7. SparsePO (2410.05102) has masks as they
    start, all ones, and without its penalty on them is the same.
    """
    first = MaskHead(2, 1, 2)(torch.tensor([[[3.0], [-1.0], [0.0], [2.0], [5.0], [-4.0]]] * 2))[0].detach()
    terms: dict[str, Term] = {
        "forward_kl": lambda s: torch.tensor([[2 * LN_2, 0.0]], dtype=torch.float64) - 0.1 * (s - s.detach())
    }
    if name != "tdpo1":
        terms["weighted_log_ratios"] = weighted(first)
    if name.startswith("sparsepo"):
        terms["mask_sizes"] = lambda s: torch.full_like(s, 2.0)  # |m| + |d|
    hyper: dict[str, Any] = {"sparsity": 0.0} if name.startswith("sparsepo") else {}
    if hyper:  # |m| + |d| is 2: .01 x 2 more
        penalised = worked(name, PAIR, PAIR, terms=terms, sparsity=0.01)
        assert penalised.loss == pytest.approx(0.17415067982725836, abs=1e-14)
    found = worked(name, PAIR, PAIR, terms=terms, **hyper)
    assert found.loss == pytest.approx(0.15415067982725836, abs=1e-14)
    assert found.slope == pytest.approx([-0.0642857142857143, 0.0642857142857143], abs=1e-14)
