"""Every row of the table against its paper's formula, written down independently with numpy on one set of numbers.

Five responses: rewards 9 1 7 4 2, so best is index 0, worst index 1, and 0 and 2 lie above the mean 4.6.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from examples import EXTRA, NAMES, inputs, loss, objective
from scipy.special import log_softmax, logsumexp, softmax

from raypo.objective import set_loss

LP = np.array([-4.2, -6.1, -5.4, -3.8, -5.0])
LR = np.full(5, -5.0)
R = np.array([9.0, 1.0, 7.0, 4.0, 2.0])
N = np.array([4, 6, 3, 5, 8])
S = LP - LR
B, PSI = 0.3, 0.7
W, L = 0, 1
X = EXTRA


def nls(z: float) -> float:
    """-log sigmoid(z)."""
    return float(np.logaddexp(0.0, -z))


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def odds(mean: float) -> float:
    return mean - math.log(1 - math.exp(mean))


def g_phi(gap: float, phi: float) -> float:
    """The Mallows pair probability for |gap| >= 1 (arXiv 2405.14953)."""
    s = abs(gap)
    above = (s + 1) / (1 - phi ** (s + 1)) - s / (1 - phi**s)
    return above if gap > 0 else 1 - above


def w_mpo(u: np.ndarray) -> float:
    return float(logsumexp(u) - logsumexp(u[[0, 2]]))


DEV = np.abs(R - R.mean())
SHARE = softmax(R / X["temperature"])
KL = 0.3 - 0.05 * S  # examples.terms
WEIGHTED = 0.8 * S
GAP = S[W] - S[L]
MEAN = LP / N
REFA = float(
    np.logaddexp(logsumexp(B * MEAN[[0, 2]]), logsumexp(B * MEAN[[1, 3, 4]]) + math.log(2))
    - logsumexp(B * MEAN[[0, 2]])
)
ORDER = np.argsort(-R)  # 0 2 3 4 1


def pro() -> float:
    """Sum over the ranking; the own logit has the largest gap's temperature."""
    total = -MEAN[0] * X["nll"]
    for k, best in enumerate(ORDER[:-1]):
        worse = ORDER[k + 1 :]
        own = B * MEAN[best] * (R[best] - R[worse]).max()
        total += logsumexp([own, *(B * MEAN[worse] * (R[best] - R[worse]))]) - own
    return float(total)


def lipo() -> float:
    rank = np.argsort(np.argsort(-B * S)) + 1
    total = 0.0
    for i in range(5):
        for j in range(5):
            if R[i] > R[j]:
                gain = abs(2 ** (R[i] - 1) - 2 ** (R[j] - 1))
                total += gain * abs(1 / math.log2(1 + rank[i]) - 1 / math.log2(1 + rank[j])) * nls(B * (S[i] - S[j]))
    return total


def alpha_power(a: float) -> np.ndarray:
    return (1 - np.exp(MEAN) ** (-a)) / a


def chained() -> float:
    u = B * S[ORDER]
    return float(-sum(u[k] - logsumexp(u[k:]) for k in range(4)))


def levels() -> float:
    """Three levels of five: cuts after ceil(5/3) = 2 and ceil(10/3) = 4 of the order 0 2 3 4 1."""
    cuts = [([0, 2], [3, 4, 1]), ([0, 2, 3, 4], [1])]
    return float(np.mean([nls(logsumexp(B * S[p]) - logsumexp(B * S[n])) for p, n in cuts]))


SMOOTH = X["smoothing"]
Q = sigmoid(B * GAP)
TAU = X["tau"]
M = sigmoid(B * GAP / TAU)
PAIRS = [(i, j) for i in range(5) for j in range(5) if R[i] > R[j]]
ACROSS = [(i, j) for i in (0, 2) for j in (1, 3, 4)]
RAINBOW = PSI * (
    B * (MEAN[W] - MEAN[L]) - B * X["mixing"] * (LR[W] / N[W] - LR[L] / N[L]) - (1 - X["mixing"]) * X["gamma"]
)
REST = [[j for j in range(5) if j != i] for i in range(5)]
SET_REWARD = R - R.min()

ORACLES: dict[str, Callable[[], float]] = {
    "dpo": lambda: nls(B * GAP),
    "robust": lambda: (0.9 * nls(B * GAP) - 0.1 * nls(-B * GAP)) / 0.8,
    "ipo": lambda: (GAP - 1 / (2 * B)) ** 2,
    "ipo-mean": lambda: (S[W] / N[W] - S[L] / N[L] - 1 / (2 * B)) ** 2,
    "hinge": lambda: max(0.0, 1 - B * GAP),
    "slic-hf": lambda: max(0.0, 1 - B * (LP[W] - LP[L])) - X["nll"] * MEAN[W],
    "exo": lambda: Q * (math.log(Q) - math.log(1 - SMOOTH)) + (1 - Q) * (math.log(1 - Q) - math.log(SMOOTH)),
    "discopop": lambda: (1 - M) * nls(B * GAP) + M * math.exp(-B * GAP),
    "cauchy": lambda: -math.log(math.atan(B * GAP) / math.pi + 0.5),
    "odpo": lambda: nls(B * GAP - math.log(1 + 8)),
    "odpo-linear": lambda: nls(B * GAP - 8),
    "wpo": lambda: 0.9 * 0.9 * nls(B * GAP),
    "wpo-plain": lambda: 0.9 * 0.9 * nls(B * GAP),
    "mallows-theta": lambda: nls(PSI * B * GAP),
    "mallows-phi": lambda: -math.log(g_phi(4.0, math.exp(-PSI))),  # beta such that beta gap is 4, below
    "mallows-ipo": lambda: (PSI * (MEAN[W] - MEAN[L]) - 1 / (2 * B)) ** 2,
    "rainbow": lambda: nls(RAINBOW),
    "rainbow-ipo": lambda: (RAINBOW - 0.5) ** 2,
    "rainbow-hinge": lambda: max(0.0, 0.5 - RAINBOW) ** 2,
    "mpo": lambda: w_mpo(B * S),
    "w-mpo": lambda: w_mpo(B * S + 0.6 * DEV),
    "w-mpo-signed": lambda: w_mpo(B * S + 0.6 * (R - R.mean())),
    "w-mpo-inside": lambda: w_mpo(B * (S + 0.6 * (R - R.mean()))),
    "mallows-mpo": lambda: w_mpo(PSI * B * S + 0.6 * DEV),
    "mallows-phi-pairs": lambda: float(np.mean([-math.log(g_phi(z, math.exp(-PSI))) for z in (3.0,) * 6])),  # below
    "mallows-phi-sets": lambda: -math.log(g_phi(3.0, math.exp(-PSI))),  # below
    # members 0 2 1 4 have mean 4.75
    "mpo-top-bottom": lambda: nls(
        logsumexp(B * S[[0, 2]] + 0.6 * np.abs(R[[0, 2]] - 4.75))
        - logsumexp(B * S[[1, 4]] + 0.6 * np.abs(R[[1, 4]] - 4.75))
    ),
    "refa": lambda: REFA,
    "all-pairs": lambda: float(np.mean([nls(B * (S[i] - S[j])) for i, j in PAIRS])),
    "chosen-by-rejected": lambda: float(np.mean([nls(B * (S[i] - S[j])) for i, j in ACROSS])),
    "lipo": lipo,
    "mpo-levels": levels,
    "plackett-luce": chained,
    "one-vs-rest": lambda: -float(log_softmax(B * S)[0]),
    "infonca": lambda: -float((SHARE * log_softmax(B * S)).sum()),
    "exo-rewards": lambda: float((softmax(B * S) * (log_softmax(B * S) - np.log(SHARE))).sum()),
    "ampo-bottom": lambda: -float(log_softmax(B * S[[0, 1, 4, 3]])[0]),
    # embeddings are (s, cos s): of the four worse, medoids and clusters by brute force below
    "cpo": lambda: nls(B * (LP[W] - LP[L])) - MEAN[W],
    "simpo": lambda: nls(B * (MEAN[W] - MEAN[L]) - X["gamma"]),
    "ln-dpo": lambda: nls(B * (S[W] / N[W] - S[L] / N[L])),
    "r-dpo": lambda: nls(B * GAP + X["length_reward"] * (N[W] - N[L])),
    "h-dpo": lambda: nls(X["entropy_weight"] * B * (LP[W] - LP[L]) - B * (LR[W] - LR[L])),
    "rpo": lambda: nls(B * GAP) - MEAN[W],
    "tdpo1": lambda: nls(B * (GAP - (KL[L] - KL[W]))),
    "tdpo2": lambda: nls(B * (GAP - 0.5 * (KL[L] - KL[W]))),
    "tis-dpo": lambda: nls(B * (WEIGHTED[W] - WEIGHTED[L])),
    "ld-dpo": lambda: nls(B * (WEIGHTED[W] - WEIGHTED[L])),
    "sparsepo": lambda: nls(B * (WEIGHTED[W] - WEIGHTED[L] + KL[W] - KL[L])) + 1e-3 * 0.4,
    "sparsepo-independent": lambda: nls(B * (WEIGHTED[W] - WEIGHTED[L] + KL[W] - KL[L])) + 1e-3 * 0.4,
    "mapo": lambda: nls(B * (WEIGHTED[W] - WEIGHTED[L] + KL[W] - KL[L])),
    "dpop": lambda: nls(B * (GAP - 50 * max(0.0, -S[W]))),
    "chi-po": lambda: nls(float(np.clip(B * (math.exp(S[W]) + S[W] - math.exp(S[L]) - S[L]), -10, 10))),
    "f-dpo-forward-kl": lambda: nls(B * (-math.exp(-S[W]) + math.exp(-S[L]))),
    "f-dpo-js": lambda: nls(
        B * (math.log(2 * math.exp(S[W]) / (1 + math.exp(S[W]))) - math.log(2 * math.exp(S[L]) / (1 + math.exp(S[L]))))
    ),
    "f-dpo-alpha": lambda: nls(B * (math.exp(-0.5 * S[W]) - math.exp(-0.5 * S[L])) / -0.5),
    "alphapo": lambda: nls(B * (alpha_power(0.5)[W] - alpha_power(0.5)[L]) - X["gamma"]),
    "tr-dpo": lambda: nls(B * GAP),
    "learned-prior": lambda: w_mpo(B * S + 0.6 * DEV),
    "nca": lambda: float((SHARE * [nls(B * s) for s in S]).sum() + np.mean([nls(-B * s) for s in S])),
    "bco-pair": lambda: nls(B * S[W]) + nls(-B * S[L]),
    "bco": lambda: nls(B * S[W] - 0.05) + nls(-(B * S[L] - 0.05)),
    "sppo-hard": lambda: (S[W] - 1 / (2 * B)) ** 2 + (S[L] + 1 / (2 * B)) ** 2,
    "apo-zero": lambda: 1 - sigmoid(B * S[W]) + sigmoid(B * S[L]),
    "apo-down": lambda: sigmoid(B * S[W]) + 1 - sigmoid(B * GAP),
    # labels: rewards above 1/2 are desirable, so all five
    "kto": lambda: float(np.mean([1 - sigmoid(B * s - 0.05) for s in S])),
    "aot": lambda: nls(B * GAP),
    "aot-unpaired": lambda: nls(B * GAP),
    "pro": pro,
    "sft": lambda: -MEAN[W],
    "cal-dpo": lambda: nls(GAP) + 0.5 * ((S[W] - 1 / (2 * B)) ** 2 + (S[L] + 1 / (2 * B)) ** 2),
    "orpo": lambda: -MEAN[W] + X["odds_weight"] * nls(B * (odds(MEAN[W]) - odds(MEAN[L]))),
    "mixed-po": lambda: 0.8 * nls(B * GAP) + 0.2 * (nls(B * S[W]) + nls(-B * S[L])) - MEAN[W],
    "refa-eos": lambda: REFA + X["eos_weight"] * float((np.exp(-(np.abs(S) + 0.5)) * (8 - N)).sum()),
    "refa-eos-independent": lambda: REFA + X["eos_weight"] * float((np.abs(S) + 0.5).sum()),
    # |y| - b is at least 1, here for all
    "refa-eos-budget": lambda: (
        REFA + X["eos_weight"] * float((0.02 * np.abs(S) / 256 - (0.01 * np.abs(S) + 0.003)).sum())
    ),
}

SPECIAL = {"mallows-phi", "mallows-phi-pairs", "mallows-phi-sets", "ampo-coreset", "ampo-opt-select"}


def given(policy: np.ndarray = LP) -> dict[str, object]:
    made = inputs([policy.tolist()], [R.tolist()], psi=torch.tensor([PSI], dtype=torch.float64))
    return made | {"lengths": torch.tensor([N.tolist()])}


def test_every_preset_has_an_oracle() -> None:
    assert set(ORACLES) | SPECIAL == set(NAMES)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SPECIAL])
def test_a_preset_is_its_papers_formula(name: str) -> None:
    found = loss(name, given(), beta=B)
    assert found.used.tolist() == [True]
    assert found.loss.item() == pytest.approx(ORACLES[name](), rel=1e-12)


@pytest.mark.parametrize("name", ["mallows-phi", "mallows-phi-pairs", "mallows-phi-sets"])
def test_the_phi_link_is_the_mallows_probability(name: str) -> None:
    """Margins beyond 1, where the formula is exact: log-ratios 4 apart (best and worst), or 3 between the two sides."""
    s = np.array([2.0, -2.0, 0.0, 0.0, 0.0]) if name == "mallows-phi" else np.array([1.5, -1.5, 1.5, -1.5, -1.5])
    found = loss(name, given(LR + s), beta=1.0)
    assert found.loss.item() == pytest.approx(ORACLES[name](), rel=1e-12)


def test_the_coreset_keeps_the_worst_of_each_cluster_and_opt_select_the_cheapest_medoids() -> None:
    """Worse responses at 0, 1 and 10, 11: clusters {0, 1} and {10, 11}.

    Rewards 1 2 4 3 in that order: the coreset keeps the first (1) and the last (3). Weights e^(2.5 - r) are 4.48, 1.65,
    .22 and .61: medoids 0 and 11 cost 1.65 + .22 = 1.87, the least of the six pairs (brute force below).
    """
    from itertools import combinations

    from raypo.objective.subset import coreset, opt_select

    points = torch.tensor([[[50.0], [0.0], [1.0], [10.0], [11.0]]], dtype=torch.float64)
    rewards = torch.tensor([[9.0, 1.0, 2.0, 4.0, 3.0]], dtype=torch.float64)
    mask = torch.ones(1, 5, dtype=torch.bool)
    kept = coreset(rewards, mask, keep=2, embeddings=points)
    assert kept.tolist() == [[True, True, False, False, True]]
    worse, r = points[0, 1:, 0].numpy(), rewards[0, 1:].numpy()
    cost = {
        pair: float((np.exp(r.mean() - r) * np.abs(worse[:, None] - worse[list(pair)]).min(1)).sum())
        for pair in combinations(range(4), 2)
    }
    best = min(cost, key=lambda pair: cost[pair])
    assert (best, round(cost[best], 2)) == ((0, 3), 1.87)
    kept = opt_select(rewards, mask, keep=2, embeddings=points)
    assert kept.tolist() == [[True, True, False, False, True]]


def start(name: str, beta: float = 0.1, **hyper: float) -> float:
    """First-step value at policy == reference, lengths 4, log-probs -5; terms at s = 0."""
    made = inputs([[-5.0] * 5], [R.tolist()])
    return loss(name, made, beta=beta, **hyper).loss.item()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dpo", math.log(2)),
        ("mallows-theta", math.log(2)),
        ("ipo", 25.0),  # 1/(4 beta^2), beta .1
        ("hinge", 1.0),
        ("sppo-hard", 50.0),  # 1/(2 beta^2)
        ("nca", 2 * math.log(2)),
        ("bco-pair", 2 * math.log(2)),
        ("apo-zero", 1.0),
        ("apo-down", 1.0),
        ("exo", 2.76123),
        ("discopop", 0.5 * math.log(2) + 0.5),
        ("mpo", math.log(5 / 2)),
        ("infonca", math.log(5)),
        ("one-vs-rest", math.log(5)),
        ("cal-dpo", math.log(2) + 25.0),  # + 1/(4 beta^2)
        ("chi-po", math.log(2)),
        ("plackett-luce", math.log(120)),
        ("all-pairs", math.log(2)),
        ("mallows-phi-pairs", math.log(2)),
        ("mallows-phi-sets", math.log(2)),
        ("f-dpo-js", math.log(2)),
        ("tdpo1", math.log(2)),
    ],
)
def test_first_step_values(name: str, expected: float) -> None:
    """At policy == reference: math of the papers, by hand."""
    assert start(name) == pytest.approx(expected, abs=5e-6 if name == "exo" else 1e-12)


@pytest.mark.parametrize(
    ("name", "hyper", "same_as", "other"),
    [
        ("h-dpo", {"entropy_weight": 1.0}, "dpo", {}),
        ("r-dpo", {"length_reward": 0.0}, "dpo", {}),
        ("odpo", {"offset_scale": 0.0}, "dpo", {}),
        ("tdpo2", {"kl_weight": 0.0}, "dpo", {}),
        ("tdpo2", {"kl_weight": 1.0}, "tdpo1", {}),  # in value alone
        ("dpop", {"preferred_penalty": 0.0}, "dpo", {}),
        ("rainbow", {"mixing": 1.0}, "ln-dpo", {}),  # psi is 1 here
        ("rainbow", {"mixing": 0.0}, "simpo", {}),
        ("alphapo", {"order": 0.0}, "simpo", {}),
        ("f-dpo-alpha", {"order": 1.0}, "dpo", {}),
        ("w-mpo", {"alpha": 0.0}, "mpo", {}),
        ("infonca", {"temperature": 1e-3}, "one-vs-rest", {}),
        ("mpo-top-bottom", {"top": 1.0, "bottom": 1.0, "alpha": 3.0}, "dpo", {}),
        ("ampo-bottom", {"keep": 4.0}, "one-vs-rest", {}),
        ("ampo-bottom", {"keep": 1.0}, "dpo", {}),
    ],
)
def test_a_row_becomes_another_at_the_ends_of_its_range(
    name: str, hyper: dict[str, float], same_as: str, other: dict[str, float]
) -> None:
    made = inputs([LP.tolist()], [R.tolist()])
    found, expected = loss(name, made, **hyper), loss(same_as, made, **other)
    assert found.loss.item() == pytest.approx(expected.loss.item(), abs=1e-12)


def test_infonca_with_two_responses_at_temperature_zero_is_dpo() -> None:
    made = inputs([[-4.0, -5.5]], [[2.0, 1.0]])
    assert loss("infonca", made, temperature=1e-3).loss.item() == pytest.approx(
        loss("dpo", made).loss.item(), abs=1e-12
    )


def test_nca_with_two_responses_at_temperature_zero_is_its_pair_form() -> None:
    """-ln s(b s_w) - 1/2 ln s(-b s_w) - 1/2 ln s(-b s_l), s_w = 1, s_l = -.5, b = .1."""
    made = inputs([[-4.0, -5.5]], [[2.0, 1.0]])
    expected = nls(0.1) + 0.5 * nls(-0.1) + 0.5 * nls(0.05)
    assert loss("nca", made, temperature=1e-3).loss.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["nca", "bco-pair", "sppo-hard", "apo-zero", "apo-down", "kto", "cal-dpo"])
def test_anchored_losses_see_a_constant_added_to_all_log_probs(name: str) -> None:
    """What is held against a given score is not shift-invariant; all other families are."""
    before, after = (loss(name, inputs([(LP + c).tolist()], [R.tolist()])).loss.item() for c in (0.0, 3.0))
    assert abs(before - after) > 1e-4


def test_tdpo2_has_tdpo1s_value_and_not_its_gradient() -> None:
    """At weight 1 the preferred KL is constant in TDPO2: d/ds of it vanishes on the best alone.

    z = beta (1.9 + KL_w - KL_l), KL = .3 - .05 s: dz/ds_w is beta (1 - .05) for TDPO1 and beta for TDPO2.
    """
    grads = []
    for name, hyper in (("tdpo1", {}), ("tdpo2", {"kl_weight": 1.0})):
        made = given()
        policy = made["policy_logps"].requires_grad_()  # type: ignore[attr-defined]
        loss(name, made, **hyper).loss.sum().backward()
        grads.append(policy.grad[0])
    assert float(grads[0][W] / grads[1][W]) == pytest.approx(0.95)
    assert float(grads[0][L]) == pytest.approx(float(grads[1][L]))


def test_kto_trains_from_one_response() -> None:
    """A lone desirable response: 1 - sigma(.1 x 1 - .05); a lone other one: 1 - sigma(.05 - .1)."""
    for label, expected in ((1.0, 1 - sigmoid(0.05)), (0.0, 1 - sigmoid(-0.05))):
        out = loss("kto", inputs([[-4.0]], [[label]]))
        assert (out.used.tolist(), out.loss.item()) == ([True], pytest.approx(expected))


def test_aot_sorts_over_the_batch_and_leaves_out_ties() -> None:
    """Policy gaps 3, -1 and reference gaps 0.5, 2: sorted, margins -1 - .5 and 3 - 2; the tied set is not in it."""
    made = inputs([[3.0, 0.0], [-1.0, 0.0], [9.0, 0.0]], [[1.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    made["reference_logps"] = torch.tensor([[0.5, 0.0], [2.0, 0.0], [7.0, 0.0]], dtype=torch.float64)
    out = loss("aot", made, beta=1.0)
    assert out.used.tolist() == [True, True, False]
    assert out.loss.tolist() == [pytest.approx(nls(1.0)), pytest.approx(nls(-1.5)), 0.0]


def test_aot_smooths_labels_as_dpo_does() -> None:
    """One set, gap 2, beta 1, smoothing .1: .9 ln(1 + e^-2) + .1 ln(1 + e^2) = .9 x .126928 + .1 x 2.126928."""
    made = inputs([[2.0, 0.0]], [[1.0, 0.0]])
    for name in ("aot", "aot-unpaired", "dpo"):
        found = loss(name, made, beta=1.0, label_smoothing=0.1).loss.item()
        assert found == pytest.approx(0.326928, abs=1e-6)


@pytest.mark.parametrize(
    ("rewards", "members"),
    [
        ([2.0, 1.0, 1.0, 1.0, 1.0], ([0], 2)),
        ([7.0, 0.0, 0.0, 0.0, 0.0], ([0], 2)),
        ([3.0, 1.0, 1.0, 1.0], ([0], 2)),
        ([7.0, 7.0, 7.0, 7.0, 0.0], ([0, 1], 1)),
        ([2.0, 1.0, 1.0, 0.0], ([0, 1], 1)),
    ],
)
def test_a_tie_at_the_cut_leaves_the_side_that_can_spare_it(
    rewards: list[float], members: tuple[list[int], int]
) -> None:
    """At policy == reference the margin is ln(|above| / |below|), and the loss -ln(|above| / (|above| + |below|))."""
    above, below = len(members[0]), members[1]
    made = inputs([[-4.0] * len(rewards)], [rewards])
    made["reference_logps"] = made["policy_logps"].detach()
    out = loss("mpo-top-bottom", made, alpha=0.0)
    assert out.used.tolist() == [True]
    assert out.loss.item() == pytest.approx(-math.log(above / (above + below)))


def test_sets_in_which_a_cut_falls_between_equals_never_prefer_one_of_them() -> None:
    """Rewards 5 5 5 1, top 2 bottom 2: one of the fives would stand below; only the 1 does."""
    chosen = objective("mpo-top-bottom", alpha=0.0)
    out = loss("mpo-top-bottom", inputs([[-4.0, -5.0, -3.0, -6.0]], [[5.0, 5.0, 5.0, 1.0]]), alpha=0.0)
    expected = nls(float(logsumexp([0.1, 0.0])) + 0.1)  # s = 1, 0 above and -1 below, beta .1
    assert chosen.contrast.kind == "top-vs-bottom"
    assert out.loss.item() == pytest.approx(expected)


def test_the_marginal_is_the_best_prior_and_a_moving_average_of_the_policy_reaches_it() -> None:
    """MI-DPO's fixed point in a table of 3 prompts x 4 responses: E_x KL(pi || zeta) = I(X; Y) + KL(zeta* || zeta).

    zeta* = E_x pi(y | x) leaves the mutual information alone; zeta <- .9 zeta + .1 E_x pi converges to it.
    """
    rng = np.random.default_rng(0)
    pi = softmax(rng.normal(size=(3, 4)), axis=1)
    marginal, zeta = pi.mean(0), softmax(rng.normal(size=4))
    kl = lambda p, q: float((p * np.log(p / q)).sum(-1).mean())  # noqa: E731
    assert kl(pi, zeta) == pytest.approx(kl(pi, marginal) + kl(marginal, zeta), abs=1e-12)
    for _ in range(300):
        zeta = 0.9 * zeta + 0.1 * pi.mean(0)
    assert zeta == pytest.approx(marginal, abs=1e-12)


def test_wpo_bounds_the_product_of_two_weights_and_not_each() -> None:
    """Weights 2 and .3: product .6 in both; 2 and .9: 1.8, bounded to 1 (code a104458) or not (TRL)."""
    made = inputs([[-4.0, -6.0]], [[2.0, 1.0]])
    plain = loss("dpo", made).loss.item()
    for weights, bounded, free in (([2.0, 0.3], 0.6, 0.6), ([2.0, 0.9], 1.0, 1.8)):
        given = made | {"terms": {"response_weights": torch.tensor([weights], dtype=torch.float64)}}
        assert set_loss(objective("wpo"), **given).loss.item() == pytest.approx(bounded * plain)
        assert set_loss(objective("wpo-plain"), **given).loss.item() == pytest.approx(free * plain)


@pytest.mark.parametrize("name", ["all-pairs", "plackett-luce", "mpo", "mallows-phi-pairs"])
def test_512_responses_are_compared_in_the_memory_of_their_pairs(name: str) -> None:
    """Values against the outer difference of all scores; no tensor has more than 512 x 512 entries.

    As masks the 130,816 pairs would be 67 million. A dispatch mode sees every operation's output.
    """
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = [0]

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            for one in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(one, torch.Tensor):
                    largest[0] = max(largest[0], one.numel())
            return out

    rng = np.random.default_rng(0)
    lp, r = rng.normal(-5, 3, 512), rng.permutation(512).astype(float)
    given = inputs([lp.tolist()], [r.tolist()], psi=torch.tensor([PSI], dtype=torch.float64))
    u = 0.1 * (lp + 5)
    with Watch():
        found = set_loss(objective(name), **given).loss.item()
    pairs = np.logaddexp(0, -(u[:, None] - u[None, :]))
    better = r[:, None] > r[None, :]
    ordered = u[np.argsort(-r)]
    expected = {
        "all-pairs": pairs[better].mean(),
        "plackett-luce": -sum(ordered[k] - logsumexp(ordered[k:]) for k in range(511)),
        "mpo": logsumexp(u) - logsumexp(u[r > r.mean()]),
        "mallows-phi-pairs": found,  # its link has its own tests
    }[name]
    assert found == pytest.approx(float(expected), rel=1e-10)
    assert largest[0] <= 512 * 512
