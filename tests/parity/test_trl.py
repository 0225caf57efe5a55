"""raypo's objectives against TRL 1.16's own losses, per example, values and gradients to 1e-6.

    uv run --extra cpu --group parity pytest -m trl

Without the dependency group this module is skipped. What is compared: for each pair of TRL's own collator, alone and
(where losses do not change with the batch) together, TRL's loss and its derivative with respect to each token's
log-prob, or each logit, in float64, with `set_loss` at the same numbers; and whole steps, TRL's forward pass and loss
on a tiny Llama against raypo's scorer, terms and loss, with the gradient of every parameter. Where the two differ on
purpose, the difference is a test of its own that says why, and that the rest is equal.

TRL 1.16 has no BCO trainer (`bco` needs a running mean: `bco-pair` is what the two share), and its label smoothing of
AOT has no counterpart here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from trainers import Scripted, batch, trainer

from raypo.objective import AnyObjective, SetLoss, preset, set_loss, tokens

pytest.importorskip("trl", minversion="1.16", reason="TRL is not here: the dependency group parity brings it")
pytestmark = pytest.mark.trl

BETA = 0.3
TOLERANCE = 1e-6
ALL = [0, 1, 2, 3]


@dataclass(frozen=True)
class Case:
    """One row: TRL's config against a preset."""

    trl: dict[str, Any]
    name: str
    hyper: dict[str, float] = field(default_factory=dict)
    policy: dict[str, Any] = field(default_factory=dict)
    alone: bool = False  # TRL's value for a batch is no mean over its pairs

    def __str__(self) -> str:
        return " ".join([*(f"{key}={value}" for key, value in self.trl.items()), "is", self.name])

    @property
    def objective(self) -> AnyObjective:
        return preset(self.name, **({"beta": BETA} | self.hyper))


MIXED = {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]}
RPO = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.7]}
ALPHA = {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.4}

DPO_CASES = [
    Case({"loss_type": "sigmoid"}, "dpo", {"label_smoothing": 0.0}),
    Case({"loss_type": "robust", "label_smoothing": 0.2}, "robust", {"flip_rate": 0.2}),
    Case({"loss_type": "hinge"}, "hinge"),
    Case({"loss_type": "ipo"}, "ipo-mean"),
    Case({"loss_type": "exo_pair", "label_smoothing": 1e-3}, "exo", {"smoothing": 1e-3}),
    # hard labels: at this temperature the best has all the weight
    Case({"loss_type": "nca_pair"}, "nca", {"temperature": 0.01}),
    Case({"loss_type": "bco_pair"}, "bco-pair"),
    Case({"loss_type": "sppo_hard"}, "sppo-hard"),
    Case({"loss_type": "aot"}, "aot"),
    Case({"loss_type": "aot_unpaired"}, "aot-unpaired"),
    Case({"loss_type": "apo_zero"}, "apo-zero"),
    Case({"loss_type": "apo_down"}, "apo-down"),
    Case({"loss_type": "discopop", "discopop_tau": 0.6}, "discopop", {"tau": 0.6}),
    Case({"loss_type": "discopop"}, "discopop", {"tau": 0.05}),
    Case({"loss_type": "sigmoid_norm"}, "ln-dpo"),
    Case({"loss_type": "sft"}, "sft", alone=True),
    Case({"f_divergence_type": "forward_kl"}, "f-dpo-forward-kl"),
    Case({"f_divergence_type": "js_divergence"}, "f-dpo-js"),
    # in fp32: TRL refuses other types there
    Case(ALPHA, "f-dpo-alpha", {"order": 0.4}, {"dtype": torch.float32}),
    Case({"ld_alpha": 0.5}, "ld-dpo", {"tail": 0.5}),
    Case({"ld_alpha": 0.0}, "ld-dpo", {"tail": 0.0}),
    Case({"use_weighting": True}, "wpo"),
    Case(MIXED, "mixed-po", alone=True),
    Case(RPO, "rpo", {"nll": 0.7}, alone=True),
]


@dataclass(frozen=True)
class Found:
    """TRL's loss of a batch and its derivative by each token's log-prob, [2B, T - 1]: the chosen, then the rejected."""

    value: float
    gradient: Tensor
    policy: Scripted
    reference: Scripted


@pytest.fixture(scope="module")
def made(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Trainers by kind and config, each made once."""
    known: dict[str, Any] = {}

    def make(kind: str, **config: Any) -> Any:
        key = f"{kind} {config}"
        if key not in known:
            known[key] = trainer(kind, tiny_model, tmp_path_factory.mktemp("trl"), **config)
        return known[key]

    return make


def theirs(of: Any, rows: list[int], **policy: Any) -> Found:
    """TRL's own loss of some pairs."""
    numbers = {"dtype": policy.get("dtype", torch.float64)}
    scripted, of.ref_model = Scripted(1, **policy), Scripted(2, **numbers)
    value = of.compute_loss(scripted, batch(of, rows))
    (gradient,) = torch.autograd.grad(value, scripted.logps)
    return Found(value.item(), gradient, scripted, of.ref_model)


def ours(objective: AnyObjective, found: Found) -> tuple[SetLoss, Tensor]:
    """`set_loss` at the same log-probs, and their leaf [2B, T - 1]."""
    logps = found.policy.logps.detach().clone().requires_grad_()
    mask, reference = found.policy.mask, found.reference.logps.detach()
    lengths = mask.sum(1)
    owner = torch.arange(len(mask))[:, None].expand_as(mask)[mask]
    terms = {}
    if "weighted_log_ratios" in objective.terms:
        shortest = torch.minimum(*lengths.chunk(2)).repeat(2)
        weights = tokens.length_desensitized(owner, shortest, tail=objective.prior.tail).to(logps.dtype)
        terms["weighted_log_ratios"] = tokens.weighted_log_ratios(
            weights, logps[mask], reference[mask], owner, len(mask)
        )
    if "response_weights" in objective.terms:
        square_sums = torch.full_like(logps[mask], found.policy.log_square_sum)
        terms["response_weights"] = tokens.confidence_weights(logps[mask], square_sums, owner, len(mask))
    out = set_loss(
        objective,
        policy_logps=paired(logps.sum(1)),
        reference_logps=paired(reference.sum(1)),
        lengths=paired(lengths),
        rewards=torch.tensor([[2.0, 1.0]]).expand(len(mask) // 2, 2),
        mask=torch.ones(len(mask) // 2, 2, dtype=torch.bool),
        terms={name: paired(value) for name, value in terms.items()},
    )
    assert out.used.all()
    return out, logps


def paired(values: Tensor) -> Tensor:
    """From the chosen, then the rejected, [2B], to [B, 2]."""
    return torch.stack(values.chunk(2), 1)


def close(found: float | Tensor, expected: float | Tensor, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(
        torch.as_tensor(found).double(), torch.as_tensor(expected).double(), rtol=tolerance, atol=tolerance
    )


def same(objective: AnyObjective, found: Found) -> None:
    """The batch's mean loss and its gradient are TRL's."""
    out, logps = ours(objective, found)
    close(out.loss.mean().item(), found.value)
    (gradient,) = torch.autograd.grad(out.loss.mean(), logps)
    mask = found.policy.mask  # TRL's fused head gives no gradient beside the completion
    close(gradient[mask], found.gradient[mask])


@pytest.mark.parametrize("case", DPO_CASES, ids=str)
def test_a_preset_is_trls_loss_for_each_pair(case: Case, made: Any) -> None:
    for row in ALL:
        same(case.objective, theirs(made("dpo", beta=BETA, **case.trl), [row], **case.policy))


@pytest.mark.parametrize("case", [case for case in DPO_CASES if not case.alone], ids=str)
def test_a_preset_is_trls_loss_for_the_batch(case: Case, made: Any) -> None:
    same(case.objective, theirs(made("dpo", beta=BETA, **case.trl), ALL, **case.policy))
