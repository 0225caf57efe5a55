"""SparsePO's trained token masks, over the reference's hidden states."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MaskHead(nn.Module):
    """Non-negative masks, each one number per token: a linear map and ReLU per layer, mixed by a linear map and ReLU.

    SparsePO (arXiv 2410.05102; HEBO ee6112d): one mask that weighs log-ratios and KL alike, or one for each. They
    start at all ones, where the objective is TDPO1, so that the first step is a known one. They are trained beside the
    policy and kept in its checkpoints, and are no part of what is exported.

    Args:
        layers: L.
        hidden_size: H.
        masks: M, 1 or 2.
    """

    def __init__(self, layers: int, hidden_size: int, masks: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(masks, layers, hidden_size))
        self.bias = nn.Parameter(torch.ones(masks, layers))
        self.mix = nn.Parameter(torch.full((masks, layers), 1.0 / layers))
        self.mix_bias = nn.Parameter(torch.zeros(masks))

    def forward(self, states: Tensor) -> Tensor:
        """Masks [M, P] >= 0 of states [L, P, H]."""
        linear = torch.einsum("lph,mlh->mlp", states.to(self.weight.dtype), self.weight)
        per_layer = torch.relu(linear + self.bias[:, :, None])
        return torch.relu(torch.einsum("ml,mlp->mp", self.mix, per_layer) + self.mix_bias[:, None])
