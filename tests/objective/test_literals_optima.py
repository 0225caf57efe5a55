"""Where objectives start, where they are least, and what batches do to them, as literals.

beta is 1/2. "Odds a, b" means e^(beta s): the margin beta Delta is ln(a / b), sigma of it a / (a + b). A slope is the
derivative by a response's log-prob sum.
"""

from __future__ import annotations

import pytest
import torch
from examples import inputs, objective
from hand import BETA, LN_2, LN_3, worked
from torch import Tensor

from raypo.objective import outside, set_loss

PAIR = (3.0, 1.0)  # rewards
FIVE = (9.0, 1.0, 7.0, 4.0, 2.0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dpo", LN_2),
        ("mallows-theta", LN_2),
        ("mallows-phi", LN_2),
        ("chi-po", LN_2),  # clip(beta (1 + 0 - 1 - 0)) = 0
        ("f-dpo-js", LN_2),
        ("cauchy", LN_2),  # -ln(0 + 1/2)
        ("all-pairs", LN_2),
        ("ipo", 1.0),  # 1 / (4 beta^2)
        ("hinge", 1.0),
        ("sppo-hard", 2.0),  # 1 / (2 beta^2)
        ("nca", 1.3862943611198906),  # 2 ln 2
        ("bco-pair", 1.3862943611198906),  # 2 ln 2
        ("apo-zero", 1.0),
        ("apo-down", 1.0),
        ("exo", 2.761230709097915),  # ln(1/2) - (ln .999 + ln .001) / 2 = -.693147 + .000500 + 3.453878
        ("discopop", 0.8465735902799727),  # ln(2) / 2 + 1/2
        ("mpo", 0.9162907318741551),  # ln(5/2): two of five above the mean 4.6
        ("infonca", 1.6094379124341003),  # ln 5
        ("one-vs-rest", 1.6094379124341003),
        ("plackett-luce", 4.787491742782046),  # ln 5! = ln 120
        ("cal-dpo", 1.6931471805599454),  # ln 2 + 1 / (4 beta^2)
    ],
)
def test_values_at_the_reference(name: str, expected: float) -> None:
    """Policy == reference, rewards 9 1 7 4 2, each by its paper's formula at s = 0 (`raypo presets` names them)."""
    assert worked(name, (1.0,) * 5, FIVE).loss == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("labels", [(1.0,), (0.0,), (1.0, 0.0)])
def test_kto_starts_at_one_half_for_each_label(labels: tuple[float, ...]) -> None:
    """KTO (arXiv 2402.01306), z = 0: 1 - sigma(0) = 1/2; slopes -+ beta / 4, shared by the number of responses."""
    found = worked("kto", (1.0,) * len(labels), labels, terms={"anchor": torch.zeros_like})
    assert found.loss == pytest.approx(0.5, abs=1e-16)
    assert found.slope == pytest.approx([(-0.125 if label else 0.125) / len(labels) for label in labels], abs=1e-16)


@pytest.mark.parametrize(
    ("gap", "expected", "slope"),
    [(0.0, 1.0, -2.0), (1.0, 0.0, 0.0), (3.0, 4.0, 4.0)],  # (Delta - 1)^2 and 2 (Delta - 1)
)
def test_ipo_is_least_at_a_gap_of_one_over_two_beta(gap: float, expected: float, slope: float) -> None:
    """IPO (arXiv 2310.12036), tau = beta = 1/2: the target is 1/(2 tau) = 1; per token of 4, s is 4 times as large."""
    made = inputs([[gap - 5, -5.0]], [list(PAIR)])
    made["policy_logps"].requires_grad_()
    out = set_loss(objective("ipo", beta=BETA), **made)
    out.loss.sum().backward()
    assert out.loss.item() == pytest.approx(expected, abs=1e-15)
    assert made["policy_logps"].grad[0].tolist() == pytest.approx([slope, -slope], abs=1e-15)
    mean = set_loss(objective("ipo-mean", beta=BETA), **inputs([[4 * gap - 5, -5.0]], [list(PAIR)]))
    assert mean.loss.item() == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize(
    ("ratios", "expected", "slope"),
    [
        ((0.0, 0.0), 2.0, [-2.0, 2.0]),  # 1 + 1
        ((1.0, -1.0), 0.0, [0.0, 0.0]),
        ((2.0, 0.0), 2.0, [2.0, 2.0]),  # the same gap, not the same loss
    ],
)
def test_sppo_is_least_at_plus_and_minus_one_over_two_beta(
    ratios: tuple[float, float], expected: float, slope: list[float]
) -> None:
    """SPPO (arXiv 2405.00675), beta 1/2: (s_w - 1)^2 + (s_l + 1)^2."""
    made = inputs([[ratio - 5 for ratio in ratios]], [list(PAIR)])
    made["policy_logps"].requires_grad_()
    out = set_loss(objective("sppo-hard", beta=BETA), **made)
    out.loss.sum().backward()
    assert out.loss.item() == pytest.approx(expected, abs=1e-15)
    assert made["policy_logps"].grad[0].tolist() == pytest.approx(slope, abs=1e-15)


@pytest.mark.parametrize(
    ("odds", "expected", "slope"),
    [(3.0, 0.0, 0.0), (1.0, 0.14384103622589042, -0.13732653608351372)],
)
def test_exo_is_zero_where_the_policy_has_the_smoothed_preference(odds: float, expected: float, slope: float) -> None:
    """EXO (arXiv 2402.00856), eps 1/4: KL(sigma(z) || 3/4) is 0 at sigma = 3/4, odds 3.

    At odds 1: (ln(2/3) + ln 2) / 2 = ln(4/3) / 2 = .14384103622589042, slope beta sigma (1 - sigma) (0 - ln 3) =
    -ln(3) / 8 = -.13732653608351372.
    """
    found = worked("exo", (odds, 1.0), PAIR, smoothing=0.25)
    assert found.loss == pytest.approx(expected, abs=1e-15)
    assert found.slope == pytest.approx([slope, -slope], abs=1e-15)


def batch(policy: list[list[float]], reference: list[list[float]]) -> dict[str, Tensor]:
    """Pairs, the first response of each preferred."""
    made = inputs(policy, [list(PAIR)] * len(policy))
    return made | {"reference_logps": torch.tensor(reference, dtype=torch.float64)}


def test_aot_of_two_sets_is_not_that_of_each_alone() -> None:
    """AOT (arXiv 2406.05882): policy gaps 2 ln 3, 0 and reference gaps 0, 2 ln 3, beta 1/2.

    Alone, margins ln 3 and -ln 3: ln(4/3) and ln 4. Together the sorted gaps agree: margins 0, ln 2 twice.
    """
    aot = objective("aot", beta=BETA)
    alone = [
        set_loss(aot, **batch([[2 * LN_3, 0.0]], [[0.0, 0.0]])).loss.item(),
        set_loss(aot, **batch([[0.0, 0.0]], [[2 * LN_3, 0.0]])).loss.item(),
    ]
    both = set_loss(aot, **batch([[2 * LN_3, 0.0], [0.0, 0.0]], [[0.0, 0.0], [2 * LN_3, 0.0]])).loss.tolist()
    assert alone == pytest.approx([0.2876820724517808, 1.3862943611198906], abs=1e-15)
    assert both == pytest.approx([LN_2, LN_2], abs=1e-15)


def test_a_mean_of_means_is_the_mean_only_of_equal_micro_batches() -> None:
    """DPO of three pairs, odds 3, 1, 1/3: ln(4/3), ln 2, ln 4, whose mean is ln(32/3) / 3 = .789041204710539.

    Micro-batches of 1 and 2: (ln(4/3) + ln(8) / 2) / 2 = .6637014216458493; three of 1 are the mean.
    """
    zero = [0.0, 0.0]
    loss = set_loss(objective("dpo", beta=BETA), **batch([[2 * LN_3, 0.0], zero, [-2 * LN_3, 0.0]], [zero] * 3)).loss
    assert loss.mean().item() == pytest.approx(0.789041204710539, abs=1e-15)
    assert torch.stack([loss[:1].mean(), loss[1:].mean()]).mean().item() == pytest.approx(0.6637014216458493, abs=1e-15)
    assert torch.stack([part.mean() for part in loss.split(1)]).mean().item() == pytest.approx(loss.mean().item())


def test_anchors_are_those_of_the_whole_batch() -> None:
    """KTO's z (arXiv 2402.01306), beta 1/2: mean of 1, 3 is 2, z = 1; with -8 the mean is -4/3, z = 0.

    BCO's delta (2404.04656): the first mean .4 as it is, then .9 x .4 + .1 x 1.4 = .5.
    """
    ratios = torch.tensor([1.0, 3.0, -8.0], dtype=torch.float64)
    zero = torch.zeros_like(ratios)
    assert outside.kto_anchor(ratios[:2], zero[:2], BETA).item() == 1.0
    assert outside.kto_anchor(ratios, zero, BETA).item() == 0.0
    first = outside.running_anchor(None, torch.tensor(0.4, dtype=torch.float64), decay=0.9)
    assert first.item() == 0.4
    assert outside.running_anchor(first, torch.tensor(1.4, dtype=torch.float64), decay=0.9).item() == pytest.approx(0.5)
