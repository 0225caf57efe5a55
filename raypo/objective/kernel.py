"""`set_loss`: prior, dispersion, contrast and link composed; one definition for every preset.

    score    u_k = kappa beta r_k + alpha dev_{k,c}          kappa = psi(x) if dispersion acts on the score, else 1
    margin   z_c = pool_{P_c} u+ - pool_{N_c} u- - offset_c
    loss     sum_c w_c link(z_c; psi, target_c) + nll NLL(P) + penalty(prior)

Shapes: B prompts, K responses, C comparisons. The set loss is MPO / W-MPO (arXiv 2412.04628), psi is MallowsPO's
(2405.14953), the log-ratio MI-DPO's (2501.01544). Pools and reductions run in fp32 at least.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from raypo.logprobs import upcast
from raypo.objective import outside
from raypo.objective.choices import Contrast
from raypo.objective.composition import AnyObjective, Mixture, Objective, Outside
from raypo.objective.contrast import BUILDERS, Given
from raypo.objective.encoding import Comparisons, Scores
from raypo.objective.inputs import Inputs, check
from raypo.objective.link import LINKS
from raypo.objective.prior import log_ratios
from raypo.objective.subset import SELECTIONS

PLAIN = Contrast(kind="best-vs-worst")


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
    objective: AnyObjective,
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
    tie_eps (a contrast of labels against an anchor needs one response). Whatever masked entries hold, NaN included,
    reaches neither value nor gradient.

    Args:
        objective: from `preset`, or composed.
        policy_logps: [B, K] log-prob sums under the policy, with gradient, nats.
        reference_logps: [B, K] under the reference; None only when the objective needs none.
        lengths: [B, K] int, response tokens; an empty response counts as one of 1 token.
        rewards: [B, K], numbers of any type, or labels as bool. Only their order matters to most objectives. Their size
            matters where the objective needs scalars (deviations, ODPO's offsets, PRO), and as well, with labels 1 and
            0 taken as numbers, in `infonca`, `nca`, `exo-rewards`, `lipo` and `ampo-opt-select`. A contrast of labels
            (KTO) takes 1 and 0 alone.
        mask: [B, K] bool, False where there is no such response.
        psi: [B] dispersion scale; None is 1 on the score and an error for the phi-link.
        terms: named [B, K] extras that the objective declares (`objective.terms`); "embeddings" is [B, K, D].

    Raises:
        ConfigError: psi, reference_logps or a declared term is missing.
        DataError: shapes differ; policy_logps are not floats; psi is not above 0 and finite; a length is below 0; a
            reward's size is above 1e18; every reward is 0 or 1 and the objective needs scalars, or one is neither and
            it needs labels.
    """
    given = terms or {}
    check(objective, policy_logps, reference_logps, lengths, rewards, mask, psi, given)
    policy = upcast(policy_logps)
    mask = mask & torch.isfinite(rewards)
    # labels are often whole numbers or True and False
    rewards = rewards.detach() if rewards.is_floating_point() else rewards.to(torch.float64)
    rewards = _clean(upcast(rewards), mask)
    labels = rewards.to(policy.dtype)  # as they are: 1 and 0 mean something to a contrast of labels
    # counted from the lowest before the cast, which would make equals of large rewards that differ by little
    rewards = _clean(rewards - _lowest(rewards, mask), mask).to(policy.dtype)
    reference = torch.zeros_like(policy) if reference_logps is None else reference_logps.detach().to(policy.dtype)
    inputs = Inputs(
        policy=_clean(policy, mask),
        reference=_clean(reference, mask),
        lengths=lengths.clamp_min(1),
        rewards=rewards,
        labels=labels,
        mask=mask,
        psi=torch.ones_like(policy[:, :1]) if psi is None else psi.detach().to(policy.dtype)[:, None],
        terms={name: _clean(value, mask) for name, value in given.items()},
    )
    return _mixture(objective, inputs) if isinstance(objective, Mixture) else _part(objective, inputs)


def _part(objective: Objective | Outside, inputs: Inputs) -> SetLoss:
    return _outside(objective, inputs) if isinstance(objective, Outside) else _composed(objective, inputs)


def _composed(objective: Objective, inputs: Inputs) -> SetLoss:
    """The four choices."""
    policy, scale = inputs.policy, inputs.psi
    up, down = log_ratios(objective.prior, policy, inputs.reference, inputs.lengths, inputs.terms)
    kappa = scale if objective.dispersion == "score" else torch.ones_like(scale)
    factor = kappa * objective.beta
    mask = _selected(objective, inputs)
    contrast = objective.contrast
    lone = contrast.lone
    view = Given(inputs.labels if lone else inputs.rewards, mask, (factor * down).detach())
    comparisons = BUILDERS[contrast.kind](view, **contrast.parameters)
    weight = objective.alpha * (factor if contrast.inside_beta else torch.ones_like(kappa))
    anchor = inputs.terms.get("anchor", torch.zeros_like(policy)).detach()
    margins = comparisons.margins(Scores(factor * up, factor * down, inputs.rewards, weight, anchor), contrast)
    losses = LINKS[objective.link.kind](
        margins, scale if objective.needs_psi else None, comparisons.targets, **objective.link.parameters
    )
    weights = comparisons.weights
    if objective.confidence != "none":
        trust = comparisons.products(inputs.terms["response_weights"].detach())
        weights = weights * (trust.clamp_max(1.0) if objective.confidence == "bounded" else trust)
    weighted = torch.where(weights > 0, losses * weights, torch.zeros_like(losses)).sum(1)
    used = inputs.trainable(objective.tie_eps, lone=lone) & (comparisons.weights.sum(1) > 0)
    if objective.nll:
        weighted = weighted - objective.nll * _mean(policy / inputs.lengths, comparisons.chosen)
    if penalty := getattr(objective.prior, "penalty", 0.0):
        weighted = weighted + penalty * _mean(inputs.terms["mask_sizes"], mask)
    loss = torch.where(used, weighted, torch.zeros_like(weighted))
    margins = margins.detach()
    return SetLoss(loss, used, margins, _metrics(objective.beta, comparisons, down, policy, margins, mask))


def _selected(objective: Objective, inputs: Inputs) -> Tensor:
    """The responses that take part: all, or AMPO's choice."""
    contrast = objective.contrast
    if contrast.select == "none":
        return inputs.mask
    return SELECTIONS[contrast.select](
        inputs.rewards, inputs.mask, keep=contrast.keep, embeddings=inputs.terms.get("embeddings")
    )


def _outside(objective: Outside, inputs: Inputs) -> SetLoss:
    """A loss by name; its metrics are those of the best against the worst response."""
    used = inputs.trainable(objective.tie_eps, lone=False)
    weighted = outside.LOSSES[objective.loss](inputs, used, objective.beta, **objective.parameters)
    loss = torch.where(used, weighted, torch.zeros_like(weighted))
    ratios = inputs.policy - inputs.reference if objective.needs_reference else inputs.policy
    view = Given(inputs.rewards, inputs.mask, ratios.detach())
    comparisons = BUILDERS["best-vs-worst"](view)
    zero = torch.zeros_like(ratios)
    scores = Scores(objective.beta * ratios, objective.beta * ratios, inputs.rewards, inputs.psi, zero)
    margins = comparisons.margins(scores, PLAIN).detach()
    return SetLoss(
        loss,
        used,
        margins,
        _metrics(objective.beta, comparisons, ratios, inputs.policy, margins, inputs.mask),
    )


def _mixture(objective: Mixture, inputs: Inputs) -> SetLoss:
    """The weighted sum over sets that every part can use."""
    parts = [(weight, _part(part, inputs)) for weight, part in objective.parts]
    used = torch.stack([out.used for _, out in parts]).all(0)
    total = torch.stack([weight * out.loss for weight, out in parts]).sum(0)
    first = parts[0][1]
    metrics = dict(first.metrics) | {
        f"loss/{part.name}": out.loss.detach() for (_, part), (_, out) in zip(objective.parts, parts, strict=True)
    }
    return SetLoss(torch.where(used, total, torch.zeros_like(total)), used, first.margins, metrics)


def _clean(values: Tensor, mask: Tensor) -> Tensor:
    """Zero, a constant, where there is no response: neither value nor gradient of what was there passes."""
    mask = mask.reshape(*mask.shape, *[1] * (values.dim() - mask.dim()))
    return torch.where(mask, values, torch.zeros_like(values))


def _lowest(rewards: Tensor, mask: Tensor) -> Tensor:
    """Lowest reward of each set, [B, 1]; 0 for an empty set."""
    low = torch.where(mask, rewards, torch.full_like(rewards, torch.inf)).amin(1, keepdim=True)
    return torch.where(mask.any(1, keepdim=True), low, torch.zeros_like(low))


def _metrics(
    beta: float, comparisons: Comparisons, ratios: Tensor, policy: Tensor, margins: Tensor, mask: Tensor
) -> dict[str, Tensor]:
    """TRL's families, unscaled by psi, means over the chosen and over the rejected responses of each set."""
    reward = beta * ratios.detach()
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
