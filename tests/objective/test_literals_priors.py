"""What the policy is measured against, as literals: rows of MI-DPO (arXiv 2501.01544), -log sigma(beta (r_w - r_l)).

Two responses of 2 and 4 tokens, reference log-probs -2 ln 2 and -4 ln 2, log-ratios s 2 ln 3 and 0 where nothing else
is said, beta 1/2: beta lr is -ln 2 and -2 ln 2, beta lp is ln 3 - ln 2 and -2 ln 2. At a margin ln m the loss is
ln(1 + 1/m) and sigma(-z) = 1/(1 + m); a slope, the derivative by a response's log-prob sum, is -+ beta r' sigma(-z).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hand import LN_2, LN_3, worked
from torch import Tensor

from raypo.objective import LinearPrior, tokens
from raypo.objective.prior import log_ratios

REFERENCE = (-2 * LN_2, -4 * LN_2)
OWNER = torch.tensor([0, 0, 1, 1, 1, 1])
PAIR = (3.0, 1.0)

Term = Callable[[Tensor], Tensor]


def weighted(weights: list[float], shares: tuple[float, ...]) -> Term:
    """sum_t m_t (lp_t - lr_t), each token with its share of its response's log-ratio."""
    share, mask = torch.tensor(shares, dtype=torch.float64), torch.tensor(weights, dtype=torch.float64)

    def term(s: Tensor) -> Tensor:
        return tokens.weighted_log_ratios(mask, s[0, OWNER] * share, torch.zeros_like(share), OWNER, 2)[None]

    return term


def divergence(preferred: float) -> Term:
    """A forward KL of the given nats and of 0, which falls by .1 per nat of the log-ratio."""
    return lambda s: torch.tensor([[preferred, 0.0]], dtype=torch.float64) - 0.1 * (s - s.detach())


LD = tokens.length_desensitized(OWNER, torch.tensor([2, 2]), tail=0.5).tolist()  # 1 1, 1 1 1/2 1/2
EVEN = (0.5, 0.5, 0.25, 0.25, 0.25, 0.25)

ROWS: dict[str, tuple[str, dict[str, Any], tuple[float, float], float, list[float]]] = {
    # z = ln 3: ln(4/3), 1/2 x 1/4
    "DPO": ("dpo", {}, PAIR, 0.2876820724517808, [-0.125, 0.125]),
    # z = ln 3 - ln 2 + 2 ln 2 = ln 6: ln(7/6), 1/2 x 1/7
    "CPO": ("cpo", {"nll": 0.0}, PAIR, 0.15415067982725836, [-0.5 / 7, 0.5 / 7]),
    # beta 2: 2 ((2 ln 3 - 2 ln 2)/2 + 4 ln(2)/4) - ln 3 = ln 3: ln(4/3), 2/|y| x 1/4
    "SimPO": ("simpo", {"beta": 2.0, "gamma": LN_3}, PAIR, 0.2876820724517808, [-0.25, 0.125]),
    # beta 2: 2 (2 ln(3)/2 - 0) = ln 9: ln(10/9), 2/|y| x 1/10
    "LN-DPO": ("ln-dpo", {"beta": 2.0}, PAIR, 0.10536051565782628, [-0.1, 0.05]),
    # ln 3 + ln(2) (2 - 4) = ln(3/4): ln(7/3), 1/2 x 4/7
    "R-DPO": ("r-dpo", {"length_reward": LN_2}, PAIR, 0.8472978603872037, [-2 / 7, 2 / 7]),
    # 1/2 ln 6 - (-ln 2 + 2 ln 2) = ln(sqrt(6)/2): ln(1 + 2/sqrt 6), 1/4 x 1/(1 + sqrt(6)/2) = 1/4 x .449489743
    "H-DPO": ("h-dpo", {"entropy_weight": 0.5}, PAIR, 0.5969096904465341, [-0.11237243569579453, 0.11237243569579453]),
    # KL 2 ln 2 and 0: ln 3 + ln 2 = ln 6: ln(7/6), 1/2 (1 - .1)/7
    "TDPO1": (
        "tdpo1",
        {"terms": {"forward_kl": divergence(2 * LN_2)}},
        PAIR,
        0.15415067982725836,
        [-0.45 / 7, 0.45 / 7],
    ),
    # KL 4 ln 2 and 0, weight 1/2: ln 3 + ln 2; the preferred KL is constant: 1/2 x 1/7, 1/2 (1 - .05)/7
    "TDPO2": (
        "tdpo2",
        {"kl_weight": 0.5, "terms": {"forward_kl": divergence(4 * LN_2)}},
        PAIR,
        0.15415067982725836,
        [-0.5 / 7, 0.475 / 7],
    ),
    # log-ratios 2 ln 3, halved over tokens of weights .7 and 1.3: ln 3; slopes of 1 and of (.7 .7 1.3 1.3)/4 = 1
    "TIS-DPO": (
        "tis-dpo",
        {"terms": {"weighted_log_ratios": weighted([0.7, 1.3, 0.7, 0.7, 1.3, 1.3], EVEN)}},
        PAIR,
        0.2876820724517808,
        [-0.125, 0.125],
    ),
    # masks 1/2 at s = 4 ln 3 and KL 2 ln 2: ln 3 + ln 2 = ln 6: ln(7/6) + .01 x 1; 1/2 (.5 - .1)/7
    "SparsePO": (
        "sparsepo",
        {
            "sparsity": 0.01,
            "terms": {
                "weighted_log_ratios": weighted([0.5] * 6, EVEN),
                "forward_kl": divergence(2 * LN_2),
                "mask_sizes": torch.ones_like,
            },
        },
        (9.0, 1.0),
        0.16415067982725837,
        [-0.2 / 7, 0.2 / 7],
    ),
    # s_l = -4 ln 2, all of it beyond the shortest, counts half: ln 3 + ln 2 = ln 6: ln(7/6); 1/2 x 1/7, half of it
    "LD-DPO": (
        "ld-dpo",
        {"tail": 0.5, "terms": {"weighted_log_ratios": weighted(LD, (0.5, 0.5, 0.0, 0.0, 0.5, 0.5))}},
        (3.0, 0.25),
        0.15415067982725836,
        [-0.5 / 7, 0.25 / 7],
    ),
    # ln 9 - ln(1 + 2) = ln 3: ln(4/3)
    "ODPO": ("odpo", {"offset_scale": 1.0}, (9.0, 1.0), 0.2876820724517808, [-0.125, 0.125]),
    # psi 2: ln 9: ln(10/9), 2 x 1/2 x 1/10
    "MallowsPO-theta": ("mallows-theta", {"psi": 2.0}, PAIR, 0.10536051565782628, [-0.1, 0.1]),
    # 4 and 2 tokens, psi 8, mixing 1/2, gamma ln(2)/2: psi beta = 4;
    # policy 4 [(2 ln 3 - 2 ln 2)/4 + 4 ln(2)/2] = 2 ln 3 + 6 ln 2;
    # reference -2 ln(2)/4 + 4 ln(2)/2 = 3/2 ln 2, 4 x 1/2 x it = 3 ln 2; 8 x 1/2 x ln(2)/2 = 2 ln 2: in all ln 18
    "RainbowPO": (
        "rainbow",
        {"psi": 8.0, "mixing": 0.5, "gamma": LN_2 / 2, "lengths": (4, 2)},
        PAIR,
        0.05406722127027579,
        [-1 / 19, 2 / 19],
    ),
    # at 1 it is LN-DPO (psi 1, beta 2) and at 0 SimPO
    "RainbowPO, reference alone": (
        "rainbow",
        {"beta": 2.0, "mixing": 1.0, "gamma": LN_3},
        PAIR,
        0.10536051565782628,
        [-0.1, 0.05],
    ),
    "RainbowPO, margin alone": (
        "rainbow",
        {"beta": 2.0, "mixing": 0.0, "gamma": LN_3},
        PAIR,
        0.2876820724517808,
        [-0.25, 0.125],
    ),
    # s 0 and -2 ln 2: r = u + ln u is 1 and 1/4 - 2 ln 2: z = 3/8 + ln 2, ln(1 + e^-.375 / 2), sigma(-z) .25575560;
    # r' = 1 + u: 2 and 5/4
    "chi-PO": ("chi-po", {}, (1.0, 0.5), 0.29538580192804514, [-0.2557555988539454, 0.15984724928371587]),
    # r = -1/u: -1/9 and -1: z = 4/9, ln(1 + e^(-4/9)), sigma(-z) .39068246; r' = 1/9 and 1: .39068246 / 18, / 2
    "f-DPO, forward KL": (
        "f-dpo-forward-kl",
        {},
        PAIR,
        0.495415731983639,
        [-0.02170458100869107, 0.19534122907821965],
    ),
    # r = ln(2u/(1 + u)): ln(9/5) and 0: z = ln(9/5)/2, ln(1 + sqrt(5)/3), sigma(-z) .42705098; r' = 1/10 and 1/2
    "f-DPO, Jensen-Shannon": (
        "f-dpo-js",
        {},
        PAIR,
        0.5569585420110426,
        [-0.021352549156242112, 0.10676274578121056],
    ),
    # order 1/2: r = 2 (1 - u^(-1/2)): 4/3 and 0: z = 2/3, ln(1 + e^(-2/3)), sigma(-z) .33924363; r' = 1/3 and 1
    "f-DPO, alpha": (
        "f-dpo-alpha",
        {"order": 0.5},
        PAIR,
        0.41437008685207205,
        [-0.05654060520569714, 0.16962181561709142],
    ),
    # s_w = -2 ln 2, penalty 1: r_w = -4 ln 2: z = -2 ln 2, ln 5; 4/5 x 1/2, twice where preferred
    "DPOP": ("dpop", {"preferred_penalty": 1.0}, (0.5, 1.0), 1.6094379124341003, [-0.8, 0.4]),
    # ln 3 + 2 ln 2 = ln 12: ln(13/12), 1/2 x 1/13
    "W-MPO of a pair, signed": ("w-mpo-signed", {"alpha": LN_2}, PAIR, 0.08004270767353636, [-0.5 / 13, 0.5 / 13]),
}


@pytest.mark.parametrize("row", ROWS)
def test_a_method_is_dpo_with_another_log_ratio(row: str) -> None:
    """The arithmetic stands above each row.

    DPO 2305.18290, CPO 2401.08417, SimPO and LN-DPO 2405.14734, R-DPO 2403.19159, H-DPO 2411.07595, TDPO 2404.11999,
    TIS-DPO 2410.04350, SparsePO 2410.05102, LD-DPO 2409.06411, ODPO 2402.10571, MallowsPO 2405.14953, RainbowPO
    2410.04203, chi-PO 2407.13399, f-DPO 2309.16240, DPOP 2402.13228, W-MPO 2412.16378.
    """
    name, given, odds, expected, slope = ROWS[row]
    found = worked(name, odds, PAIR, **({"reference": REFERENCE, "lengths": (2, 4)} | given))
    assert found.loss == pytest.approx(expected, abs=1e-14)
    assert found.slope == pytest.approx(slope, abs=1e-14)


def test_the_best_prior_is_the_marginal_and_leaves_the_mutual_information() -> None:
    """MI-DPO (arXiv 2501.01544): E_x KL(pi || zeta) = I(X; Y) + KL(zeta* || zeta), zeta* = E_x pi(y | x).

    Two prompts, pi = (3/4, 1/4) and (1/4, 3/4), zeta* = (1/2, 1/2): I = 3/4 ln(3/2) + 1/4 ln(1/2) = .13081203594113697.
    zeta = (4/5, 1/5) costs KL((1/2, 1/2) || it) = (ln(5/8) + ln(5/2))/2 = .22314355131420976 more: .3539555872553467.
    """
    pi = torch.tensor([[0.75, 0.25], [0.25, 0.75]], dtype=torch.float64)
    for zeta, expected in (([0.5, 0.5], 0.13081203594113697), ([0.8, 0.2], 0.3539555872553467)):
        prior = torch.tensor([zeta, zeta], dtype=torch.float64)
        ratio, _ = log_ratios(LinearPrior(), pi.log(), prior.log(), torch.ones(2, 2), {})
        assert (pi * ratio).sum(1).mean().item() == pytest.approx(expected, abs=1e-15)
