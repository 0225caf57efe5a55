"""Losses that the four choices do not hold: over a batch, with a temperature per pair, or of the stop token.

Shapes: B sets, K responses. Each is `(inputs, used, beta, **parameters) -> loss [B]`, meaningful where `used` [B] is
True; `set_loss` calls them under its own entry. A loss that couples sets (AOT) must be given all sets of an optimizer
step: the trainer gathers the scores of all ranks first (`raypo.training.surrogate`).

The anchors below are computed here and passed to `set_loss` as `terms["anchor"]`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softplus

from raypo.objective.inputs import Inputs


def aot(inputs: Inputs, used: Tensor, beta: float, *, label_smoothing: float) -> Tensor:
    """Paired AOT (arXiv 2406.05882): gaps of best and worst, sorted over the batch for policy and reference apart.

    -log sigma(beta (g_(i) - gref_(i))), smoothed as DPO's labels are (TRL 1.16). With one set it is DPO. Each loss
    stands at the set whose policy gap has its rank.
    """
    high, low = _ends(inputs)
    policy = _take(inputs.policy, high) - _take(inputs.policy, low)
    reference = _take(inputs.reference, high) - _take(inputs.reference, low)
    return _sorted_difference(policy, reference, used, beta, label_smoothing)


def aot_unpaired(inputs: Inputs, used: Tensor, beta: float, *, label_smoothing: float) -> Tensor:
    """Unpaired AOT (arXiv 2406.05882): log-ratios of the best and of the worst, each sorted over the batch.

    -log sigma(beta (s_w(i) - s_l(i))), smoothed as DPO's labels are (TRL 1.16). Each loss stands at the set whose best
    response has its rank.
    """
    high, low = _ends(inputs)
    ratios = inputs.policy - inputs.reference
    return _sorted_difference(_take(ratios, high), _take(ratios, low), used, beta, label_smoothing)


def _sorted_difference(first: Tensor, second: Tensor, used: Tensor, beta: float, smoothing: float) -> Tensor:
    """-log sigma(beta (sorted first - sorted second)), smoothed, over the used sets, at the places of `first`."""
    places = used.nonzero().squeeze(1)
    ordered, order = first[places].sort()
    margins = beta * (ordered - second[places].sort().values)
    losses = (1 - smoothing) * softplus(-margins) + smoothing * softplus(margins)
    return torch.zeros_like(first).index_put((places[order],), losses)


def pro(inputs: Inputs, used: Tensor, beta: float, *, sft: float) -> Tensor:
    """PRO (arXiv 2306.17492): each response against all strictly worse ones, with a temperature per pair.

    -sum_k log softmax of beta lp/|y| (r_k - r_i) over i worse than k, the response's own temperature being that of its
    largest gap; plus `sft` times the best response's negative log-prob per token.
    """
    mean = inputs.policy / inputs.lengths
    gap = inputs.rewards[:, :, None] - inputs.rewards[:, None, :]  # [B, k, i]
    worse = (gap > 0) & inputs.mask[:, :, None] & inputs.mask[:, None, :]
    gap = torch.where(worse, gap, torch.zeros_like(gap))
    own = beta * mean * gap.amax(2)
    others = torch.where(worse, beta * mean[:, None, :] * gap, torch.full_like(gap, -1e30))
    losses = torch.logaddexp(own, others.logsumexp(2)) - own
    ranked = torch.where(worse.any(2), losses, torch.zeros_like(losses)).sum(1)
    return ranked - sft * _take(mean, _ends(inputs)[0])


def sft(inputs: Inputs, used: Tensor, beta: float) -> Tensor:
    """Negative log-prob per token of the best response, nats; over response tokens. beta is not read."""
    return -_take(inputs.policy / inputs.lengths, _ends(inputs)[0])


def eos_target(inputs: Inputs, used: Tensor, beta: float) -> Tensor:
    """REFA's R_target (arXiv 2412.16378): sum_y P(EOS at |y|) max(0, L* - |y|), L* the set's longest. beta: not read.

    `terms["eos_logps"]` is the log-prob of the stop token that ended the response; `terms["ended"]` is 1 where one did
    and 0 where the response was cut: a cut response has no probability of its end.
    """
    lengths = inputs.lengths.to(inputs.policy.dtype)
    longest = torch.where(inputs.mask, lengths, torch.zeros_like(lengths)).amax(1, keepdim=True)
    ended = inputs.mask & (inputs.terms["ended"] > 0)
    chance = torch.where(ended, inputs.terms["eos_logps"], torch.full_like(lengths, -1e30)).exp()
    return (chance * (longest - lengths).clamp_min(0)).sum(1)


def eos_independent(inputs: Inputs, used: Tensor, beta: float) -> Tensor:
    """REFA's R_indep (arXiv 2412.16378): -sum_y log P(EOS at |y|), over responses that ended. beta: not read."""
    ended = inputs.mask & (inputs.terms["ended"] > 0)
    return -torch.where(ended, inputs.terms["eos_logps"], torch.zeros_like(inputs.policy)).sum(1)


def eos_budget(inputs: Inputs, used: Tensor, beta: float, *, budget: float) -> Tensor:
    """REFA's R_budget (arXiv 2412.16378): sum_y of the chance to stop before the budget b less that of stopping after.

    (1/b) sum_{t<b} P(EOS at t) - (1/(|y| - b)) sum_{t>b} P(EOS at t), t = 1 .. |y|; the second is absent where
    |y| <= b. `terms["eos_before"]` and `terms["eos_after"]` are the two sums. beta: not read.
    """
    beyond = (inputs.lengths.to(inputs.policy.dtype) - budget).clamp_min(1)
    chance = inputs.terms["eos_before"] / budget - inputs.terms["eos_after"] / beyond
    return torch.where(inputs.mask, chance, torch.zeros_like(chance)).sum(1)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "aot": aot,
    "aot-unpaired": aot_unpaired,
    "pro": pro,
    "sft": sft,
    "eos-target": eos_target,
    "eos-independent": eos_independent,
    "eos-budget": eos_budget,
}


def kto_anchor(mismatched_policy: Tensor, mismatched_reference: Tensor, beta: float) -> Tensor:
    """KTO's z (arXiv 2402.01306), as an anchor: beta max(0, mean log-ratio on mismatched pairs), detached.

    Args:
        mismatched_policy: [N] log-prob sums of responses to another prompt than theirs, nats; of all ranks.
        mismatched_reference: [N] under the reference.
        beta: inverse temperature.

    Returns:
        a scalar, in score units.
    """
    return beta * (mismatched_policy - mismatched_reference).mean().clamp_min(0).detach()


def running_anchor(previous: Tensor | None, batch_mean: Tensor, *, decay: float) -> Tensor:
    """BCO's delta (arXiv 2404.04656): a running mean of the implicit rewards, detached; the first batch as it is."""
    new = batch_mean.detach()
    return new if previous is None else decay * previous + (1 - decay) * new


def _ends(inputs: Inputs) -> tuple[Tensor, Tensor]:
    high = torch.where(inputs.mask, inputs.rewards, torch.full_like(inputs.rewards, -torch.inf))
    low = torch.where(inputs.mask, inputs.rewards, torch.full_like(inputs.rewards, torch.inf))
    return high.argmax(1, keepdim=True), low.argmin(1, keepdim=True)


def _take(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(1, index).squeeze(1)
