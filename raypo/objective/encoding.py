"""Three encodings of comparisons, behind one interface, so that each kind of contrast stays cheap at K = 512.

Shapes: B prompts, K responses, C comparisons.

    Pairs   two index tensors [B, C]: one response against one, or against the anchor (index K)
    Sets    two masks [B, C, K]: a pool of responses against a pool
    Chain   an order [B, K]: each response against all that are strictly worse, by one reversed logcumsumexp

Who is compared is detached; gradients flow through the scores alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from raypo.objective.choices import Contrast

LOWEST = -1e30  # a score that no pool notices; finite, so that its gradient is zero and not NaN


@dataclass(frozen=True)
class Scores:
    """What margins are made of.

    Args:
        preferred: u+ [B, K].
        other: u- [B, K].
        rewards: [B, K], >= 0: counted from the set's lowest.
        deviation_scale: [B, 1], multiplies deviations.
        anchor: [B, K], the anchor's score when held against each response.
    """

    preferred: Tensor
    other: Tensor
    rewards: Tensor
    deviation_scale: Tensor
    anchor: Tensor


class Comparisons(Protocol):
    """What every encoding offers.

    `weights` is [B, C], 0 where there is no such comparison; `targets` is [B, C] for links that read one, or None;
    `chosen` and `rejected` are [B, K] masks for metrics.
    """

    @property
    def weights(self) -> Tensor: ...  # noqa: D102 - described above
    @property
    def targets(self) -> Tensor | None: ...  # noqa: D102
    @property
    def chosen(self) -> Tensor: ...  # noqa: D102
    @property
    def rejected(self) -> Tensor: ...  # noqa: D102

    def margins(self, scores: Scores, contrast: Contrast) -> Tensor:
        """Margins [B, C]; 0 where there is no comparison."""
        ...

    def products(self, values: Tensor) -> Tensor:
        """Mean of values [B, K] over the positives times mean over the negatives, [B, C]; the anchor counts as 1."""
        ...


def deviations(rewards: Tensor, mean: Tensor, contrast: Contrast) -> Tensor:
    """W-MPO's deviation of each reward from the mean over the comparison's members (arXiv 2412.04628; REFA Eq. 5)."""
    gap = rewards - mean
    size = gap.abs() ** contrast.power
    return size * gap.sign() if contrast.deviation == "signed" else size


@dataclass(frozen=True)
class Pairs:
    """One response against one: `winner` and `loser` are [B, C] indices into the set, K for the anchor."""

    winner: Tensor
    loser: Tensor
    weights: Tensor
    chosen: Tensor
    rejected: Tensor
    targets: Tensor | None = None

    def margins(self, scores: Scores, contrast: Contrast) -> Tensor:
        """u+[winner] - u-[loser] - offset."""
        up = self._take(scores.preferred, self.winner, self.loser, scores.anchor)
        margin = up - self._take(scores.other, self.loser, self.winner, scores.anchor)
        high, low = self._take(scores.rewards, self.winner), self._take(scores.rewards, self.loser)
        if contrast.deviation != "none":
            mean = (high + low) / 2
            gap = deviations(high, mean, contrast) - deviations(low, mean, contrast)
            margin = margin + scores.deviation_scale * gap
        if contrast.reward_offset != "none":
            gap = high - low
            margin = margin - contrast.offset_scale * (gap if contrast.reward_offset == "linear" else gap.log1p())
        return torch.where(self.weights > 0, margin - contrast.offset, torch.zeros_like(margin))

    def products(self, values: Tensor) -> Tensor:
        """values[winner] x values[loser]."""
        one = torch.ones_like(values)
        return self._take(values, self.winner, self.loser, one) * self._take(values, self.loser, self.winner, one)

    def _take(
        self, values: Tensor, index: Tensor, partner: Tensor | None = None, anchor: Tensor | None = None
    ) -> Tensor:
        last = values.shape[1] - 1
        own = values.gather(1, index.clamp_max(last))
        if partner is None or anchor is None:
            return own
        return torch.where(index > last, anchor.gather(1, partner.clamp_max(last)), own)


@dataclass(frozen=True)
class Sets:
    """A pool against a pool: `positive` and `negative` are [B, C, K] masks."""

    positive: Tensor
    negative: Tensor
    weights: Tensor
    chosen: Tensor
    rejected: Tensor
    targets: Tensor | None = None

    def margins(self, scores: Scores, contrast: Contrast) -> Tensor:
        """Pool over the positives of u+ minus pool over the negatives of u- minus offset."""
        up, down = scores.preferred[:, None, :], scores.other[:, None, :]
        if contrast.deviation != "none":
            members = (self.positive | self.negative).to(scores.rewards.dtype)
            held = members * scores.rewards[:, None, :]
            mean = held.sum(-1, keepdim=True) / members.sum(-1, keepdim=True).clamp_min(1)
            extra = scores.deviation_scale[..., None] * deviations(scores.rewards[:, None, :], mean, contrast)
            up, down = up + extra, down + extra
        margin = pool(up, self.positive, contrast.pool) - pool(down, self.negative, contrast.pool) - contrast.offset
        return torch.where(self.weights > 0, margin, torch.zeros_like(margin))

    def products(self, values: Tensor) -> Tensor:
        """Mean over the positives times mean over the negatives."""
        return _mean(values[:, None, :], self.positive) * _mean(values[:, None, :], self.negative)


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
    targets: Tensor | None = None

    def margins(self, scores: Scores, contrast: Contrast) -> Tensor:
        """u_k - logsumexp of u over the strictly worse, in sorted order."""
        ranked = scores.other.gather(1, self.order)
        ranked = torch.where(self.present, ranked, torch.full_like(ranked, LOWEST))
        tails = ranked.flip(1).logcumsumexp(1).flip(1)
        margin = scores.preferred.gather(1, self.order) - tails.gather(1, self.below)
        return torch.where(self.weights > 0, margin, torch.zeros_like(margin))

    def products(self, values: Tensor) -> Tensor:
        """The response's value times the mean over the strictly worse."""
        ranked = values.gather(1, self.order) * self.present
        tails = ranked.flip(1).cumsum(1).flip(1).gather(1, self.below)
        worse = (self.present.sum(1, keepdim=True) - self.below).clamp_min(1)
        return torch.where(self.weights > 0, ranked * tails / worse, torch.zeros_like(ranked))


def pool(scores: Tensor, members: Tensor, kind: str) -> Tensor:
    """Logsumexp over the members of the last axis, or logmeanexp."""
    pooled = torch.where(members, scores, torch.full_like(scores, LOWEST)).logsumexp(-1)
    if kind == "logmeanexp":
        pooled = pooled - members.sum(-1).clamp_min(1).to(pooled.dtype).log()
    return pooled


def _mean(values: Tensor, members: Tensor) -> Tensor:
    kept = torch.where(members, values, torch.zeros_like(values))
    return kept.sum(-1) / members.sum(-1).clamp_min(1)
