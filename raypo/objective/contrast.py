"""Contrasts: which responses are compared, in the encoding that keeps each kind cheap.

Shapes: B prompts, K responses, C comparisons.

    Pairs   two index tensors [B, C]: one response against one
    Sets    two masks [B, C, K]: a pool of responses against a pool
    Chain   an order [B, K]: each response against all that are strictly worse, by one reversed logcumsumexp

A builder maps (rewards, mask) to an encoding; each encoding maps scores to margins. All of it is detached: rewards
choose the comparisons, gradients flow through the scores alone. Weights sum to 1 per set (Plackett-Luce: 1 each).
Rewards are centred by their minimum before any mean is taken, so that equal rewards compare as equal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from raypo.objective.choices import Contrast

LOWEST = -1e30  # a score that no pool notices; finite, so that its gradient is zero and not NaN


class Comparisons(Protocol):
    """What every encoding offers.

    `weights` is [B, C], 0 where there is no such comparison; `chosen` and `rejected` are [B, K] masks for metrics.
    """

    @property
    def weights(self) -> Tensor: ...  # noqa: D102 - described above
    @property
    def chosen(self) -> Tensor: ...  # noqa: D102
    @property
    def rejected(self) -> Tensor: ...  # noqa: D102

    def margins(self, preferred: Tensor, other: Tensor, rewards: Tensor, contrast: Contrast, scale: Tensor) -> Tensor:
        """Margins [B, C] of scores u+ and u- [B, K]; `scale` [B, 1] multiplies deviations. 0 where no comparison."""
        ...


def deviations(rewards: Tensor, mean: Tensor, contrast: Contrast) -> Tensor:
    """W-MPO's deviation of each reward from the mean over the comparison's members (arXiv 2412.04628; REFA Eq. 5)."""
    gap = rewards - mean
    size = gap.abs() ** contrast.power
    return size * gap.sign() if contrast.deviation == "signed" else size


@dataclass(frozen=True)
class Pairs:
    """One response against one: `winner` and `loser` are [B, C] indices into the set."""

    winner: Tensor
    loser: Tensor
    weights: Tensor
    chosen: Tensor
    rejected: Tensor

    def margins(self, preferred: Tensor, other: Tensor, rewards: Tensor, contrast: Contrast, scale: Tensor) -> Tensor:
        """u+[winner] - u-[loser]."""
        margin = preferred.gather(1, self.winner) - other.gather(1, self.loser)
        if contrast.deviation != "none":
            high, low = rewards.gather(1, self.winner), rewards.gather(1, self.loser)
            mean = (high + low) / 2
            margin = margin + scale * (deviations(high, mean, contrast) - deviations(low, mean, contrast))
        return torch.where(self.weights > 0, margin, torch.zeros_like(margin))


@dataclass(frozen=True)
class Sets:
    """A pool against a pool: `positive` and `negative` are [B, C, K] masks."""

    positive: Tensor
    negative: Tensor
    weights: Tensor
    chosen: Tensor
    rejected: Tensor

    def margins(self, preferred: Tensor, other: Tensor, rewards: Tensor, contrast: Contrast, scale: Tensor) -> Tensor:
        """Pool over the positives of u+ minus pool over the negatives of u-."""
        up, down = preferred[:, None, :], other[:, None, :]
        if contrast.deviation != "none":
            members = (self.positive | self.negative).to(rewards.dtype)
            mean = (members * rewards[:, None, :]).sum(-1, keepdim=True) / members.sum(-1, keepdim=True).clamp_min(1)
            extra = scale[..., None] * deviations(rewards[:, None, :], mean, contrast)
            up, down = up + extra, down + extra
        margin = pool(up, self.positive, contrast.pool) - pool(down, self.negative, contrast.pool)
        return torch.where(self.weights > 0, margin, torch.zeros_like(margin))


@dataclass(frozen=True)
class Chain:
    """Each response against all that are strictly worse: `order` [B, K] sorts by falling reward, the absent last.

    `below` [B, K] is, for each place in the order, the place of the first strictly worse response (K - 1 if none).
    """

    order: Tensor
    below: Tensor
    present: Tensor
    weights: Tensor
    chosen: Tensor
    rejected: Tensor

    def margins(self, preferred: Tensor, other: Tensor, rewards: Tensor, contrast: Contrast, scale: Tensor) -> Tensor:
        """u_k - logsumexp of u over the strictly worse, in sorted order."""
        ranked = other.gather(1, self.order)
        ranked = torch.where(self.present, ranked, torch.full_like(ranked, LOWEST))
        tails = ranked.flip(1).logcumsumexp(1).flip(1)
        margin = preferred.gather(1, self.order) - tails.gather(1, self.below)
        return torch.where(self.weights > 0, margin, torch.zeros_like(margin))


def pool(scores: Tensor, members: Tensor, kind: str) -> Tensor:
    """Logsumexp over the members of the last axis, or logmeanexp."""
    pooled = torch.where(members, scores, torch.full_like(scores, LOWEST)).logsumexp(-1)
    if kind == "logmeanexp":
        pooled = pooled - members.sum(-1).clamp_min(1).to(pooled.dtype).log()
    return pooled


def best_vs_worst(rewards: Tensor, mask: Tensor) -> Pairs:
    """The best against the worst response; the first of equals."""
    high = torch.where(mask, rewards, torch.full_like(rewards, -torch.inf)).argmax(1, keepdim=True)
    low = torch.where(mask, rewards, torch.full_like(rewards, torch.inf)).argmin(1, keepdim=True)
    differ = (rewards.gather(1, high) > rewards.gather(1, low)).to(rewards.dtype)
    return Pairs(high, low, differ, _one(mask, high), _one(mask, low))


def above_mean(rewards: Tensor, mask: Tensor) -> Sets:
    """MPO: responses above the mean reward against all others (arXiv 2412.04628; REFA, arXiv 2412.16378, Eq. 5).

    -log[S+ / (S+ + S-)] = -log sigma(log S+ - log S-), so the logistic link on these pools is MPO.
    """
    count = mask.sum(1, keepdim=True).clamp_min(1)
    mean = torch.where(mask, rewards, torch.zeros_like(rewards)).sum(1, keepdim=True) / count
    positive = mask & (rewards > mean)
    negative = mask & ~positive
    both = (positive.any(1) & negative.any(1)).to(rewards.dtype)[:, None]
    return Sets(positive[:, None, :], negative[:, None, :], both, positive, negative)


def plackett_luce(rewards: Tensor, mask: Tensor) -> Chain:
    """Each response against all that are strictly worse, weight 1 each (DPO, arXiv 2305.18290, Appendix A.3)."""
    size = rewards.shape[1]
    keyed = torch.where(mask, rewards, torch.full_like(rewards, -torch.inf))
    ordered, order = keyed.sort(dim=1, descending=True, stable=True)
    present = mask.gather(1, order)
    # the first strictly worse place of each: as many places as there are rewards >= its own
    below = torch.searchsorted((-ordered).contiguous(), (-ordered).contiguous(), right=True)
    worse = (below < present.sum(1, keepdim=True)) & present
    below = below.clamp_max(size - 1)
    weights = worse.to(rewards.dtype)
    top = torch.zeros_like(mask).scatter(1, order[:, :1], True) & mask
    return Chain(order, below, present, weights, top, mask & ~top)


def _one(mask: Tensor, index: Tensor) -> Tensor:
    return torch.zeros_like(mask).scatter(1, index, True)


BUILDERS: dict[str, Callable[[Tensor, Tensor], Comparisons]] = {
    "best-vs-worst": best_vs_worst,
    "above-mean": above_mean,
    "plackett-luce": plackett_luce,
}
