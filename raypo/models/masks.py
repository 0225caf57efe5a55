"""SparsePO's trained token masks, over the reference's hidden states."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MaskHead(nn.Module):
    """One non-negative mask per token: a linear map and ReLU per layer, mixed over layers by a linear map and ReLU.

    The common-mask variant of SparsePO (arXiv 2410.05102; HEBO ee6112d): the same mask weighs log-ratios and KL. It
    starts at all ones, where the objective is TDPO1, so that the first step is a known one. It is trained beside the
    policy and kept in its checkpoints, and is no part of what is exported.

    Args:
        layers: L.
        hidden_size: H.
    """

    def __init__(self, layers: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(layers, hidden_size))
        self.bias = nn.Parameter(torch.ones(layers))
        self.mix = nn.Parameter(torch.full((layers,), 1.0 / layers))
        self.mix_bias = nn.Parameter(torch.zeros(1))

    def forward(self, states: Tensor) -> Tensor:
        """Masks [P] >= 0 of states [L, P, H]."""
        per_layer = torch.relu(
            torch.einsum("lph,lh->lp", states.to(self.weight.dtype), self.weight) + self.bias[:, None]
        )
        return torch.relu(self.mix @ per_layer + self.mix_bias)
