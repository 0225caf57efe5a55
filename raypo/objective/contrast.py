"""Contrasts: which responses are compared. A builder maps rewards to comparisons in the cheapest encoding.

Shapes: B prompts, K responses, C comparisons. All of it is detached. Weights sum to 1 per set unless a builder says
otherwise. Rewards are counted from the set's lowest before any mean is taken, so that equal rewards compare as equal;
ties never become a preference: two responses of equal reward are on two sides of a comparison only where a cut by rank
falls between them, and then the lower side loses them.

A new contrast is one more function and its line in `BUILDERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from raypo.objective.encoding import Chain, Comparisons, Pairs, Sets


@dataclass(frozen=True)
class Given:
    """What a builder may look at, detached.

    Args:
        rewards: [B, K], counted from the set's lowest (for `labelled` as given); 0 where there is no response.
        mask: [B, K] bool.
        scores: u [B, K], for weights that depend on the current ranking.
    """

    rewards: Tensor
    mask: Tensor
    scores: Tensor

    def present(self, otherwise: float) -> Tensor:
        """Rewards, with a value where there is no response."""
        return torch.where(self.mask, self.rewards, torch.full_like(self.rewards, otherwise))


def best_vs_worst(given: Given) -> Pairs:
    """The best against the worst response; the first of equals."""
    high, low, differ = _ends(given)
    return Pairs(high, low, differ, _one(given.mask, high), _one(given.mask, low))


def all_pairs(given: Given) -> Pairs:
    """Each response against each strictly worse one, weight 1 / (number of such pairs)."""
    winner, loser, valid = _ordered_pairs(given)
    weights = valid.to(given.rewards.dtype)
    top, low = _present_top(given), given.mask & ~_present_top(given)
    return Pairs(winner, loser, _normalized(weights), top, low)


def chosen_by_rejected(given: Given) -> Pairs:
    """Each response above the mean reward against each of the others, weight 1 / (|P| |N|).

    The Mallows-phi link over sets: its probability is that of one response before another, and starts at 1/2.
    """
    positive, negative = _above_mean(given)
    winner, loser, valid = _ordered_pairs(given)
    across = positive.gather(1, winner) & negative.gather(1, loser) & valid
    return Pairs(winner, loser, _normalized(across.to(given.rewards.dtype)), positive, negative)


def lambda_pairs(given: Given) -> Pairs:
    """All pairs with LambdaLoss weights of the current ranking; LiPO-lambda (arXiv 2402.01878).

    w = |G_i - G_j| |1/D(rank_i) - 1/D(rank_j)|, G = 2^r - 1, D(rank) = log2(1 + rank), ranks by current scores. Not
    normalised: the size of the weights is the method's. The gain is LambdaLoss's (printed copies of LiPO have
    "2r - 1", an exponent that was lost). Rewards should be of order 1 (LiPO's are in [0, 1]); they
    count from the set's lowest, which scales all of a set's weights by one factor, and above 60 as 60: 2^60 is finite.
    """
    winner, loser, valid = _ordered_pairs(given)
    scores = torch.where(given.mask, given.scores, torch.full_like(given.scores, -torch.inf))
    rank = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1) + 1
    gain = torch.exp2(given.rewards.clamp_max(60)) - 1
    discount = 1 / torch.log2(1 + rank.to(given.rewards.dtype))
    weights = (gain.gather(1, winner) - gain.gather(1, loser)).abs()
    weights = weights * (discount.gather(1, winner) - discount.gather(1, loser)).abs()
    top = _present_top(given)
    return Pairs(winner, loser, torch.where(valid, weights, torch.zeros_like(weights)), top, given.mask & ~top)


def above_mean(given: Given) -> Sets:
    """MPO: responses above the mean reward against all others (arXiv 2412.04628; REFA, arXiv 2412.16378, Eq. 5).

    -log[S+ / (S+ + S-)] = -log sigma(log S+ - log S-), so the logistic link on these pools is MPO.
    """
    return _one_cut(given, *_above_mean(given))


def top_vs_bottom(given: Given, *, top: float, bottom: float) -> Sets:
    """The best `top` against the worst `bottom`, the middle left out: MPO's on-policy recipe is 2 and 2 of 5.

    A set of fewer than top + bottom gives each side at most half of them; responses whose reward equals that of
    the lowest on top do not stand below. Where that would leave nothing below, they leave the top instead: 2 1 1 1 1 is
    2 against two of the 1s.
    """
    count = given.mask.sum(1, keepdim=True)
    half, enough = (count // 2).clamp_min(1), count >= int(top) + int(bottom)
    high, low = (torch.where(enough, int(side), half.clamp_max(int(side))) for side in (top, bottom))
    falling = _rank(given.present(-torch.inf), descending=True)
    rising = _rank(given.present(torch.inf), descending=False)
    positive = given.mask & (falling < high)
    lowest = torch.where(positive, given.rewards, torch.full_like(given.rewards, torch.inf)).amin(1, keepdim=True)
    worst = given.mask & (rising < low)
    negative = worst & (given.rewards < lowest)
    tied = ~negative.any(1, keepdim=True)
    return _one_cut(
        given,
        torch.where(tied, positive & (given.rewards > lowest), positive),
        torch.where(tied, worst & (given.rewards <= lowest), negative),
    )


def one_vs_rest(given: Given) -> Sets:
    """The best against all that are strictly worse: InfoNCA at T -> 0 (arXiv 2402.05369), REFA's "1 vs k"."""
    high, _, _ = _ends(given)
    best = _one(given.mask, high)
    return _one_cut(given, best, given.mask & (given.rewards < given.rewards.gather(1, high)))


def infonca(given: Given, *, temperature: float) -> Sets:
    """Each response against all others, weight softmax(r / T): InfoNCA (arXiv 2402.05369). At the start: ln K.

    The paper's alpha is 1 / T. The authors' code (cbb9248) adds 0.01 to the first of the best rewards, which at its
    T = 1e-4 gives one of equals nearly all of the weight; here equals share it, as in the paper.
    """
    share = _softmax(given, temperature)
    return _each(given, share, None)


def each_vs_rest(given: Given, *, temperature: float) -> Sets:
    """Each response against all others, weight 1, target softmax(r / T): EXO with K responses (arXiv 2402.00856).

    With the link soft-exo the sum is KL(softmax(u) || softmax(r / T)).
    """
    return _each(given, given.mask.to(given.rewards.dtype), _softmax(given, temperature))


def levels(given: Given, *, levels: float) -> Sets:
    """Ordinal levels: for each cut between two levels, all above it against all below, weight 1 / (number of cuts).

    Cuts are at ranks n c / L, c = 1 ... L - 1, and move down to where the reward changes; cuts that fall together
    count once. L = 2 is the median split, L >= n one cut per distinct reward: the likelihood of a cumulative model.
    """
    number = int(levels)
    count = given.mask.sum(1, keepdim=True)
    falling = given.present(-torch.inf).sort(dim=1, descending=True).values
    cuts = torch.arange(1, number, device=count.device)[None, :]
    place = torch.div(count * cuts + number - 1, number, rounding_mode="floor").clamp(1, falling.shape[1]) - 1
    threshold = falling.gather(1, place)  # [B, L - 1]
    new = torch.ones_like(threshold, dtype=torch.bool)
    new[:, 1:] = threshold[:, 1:] < threshold[:, :-1]
    above = given.mask[:, None, :] & (given.rewards[:, None, :] >= threshold[:, :, None])
    below = given.mask[:, None, :] & ~above
    weights = (new & above.any(-1) & below.any(-1)).to(given.rewards.dtype)
    top = _present_top(given)
    return Sets(above, below, _normalized(weights), top, given.mask & ~top)


def plackett_luce(given: Given) -> Chain:
    """Each response against all that are strictly worse, weight 1 each (DPO, arXiv 2305.18290, Appendix A.3)."""
    size = given.rewards.shape[1]
    ordered, order = given.present(-torch.inf).sort(dim=1, descending=True, stable=True)
    present = given.mask.gather(1, order)
    # the first strictly worse place of each: as many places as there are rewards >= its own
    below = torch.searchsorted((-ordered).contiguous(), (-ordered).contiguous(), right=True)
    worse = (below < present.sum(1, keepdim=True)) & present
    below = below.clamp_max(size - 1)
    top = torch.zeros_like(given.mask).scatter(1, order[:, :1], True) & given.mask
    return Chain(order, below, present, worse.to(given.rewards.dtype), top, given.mask & ~top)


def anchored(given: Given, *, chosen_weight: float, rejected_weight: float) -> Pairs:
    """The best against the anchor and the anchor against the worst, with the given weights.

    BCO (arXiv 2404.04656), SPPO (2405.00675), APO-zero (2408.06266) and KTO's pairs (2402.01306) have 1 and 1.
    """
    high, low, differ = _ends(given)
    anchor = torch.full_like(high, given.rewards.shape[1])
    weights = torch.cat([chosen_weight * differ, rejected_weight * differ], 1)
    pairs = torch.cat([high, anchor], 1), torch.cat([anchor, low], 1)
    return Pairs(*pairs, weights, _one(given.mask, high), _one(given.mask, low))


def anchor_chosen(given: Given) -> Pairs:
    """The anchor against the best, and the best against the worst, weight 1 each: APO-down (arXiv 2408.06266)."""
    high, low, differ = _ends(given)
    anchor = torch.full_like(high, given.rewards.shape[1])
    pairs = torch.cat([anchor, high], 1), torch.cat([high, low], 1)
    return Pairs(*pairs, torch.cat([differ, differ], 1), _one(given.mask, high), _one(given.mask, low))


def anchored_all(given: Given, *, temperature: float) -> Pairs:
    """Each response against the anchor, weight softmax(r / T), and the anchor against each, weight 1 / K.

    NCA (arXiv 2402.05369). Weights sum to 2; at the start 2 ln 2.
    """
    size = given.rewards.shape[1]
    index = torch.arange(size, device=given.rewards.device).expand_as(given.rewards)
    anchor = torch.full_like(index, size)
    count = given.mask.sum(1, keepdim=True).clamp_min(1)
    weights = torch.cat([_softmax(given, temperature), given.mask.to(given.rewards.dtype) / count], 1)
    top = _present_top(given)
    return Pairs(torch.cat([index, anchor], 1), torch.cat([anchor, index], 1), weights, top, given.mask & ~top)


def labelled(given: Given, *, desirable_weight: float, undesirable_weight: float) -> Pairs:
    """Each desirable response against the anchor and the anchor against each other one; one response is enough.

    KTO (arXiv 2402.01306). Desirable is the label 1, as it was given; others than 1 and 0 are refused. Weights are the
    given ones / (number of responses).
    """
    size = given.rewards.shape[1]
    index = torch.arange(size, device=given.rewards.device).expand_as(given.rewards)
    anchor = torch.full_like(index, size)
    good = given.mask & (given.rewards > 0.5)
    bad = given.mask & ~good
    count = given.mask.sum(1, keepdim=True).clamp_min(1)
    kind = given.rewards.dtype
    weights = torch.cat([desirable_weight * good.to(kind), undesirable_weight * bad.to(kind)], 1) / count
    return Pairs(torch.cat([index, anchor], 1), torch.cat([anchor, index], 1), weights, good, bad)


def _ends(given: Given) -> tuple[Tensor, Tensor, Tensor]:
    """Indices [B, 1] of the best and the worst, the first of equals, and 1 where their rewards differ."""
    high = given.present(-torch.inf).argmax(1, keepdim=True)
    low = given.present(torch.inf).argmin(1, keepdim=True)
    differ = given.rewards.gather(1, high) > given.rewards.gather(1, low)
    return high, low, differ.to(given.rewards.dtype)


def _ordered_pairs(given: Given) -> tuple[Tensor, Tensor, Tensor]:
    """All i < j in the order of falling rewards: indices of both [B, K (K - 1) / 2], and whether i is better."""
    size = given.rewards.shape[1]
    order = given.present(-torch.inf).argsort(dim=1, descending=True, stable=True)
    first, second = torch.triu_indices(size, size, offset=1, device=order.device)
    winner, loser = order[:, first], order[:, second]
    both = given.mask.gather(1, winner) & given.mask.gather(1, loser)
    return winner, loser, both & (given.rewards.gather(1, winner) > given.rewards.gather(1, loser))


def _above_mean(given: Given) -> tuple[Tensor, Tensor]:
    """Masks of the responses above the set's mean reward, and of the others.

    A reward that is the mean must not be above it by rounding, so it has to exceed it by more than rounding makes.
    """
    count = given.mask.sum(1, keepdim=True).clamp_min(1)
    rounding = given.rewards.amax(1, keepdim=True) * torch.finfo(given.rewards.dtype).eps ** 0.75
    positive = given.mask & (given.rewards > given.present(0.0).sum(1, keepdim=True) / count + rounding)
    return positive, given.mask & ~positive


def _one_cut(given: Given, positive: Tensor, negative: Tensor) -> Sets:
    both = (positive.any(1) & negative.any(1)).to(given.rewards.dtype)[:, None]
    return Sets(positive[:, None, :], negative[:, None, :], both, positive, negative)


def _each(given: Given, weights: Tensor, targets: Tensor | None) -> Sets:
    size = given.rewards.shape[1]
    own = torch.eye(size, dtype=torch.bool, device=given.mask.device)[None]
    positive, negative = own & given.mask[:, None, :], ~own & given.mask[:, None, :]
    weights = weights * (given.mask.sum(1, keepdim=True) > 1)
    top = _present_top(given)
    return Sets(positive, negative, weights, top, given.mask & ~top, targets)


def _softmax(given: Given, temperature: float) -> Tensor:
    """softmax(r / T) over the responses that are there; 0 elsewhere."""
    logits = torch.where(given.mask, given.rewards / temperature, torch.full_like(given.rewards, -1e30))
    return torch.softmax(logits, dim=1) * given.mask


def _rank(values: Tensor, *, descending: bool) -> Tensor:
    """Place of each entry in its row's stable order, from 0."""
    return values.argsort(dim=1, descending=descending, stable=True).argsort(dim=1)


def _present_top(given: Given) -> Tensor:
    return _one(given.mask, given.present(-torch.inf).argmax(1, keepdim=True)) & given.mask


def _normalized(weights: Tensor) -> Tensor:
    return weights / weights.sum(1, keepdim=True).clamp_min(1)


def _one(mask: Tensor, index: Tensor) -> Tensor:
    return torch.zeros_like(mask).scatter(1, index, True)


BUILDERS: dict[str, Callable[..., Comparisons]] = {
    "best-vs-worst": best_vs_worst,
    "all-pairs": all_pairs,
    "chosen-by-rejected": chosen_by_rejected,
    "lambda-pairs": lambda_pairs,
    "above-mean": above_mean,
    "top-vs-bottom": top_vs_bottom,
    "one-vs-rest": one_vs_rest,
    "infonca": infonca,
    "each-vs-rest": each_vs_rest,
    "levels": levels,
    "plackett-luce": plackett_luce,
    "anchored": anchored,
    "anchored-all": anchored_all,
    "anchor-chosen": anchor_chosen,
    "labelled": labelled,
}
