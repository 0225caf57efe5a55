"""AMPO's choice of the worse responses that stand against the best one (arXiv 2502.18293, as read in second texts).

Shapes: B prompts, K responses, D embedding size. Each function maps (rewards, mask, keep, embeddings) to a mask [B, K]
of the responses that take part: the best, and at most `keep` strictly worse ones. Detached.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

ITERATIONS = 25  # of k-means: tens of points settle in fewer


def bottom(rewards: Tensor, mask: Tensor, *, keep: int, embeddings: Tensor | None) -> Tensor:
    """The best, and the `keep` of lowest reward."""
    best, worse = _best_and_worse(rewards, mask)
    low = torch.where(worse, rewards, torch.full_like(rewards, torch.inf))
    rank = low.argsort(dim=1, stable=True).argsort(dim=1)
    return best | (worse & (rank < keep))


def coreset(rewards: Tensor, mask: Tensor, *, keep: int, embeddings: Tensor | None) -> Tensor:
    """The best, and of each of `keep` clusters of the worse responses' embeddings the one of lowest reward.

    k-means from farthest-first starts, which makes it deterministic.
    """
    return _per_set(rewards, mask, keep, embeddings, _lowest_per_cluster)


def opt_select(rewards: Tensor, mask: Tensor, *, keep: int, embeddings: Tensor | None) -> Tensor:
    """The best, and the set S of `keep` worse responses that minimises sum_i w_i min_{j in S} |e_i - e_j|.

    w_i = exp(mean reward - r_i): weighted k-medoids over the worse responses, by local search with single swaps until
    none helps (a 5-approximation).
    """
    return _per_set(rewards, mask, keep, embeddings, _medoids)


def _best_and_worse(rewards: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    high = torch.where(mask, rewards, torch.full_like(rewards, -torch.inf))
    best = torch.zeros_like(mask).scatter(1, high.argmax(1, keepdim=True), True) & mask
    return best, mask & (rewards < high.amax(1, keepdim=True))


def _per_set(
    rewards: Tensor,
    mask: Tensor,
    keep: int,
    embeddings: Tensor | None,
    choose: Callable[[Tensor, Tensor, int], Tensor],
) -> Tensor:
    if embeddings is None:
        raise ValueError("this selection needs embeddings")
    best, worse = _best_and_worse(rewards, mask)
    taken = best.clone()
    for index in range(len(rewards)):
        places = worse[index].nonzero().squeeze(1)
        if len(places) > keep:
            places = places[choose(embeddings[index, places].detach(), rewards[index, places], keep)]
        taken[index, places] = True
    return taken


def _lowest_per_cluster(points: Tensor, rewards: Tensor, keep: int) -> Tensor:
    centres = points[_farthest_first(points, keep)]
    owner = torch.cdist(points, centres).argmin(1)
    for _ in range(ITERATIONS):
        sums = torch.zeros_like(centres).index_add(0, owner, points)
        sizes = torch.bincount(owner, minlength=keep)[:, None]
        centres = torch.where(sizes > 0, sums / sizes.clamp_min(1), centres)
        owner = torch.cdist(points, centres).argmin(1)
    chosen = [torch.where(owner == c, rewards, torch.inf).argmin() for c in range(keep) if bool((owner == c).any())]
    return torch.stack(chosen)


def _farthest_first(points: Tensor, count: int) -> Tensor:
    """Indices: the point farthest from the mean, then each time the point farthest from all that are chosen."""
    chosen = [(points - points.mean(0)).norm(dim=1).argmax()]
    distance = (points - points[chosen[0]]).norm(dim=1)
    while len(chosen) < count:
        chosen.append(distance.argmax())
        distance = torch.minimum(distance, (points - points[chosen[-1]]).norm(dim=1))
    return torch.stack(chosen)


def _medoids(points: Tensor, rewards: Tensor, keep: int) -> Tensor:
    weights = torch.exp(rewards.mean() - rewards)
    distances = torch.cdist(points, points)
    chosen = _farthest_first(points, keep).tolist()

    def cost(members: list[int]) -> float:
        return float((weights * distances[:, members].amin(1)).sum())

    least, improved = cost(chosen), True
    while improved:
        improved = False
        for place in range(keep):
            for candidate in range(len(points)):
                if candidate in chosen:
                    continue
                trial = [*chosen[:place], candidate, *chosen[place + 1 :]]
                if (found := cost(trial)) < least - 1e-12:
                    chosen, least, improved = trial, found, True
    return torch.tensor(chosen, device=points.device)


SELECTIONS: dict[str, Callable[..., Tensor]] = {"bottom": bottom, "coreset": coreset, "opt-select": opt_select}
