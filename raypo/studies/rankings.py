"""Rankings by an annotator, drawn exactly: Mallows-theta (Spearman), Mallows-phi (Kendall), and Bradley-Terry choices.

Shapes: S seeds, N contexts, M arms; few arms, so that all M! rankings are listed.
"""

from __future__ import annotations

from itertools import permutations

import torch
from torch import Tensor

from raypo.dispersion.mallows import kendall, spearman

TRUTHS = ("theta", "phi", "bradley-terry")

BT_LOG_ODDS = 0.5
"""Bradley-Terry's log-odds per rank that two arms lie apart, the same in every context: nothing there is dispersed."""


def draw_orders(center: Tensor, lam: Tensor, truth: str, rng: torch.Generator) -> Tensor:
    """One annotator's ranks of all arms in every context.

    Args:
        center: [S, N, M] int, the central ranking as ranks, 0 the best.
        lam: [S, N] -ln phi > 0; under Bradley-Terry not read.
        truth: one of TRUTHS.
        rng: of the draws.

    Returns:
        [S, N, M] int ranks.
    """
    if truth == "bradley-terry":  # the best arm by Gumbel-noised utility, and so on: Luce's ranking, whose pairs are BT
        uniform = torch.rand(center.shape, generator=rng).clamp(1e-12, 1 - 1e-7)
        noisy = -BT_LOG_ODDS * center - (-uniform.log()).log()
        return noisy.argsort(-1, descending=True).argsort(-1)
    arms = center.shape[-1]
    everyone = torch.tensor(list(permutations(range(arms))))
    distance = (spearman if truth == "theta" else kendall)(everyone, torch.arange(arms)).float()
    weights = torch.softmax(-lam.flatten()[:, None] * distance, -1)
    chosen = torch.multinomial(weights, 1, generator=rng).squeeze(-1)
    # everyone[chosen][j] is the rank of the arm whose central rank is j
    return everyone[chosen].view(*center.shape).gather(-1, center)


def psi_of_truth(lam: Tensor, truth: str) -> Tensor:
    """What a known dispersion gives: 2 lambda under theta, lambda under phi, one number under Bradley-Terry."""
    if truth == "bradley-terry":
        return torch.full_like(lam, BT_LOG_ODDS)
    return 2 * lam if truth == "theta" else lam
