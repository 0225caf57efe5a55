"""Both sides of a comparison at the same numbers: TRL's loss with its gradient, and `set_loss` with its own.

Pairs are [2B, ...] as TRL has them, the chosen first and then the rejected, and [B, 2] here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import log_softmax
from trainers import Scripted, ScriptedLogits, batch

from raypo.objective import AnyObjective, SetLoss, set_loss, tokens
from raypo.objective.outside import kto_anchor

TOLERANCE = 1e-6


def close(found: float | Tensor, expected: float | Tensor, tolerance: float = TOLERANCE) -> None:
    """Within a tolerance, absolute or relative, whatever the types are."""
    pair = torch.as_tensor(found).double(), torch.as_tensor(expected).double()
    torch.testing.assert_close(*pair, rtol=tolerance, atol=tolerance)


def paired(values: Tensor) -> Tensor:
    """[2B] to [B, 2]."""
    return torch.stack(values.chunk(2), 1)


def pair_loss(
    objective: AnyObjective, policy: Tensor, reference: Tensor | None, lengths: Tensor, terms: dict[str, Tensor]
) -> SetLoss:
    """`set_loss` of pairs, [2B] each, whose first is the better."""
    pairs = len(policy) // 2
    out = set_loss(
        objective,
        policy_logps=paired(policy),
        reference_logps=None if reference is None else paired(reference),
        lengths=paired(lengths),
        rewards=torch.tensor([[2.0, 1.0]]).expand(pairs, 2),
        mask=torch.ones(pairs, 2, dtype=torch.bool),
        terms={name: paired(value) for name, value in terms.items()},
    )
    assert out.used.all()
    return out


@dataclass(frozen=True)
class Pairs:
    """TRL's loss of pairs, and its derivative by each token's log-prob [2B, T - 1]."""

    value: float
    gradient: Tensor
    policy: Scripted
    reference: Scripted

    @classmethod
    def of(cls, trainer: Any, rows: list[int], **policy: Any) -> Pairs:
        """DPOTrainer's own loss of some of its pairs, at the policy's numbers and a reference's of seed 2."""
        scripted = Scripted(**{"seed": 1} | policy)
        trainer.ref_model = Scripted(2, dtype=scripted.dtype)
        value = trainer.compute_loss(scripted, batch(trainer, rows))
        (gradient,) = torch.autograd.grad(value, scripted.logps)
        return cls(value.item(), gradient, scripted, trainer.ref_model)

    @property
    def lengths(self) -> Tensor:
        """Tokens of each response, [2B]."""
        return self.policy.mask.sum(1)

    def loss(self, objective: AnyObjective) -> tuple[Tensor, Tensor]:
        """Losses [B] here, and the log-probs that they are a function of."""
        logps = self.policy.logps.detach().clone().requires_grad_()
        reference, mask = self.reference.logps.detach(), self.policy.mask
        terms = self._terms(objective, logps[mask], reference[mask])
        return pair_loss(objective, logps.sum(1), reference.sum(1), self.lengths, terms).loss, logps

    def _terms(self, objective: AnyObjective, logps: Tensor, reference: Tensor) -> dict[str, Tensor]:
        responses = len(self.lengths)
        owner = torch.arange(responses).repeat_interleave(self.lengths)
        terms = {}
        if "weighted_log_ratios" in objective.terms:
            shortest = torch.minimum(*self.lengths.chunk(2)).repeat(2)
            weights = tokens.length_desensitized(owner, shortest, tail=objective.prior.tail).to(logps.dtype)
            terms["weighted_log_ratios"] = tokens.weighted_log_ratios(weights, logps, reference, owner, responses)
        if "response_weights" in objective.terms:
            square_sums = torch.full_like(logps, self.policy.log_square_sum)
            terms["response_weights"] = tokens.confidence_weights(logps, square_sums, owner, responses)
        return terms

    def is_(self, value: Tensor, logps: Tensor) -> None:
        """A value here and its gradient are TRL's; TRL's fused head gives no gradient beside the completion."""
        close(value.item(), self.value)
        (gradient,) = torch.autograd.grad(value, logps)
        close(gradient[self.policy.mask], self.gradient[self.policy.mask])


@dataclass(frozen=True)
class Logits:
    """A reference-free TRL trainer's loss of pairs, and its derivative by each logit [2B, T, V]."""

    value: float
    gradient: Tensor
    logits: Tensor
    labels: Tensor
    ids: Tensor

    @classmethod
    def of(cls, trainer: Any, rows: list[int]) -> Logits:
        """CPOTrainer's or ORPOTrainer's own loss of some of its pairs."""
        scripted, given = ScriptedLogits(), batch(trainer, rows)
        value = trainer.compute_loss(scripted, given)
        (gradient,) = torch.autograd.grad(value, scripted.logits)
        joined = trainer.concatenated_inputs(given, padding_value=0)
        labels, ids = joined["concatenated_labels"], joined["concatenated_input_ids"]
        return cls(value.item(), gradient, scripted.logits, labels, ids)

    def token_logps(self, logits: Tensor) -> Tensor:
        """Log-prob of each next token, [2B, T - 1]."""
        return log_softmax(logits[:, :-1], -1).gather(2, self.ids[:, 1:, None]).squeeze(2)

    def loss(self, objective: AnyObjective) -> tuple[Tensor, Tensor]:
        """Losses [B] here, and the logits that they are a function of."""
        logits, mask = self.logits.detach().clone().requires_grad_(), self.labels[:, 1:] != -100
        sums = (self.token_logps(logits) * mask).sum(1)
        return pair_loss(objective, sums, None, mask.sum(1), {}).loss, logits

    def is_(self, value: Tensor, logits: Tensor) -> None:
        """A value here and its gradient are TRL's."""
        close(value.item(), self.value)
        (gradient,) = torch.autograd.grad(value, logits)
        close(gradient, self.gradient)


@dataclass(frozen=True)
class Labelled:
    """KTOTrainer's loss of labelled responses, and its derivative by each token's log-prob [B, T - 1]."""

    value: float
    gradient: Tensor
    policy: Scripted
    reference: Scripted
    labels: Tensor

    @classmethod
    def of(cls, trainer: Any, rows: list[int], *, policy: int, reference: int) -> Labelled:
        """KTOTrainer's own loss of some of its rows, at numbers drawn by two seeds."""
        scripted, trainer.ref_model = Scripted(policy), Scripted(reference)
        given = batch(trainer, rows)
        value = trainer.compute_loss(scripted, given)
        (gradient,) = torch.autograd.grad(value, scripted.logps)
        return cls(value.item(), gradient, scripted, trainer.ref_model, given["label"])

    def anchor(self, beta: float) -> Tensor:
        """KTO's z, from what both models gave for the mismatched pairs, which TRL asks for first."""
        sums = [model.calls[0].detach().sum(1) for model in (self.policy, self.reference)]
        return kto_anchor(*sums, beta)

    def is_(self, objective: AnyObjective, anchor: Tensor) -> None:
        """The mean of the losses of sets of one response and its gradient are TRL's."""
        logps = self.policy.logps.detach().clone().requires_grad_()
        policy = logps.sum(1, keepdim=True)
        out = set_loss(
            objective,
            policy_logps=policy,
            reference_logps=self.reference.logps.detach().sum(1, keepdim=True),
            lengths=self.policy.mask.sum(1, keepdim=True),
            rewards=self.labels[:, None].double(),
            mask=torch.ones_like(policy, dtype=torch.bool),
            terms={"anchor": anchor.expand_as(policy)},
        )
        close(out.loss.mean().item(), self.value)
        (gradient,) = torch.autograd.grad(out.loss.mean(), logps)
        close(gradient[self.policy.mask], self.gradient[self.policy.mask])
