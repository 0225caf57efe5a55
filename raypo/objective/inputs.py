"""What a loss is computed from, cleaned once: and the checks that say what is missing before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from raypo.errors import ConfigError, DataError
from raypo.objective.composition import AnyObjective


@dataclass(frozen=True)
class Inputs:
    """Tensors of one call, fp32 at least; 0 where there is no response.

    Args:
        policy: [B, K] log-prob sums, with gradient, nats.
        reference: [B, K].
        lengths: [B, K] int >= 1.
        rewards: [B, K] >= 0, counted from the set's lowest.
        labels: [B, K] rewards as given.
        mask: [B, K] bool: present, with a finite reward.
        psi: [B, 1].
        terms: named [B, K, ...] extras.
    """

    policy: Tensor
    reference: Tensor
    lengths: Tensor
    rewards: Tensor
    labels: Tensor
    mask: Tensor
    psi: Tensor
    terms: Mapping[str, Tensor]

    def trainable(self, tie_eps: float, *, lone: bool) -> Tensor:
        """[B] bool: two responses that differ by more than tie_eps; with `lone`, one response."""
        if lone:
            return self.mask.any(1)
        return (self.mask.sum(1) >= 2) & (self.rewards.amax(1) > tie_eps)


def check(
    objective: AnyObjective,
    policy: Tensor,
    reference: Tensor | None,
    lengths: Tensor,
    rewards: Tensor,
    mask: Tensor,
    psi: Tensor | None,
    terms: Mapping[str, Tensor],
) -> None:
    """Refuse what `set_loss` cannot compute from.

    Raises:
        ConfigError: psi, reference_logps or a declared term is missing.
        DataError: shapes differ, psi is not above 0 and finite, a length is below 0, or rewards are not of the
            objective's kind (ordinal ones where it needs scalars, others than 1 and 0 where it needs labels) or too
            large for fp32.
    """
    name = objective.name
    _check_shapes(
        name,
        policy,
        psi,
        {"reference_logps": reference, "lengths": lengths, "rewards": rewards} | {"mask": mask} | dict(terms),
    )
    if mask.dtype != torch.bool:
        raise DataError(f"{name}: mask is {mask.dtype}", "torch.bool, False where there is no response")
    if reference is None and objective.needs_reference:
        raise ConfigError(
            f"{name}: reference_logps is None",
            "reference log-probs: the prior has b != 0",
            "pass reference_logps [B, K], or take a preset without a reference",
        )
    if psi is None and objective.needs_psi:
        raise ConfigError(
            f"{name}: psi is None",
            "psi [B]: the phi-link is a function of it",
            "pass psi = -c ln d of raypo.dispersion, or 1 for every set",
        )
    missing = [term for term in objective.terms if term not in terms]
    if missing:
        raise ConfigError(f"{name}: terms without {', '.join(missing)}", f"terms {', '.join(objective.terms)}")
    if psi is not None and not bool(((psi > 0) & torch.isfinite(psi) | ~mask.any(1)).all()):
        raise DataError(
            f"{name}: psi with an entry that is not above 0 and finite", "psi = -c ln d > 0, one of each set"
        )
    if bool((mask & (lengths < 0)).any()):
        raise DataError(f"{name}: a response of {int(lengths[mask].min())} tokens", "lengths of at least 0 under mask")
    _check_span(name, rewards, mask)
    if objective.needs_scalar_rewards:
        _check_scalar(name, rewards, mask)
    if objective.needs_labels:
        _check_labels(name, rewards, mask)


def _check_shapes(name: str, policy: Tensor, psi: Tensor | None, given: Mapping[str, Tensor | None]) -> None:
    wrong = [
        f"{key} {list(t.shape)}"
        for key, t in given.items()
        if t is not None and t.shape[: t.dim() if key != "embeddings" else 2] != policy.shape
    ]
    if policy.dim() != 2 or not policy.shape[-1] or wrong or (psi is not None and psi.shape != policy.shape[:1]):
        shape = "none" if psi is None else list(psi.shape)
        raise DataError(
            f"{name}: policy_logps {list(policy.shape)}, psi {shape}; {', '.join(wrong)}",
            "[B, K] each with K >= 1, and psi [B]",
        )
    if not policy.is_floating_point():
        raise DataError(f"{name}: policy_logps of {policy.dtype}", "floats: sums of log-probs in nats, with gradient")


SPAN = 1e18  # squares of deviations are taken, in fp32 at least, which ends at 3.4e38


def _check_span(name: str, rewards: Tensor, mask: Tensor) -> None:
    known = torch.where(mask & torch.isfinite(rewards), rewards, torch.zeros_like(rewards))
    if known.numel() and bool((largest := known.double().abs().max()) > SPAN):
        raise DataError(
            f"{name}: a reward of {float(largest):g} in size",
            f"at most {SPAN:g}: rewards are compared by their differences and the squares of these, in fp32",
        )


def _check_scalar(name: str, rewards: Tensor, mask: Tensor) -> None:
    known = mask & torch.isfinite(rewards)
    low, high = known & (rewards == 0), known & (rewards == 1)
    if bool(((low | high) == known).all()) and bool(low.any()) and bool(high.any()):
        raise DataError(
            f"{name}: every reward is 0 or 1",
            "scalar rewards: deviations from the mean weigh responses by how much better they are, "
            "which ordinal labels do not say",
            "use preset mpo or dpo, or give scores",
        )


def _check_labels(name: str, rewards: Tensor, mask: Tensor) -> None:
    known = mask & torch.isfinite(rewards)
    other = rewards[known & (rewards != 0) & (rewards != 1)]
    if len(other):
        raise DataError(
            f"{name}: a reward of {float(other[0]):g}",
            "labels: 1 for a desirable response, 0 for an undesirable one",
            "give labels with scoring.reward_scale=none, or take an objective of scores",
        )
