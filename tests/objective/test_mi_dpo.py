"""MI-DPO's claim (arXiv 2501.01544): DPO variants are one loss with different priors zeta.

Each row's log zeta is written down, and -log sigmoid(b [log pi/zeta](y_w) - b [log pi/zeta](y_l)) is compared with the
preset, in value and in gradient: where zeta depends on the policy, its gradient belongs to the loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from examples import EXTRA, inputs, loss
from torch import Tensor
from torch.nn.functional import softplus

B, PSI = 0.3, 0.7
LP, LR = [-4.2, -6.1], [-5.0, -5.5]
N = torch.tensor([4.0, 6.0], dtype=torch.float64)
WINS = torch.tensor([1.0, 0.0], dtype=torch.float64)
R = [3.0, 1.0]
X = EXTRA

Zeta = Callable[[Tensor, Tensor], Tensor]
"""From the policy's and the reference's log-probs [2] to log zeta [2]."""


def kl(p: Tensor, q: Tensor) -> Tensor:
    return 0.3 - 0.05 * (p - q)  # examples.terms


def weights(p: Tensor, q: Tensor) -> Tensor:
    return 0.8 * (p - q)  # examples.terms: sum_t m_t (lp_t - lr_t)


ROWS: dict[str, tuple[str, dict[str, float], Zeta]] = {
    "DPO: the reference": ("dpo", {}, lambda p, q: q),
    "without a reference: uniform": ("cpo", {"nll": 0.0}, lambda p, q: 0 * q),
    "SimPO": ("simpo", {}, lambda p, q: (1 - 1 / N) * p + X["gamma"] / B * WINS),
    "LN-DPO": ("ln-dpo", {}, lambda p, q: (1 - 1 / N) * p + q / N),
    "R-DPO": ("r-dpo", {}, lambda p, q: q - X["length_reward"] / B * N),
    "H-DPO": ("h-dpo", {}, lambda p, q: (1 - X["entropy_weight"]) * p + q),
    "TDPO1": ("tdpo1", {}, lambda p, q: q - kl(p, q)),
    "TDPO2": ("tdpo2", {}, lambda p, q: q - X["kl_weight"] * torch.where(WINS > 0, kl(p, q).detach(), kl(p, q))),
    "TIS-DPO": ("tis-dpo", {}, lambda p, q: p - weights(p, q)),
    "SparsePO": ("sparsepo", {"sparsity": 0.0}, lambda p, q: p - weights(p, q) - kl(p, q)),
    "LD-DPO": ("ld-dpo", {}, lambda p, q: p - weights(p, q)),
    "ODPO": ("odpo", {}, lambda p, q: q + math.log(1 + 2.0) / B * WINS),
    "MallowsPO-theta": ("mallows-theta", {}, lambda p, q: (1 - PSI) * p + PSI * q),
    "RainbowPO": (
        "rainbow",
        {},
        lambda p, q: (1 - PSI / N) * p + PSI * X["mixing"] / N * q + PSI * (1 - X["mixing"]) * X["gamma"] / B * WINS,
    ),
    "chi-PO": ("chi-po", {"bound": 1e3}, lambda p, q: q - torch.exp(p - q)),
    "f-DPO, forward KL": ("f-dpo-forward-kl", {}, lambda p, q: p + torch.exp(q - p)),
    "W-MPO of a pair, signed": ("w-mpo-signed", {}, lambda p, q: q - 0.6 / B * torch.tensor(R)),
}


@pytest.mark.parametrize("row", ROWS)
def test_a_method_is_dpo_with_another_prior(row: str) -> None:
    name, hyper, zeta = ROWS[row]
    given: dict[str, Any] = inputs([LP], [R], psi=torch.tensor([PSI], dtype=torch.float64))
    given |= {"reference_logps": torch.tensor([LR], dtype=torch.float64), "lengths": N.long()[None]}
    policy = given["policy_logps"].requires_grad_()
    ours = loss(name, given, beta=B, **hyper).loss.sum()
    (slope,) = torch.autograd.grad(ours, policy)
    p, q = torch.tensor(LP, dtype=torch.float64, requires_grad=True), torch.tensor(LR, dtype=torch.float64)
    ratio = p - zeta(p, q)
    theirs = softplus(-B * (ratio[0] - ratio[1]))
    (expected,) = torch.autograd.grad(theirs, p)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    assert slope[0].tolist() == pytest.approx(expected.tolist(), rel=1e-10)
