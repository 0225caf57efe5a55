"""`set_loss`: prior, dispersion, contrast and link composed; one definition for every preset.

    score    u_k = kappa beta r_k + alpha dev_{k,c}          kappa = psi(x) if dispersion acts on the score, else 1
    margin   z_c = pool_{P_c} u+ - pool_{N_c} u-
    loss     sum_c w_c link(z_c; psi)

Shapes: B prompts, K responses, C comparisons. The set loss is MPO / W-MPO (arXiv 2412.04628), psi is MallowsPO's
(2405.14953), the log-ratio MI-DPO's (2501.01544). Pools and reductions run in fp32 at least.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from raypo.errors import ConfigError, DataError
from raypo.logprobs import upcast
from raypo.objective.choices import Objective
from raypo.objective.contrast import BUILDERS, Comparisons
from raypo.objective.link import LINKS
from raypo.objective.prior import log_ratios


@dataclass(frozen=True)
class SetLoss:
    """What `set_loss` returns.

    Args:
        loss: [B], with gradient; exactly 0, without gradient, where the set cannot train.
        used: [B] bool: the set trains.
        margins: [B, C] detached margins, 0 where there is no comparison.
        metrics: detached [B] tensors by TRL's names; meaningful where `used`.
    """

    loss: Tensor
    used: Tensor
    margins: Tensor
    metrics: dict[str, Tensor]


def set_loss(
    objective: Objective,
    *,
    policy_logps: Tensor,
    reference_logps: Tensor | None,
    lengths: Tensor,
    rewards: Tensor,
    mask: Tensor,
    psi: Tensor | None = None,
    terms: Mapping[str, Tensor] | None = None,
) -> SetLoss:
    """Loss of each prompt's set of responses.

    A set trains when at least two of its responses are present with finite rewards that span more than the objective's
    tie_eps. Whatever masked entries hold, NaN included, reaches neither value nor gradient.

    Args:
        objective: from `preset`, or composed.
        policy_logps: [B, K] log-prob sums under the policy, with gradient, nats.
        reference_logps: [B, K] under the reference; None only when the objective needs none.
        lengths: [B, K] int, response tokens.
        rewards: [B, K]; only their order matters unless the objective needs scalars.
        mask: [B, K] bool, False where there is no such response.
        psi: [B] dispersion scale; None is 1 on the score and an error for the phi-link.
        terms: named [B, K] extras that the prior declares.

    Raises:
        ConfigError: psi, reference_logps or a declared term is missing.
        DataError: shapes differ; or every reward is 0 or 1 and the objective needs scalars.
    """
    _check(objective, policy_logps, reference_logps, lengths, rewards, mask, psi, terms or {})
    policy = upcast(policy_logps)
    mask = mask & torch.isfinite(rewards)
    rewards = _clean(rewards.detach().to(policy.dtype), mask)
    rewards = _clean(rewards - _lowest(rewards, mask), mask)
    reference = torch.zeros_like(policy) if reference_logps is None else reference_logps.detach().to(policy.dtype)
    up, down = log_ratios(
        objective.prior, _clean(policy, mask), _clean(reference, mask), lengths.clamp_min(1), terms or {}
    )
    scale = torch.ones_like(policy[:, :1]) if psi is None else psi.detach().to(policy.dtype)[:, None]
    kappa = scale if objective.dispersion == "score" else torch.ones_like(scale)
    comparisons = BUILDERS[objective.contrast.kind](rewards, mask)
    weight = objective.alpha * (kappa * objective.beta if objective.contrast.inside_beta else torch.ones_like(kappa))
    factor = kappa * objective.beta
    margins = comparisons.margins(factor * up, factor * down, rewards, objective.contrast, weight)
    link = LINKS[objective.link.kind]
    losses = link(margins, scale if objective.needs_psi else None, None, **objective.link.parameters)
    spread = torch.where(mask, rewards, torch.zeros_like(rewards)).amax(1)
    used = (mask.sum(1) >= 2) & (spread > objective.tie_eps) & (comparisons.weights.sum(1) > 0)
    weighted = torch.where(comparisons.weights > 0, losses * comparisons.weights, torch.zeros_like(losses)).sum(1)
    loss = torch.where(used, weighted, torch.zeros_like(weighted))
    margins = margins.detach()
    return SetLoss(loss, used, margins, _metrics(objective, comparisons, down, policy, margins, mask))


def _clean(values: Tensor, mask: Tensor) -> Tensor:
    """Zero, a constant, where there is no response: neither value nor gradient of what was there passes."""
    return torch.where(mask, values, torch.zeros_like(values))


def _lowest(rewards: Tensor, mask: Tensor) -> Tensor:
    """Lowest reward of each set, [B, 1]; 0 for an empty set."""
    low = torch.where(mask, rewards, torch.full_like(rewards, torch.inf)).amin(1, keepdim=True)
    return torch.where(mask.any(1, keepdim=True), low, torch.zeros_like(low))


def _metrics(
    objective: Objective, comparisons: Comparisons, ratios: Tensor, policy: Tensor, margins: Tensor, mask: Tensor
) -> dict[str, Tensor]:
    """TRL's families, unscaled by psi, means over the chosen and over the rejected responses of each set."""
    reward = objective.beta * ratios.detach()
    logps = _clean(policy.detach(), mask)
    chosen, rejected = comparisons.chosen, comparisons.rejected
    high, low = _mean(reward, chosen), _mean(reward, rejected)
    pairs = (chosen[:, :, None] & rejected[:, None, :]).to(reward.dtype)
    right = (reward[:, :, None] > reward[:, None, :]).to(reward.dtype)
    total = comparisons.weights.sum(1).clamp_min(torch.finfo(reward.dtype).tiny)
    return {
        "rewards/chosen": high,
        "rewards/rejected": low,
        "rewards/margins": high - low,
        "rewards/accuracies": (pairs * right).sum((1, 2)) / pairs.sum((1, 2)).clamp_min(1),
        "logps/chosen": _mean(logps, chosen),
        "logps/rejected": _mean(logps, rejected),
        "margins/scaled": (margins * comparisons.weights).sum(1) / total,
    }


def _mean(values: Tensor, members: Tensor) -> Tensor:
    return _clean(values, members).sum(1) / members.sum(1).clamp_min(1)


def _check(
    objective: Objective,
    policy: Tensor,
    reference: Tensor | None,
    lengths: Tensor,
    rewards: Tensor,
    mask: Tensor,
    psi: Tensor | None,
    terms: Mapping[str, Tensor],
) -> None:
    name = objective.name
    given = {"reference_logps": reference, "lengths": lengths, "rewards": rewards, "mask": mask, **terms}
    wrong = [f"{key} {list(t.shape)}" for key, t in given.items() if t is not None and t.shape != policy.shape]
    if policy.dim() != 2 or wrong or (psi is not None and psi.shape != policy.shape[:1]):
        shape = "none" if psi is None else list(psi.shape)
        raise DataError(
            f"{name}: policy_logps {list(policy.shape)}, psi {shape}; {', '.join(wrong)}", "[B, K] each, and psi [B]"
        )
    if mask.dtype != torch.bool:
        raise DataError(f"{name}: mask is {mask.dtype}", "torch.bool, False where there is no response")
    if reference is None and objective.needs_reference:
        raise ConfigError(f"{name}: reference_logps is None", "reference log-probs: the prior has b != 0")
    if psi is None and objective.needs_psi:
        raise ConfigError(f"{name}: psi is None", "psi [B]: the phi-link is a function of it")
    missing = [term for term in objective.prior.terms if term not in terms]
    if missing:
        raise ConfigError(f"{name}: terms without {', '.join(missing)}", f"terms {', '.join(objective.prior.terms)}")
    if objective.needs_scalar_rewards:
        known = mask & torch.isfinite(rewards)
        low, high = known & (rewards == 0), known & (rewards == 1)
        if bool(((low | high) == known).all()) and bool(low.any()) and bool(high.any()):
            raise DataError(
                f"{name}: every reward is 0 or 1",
                "scalar rewards: deviations from the mean weigh responses by how much better they are, "
                "which ordinal labels do not say",
                "use preset mpo or dpo, or give scores",
            )
