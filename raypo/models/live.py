"""A reference that the trainer holds, sharded like the policy: for logits, hidden states, or because it moves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method

from raypo.errors import ConfigError
from raypo.models.scorer import TokenScorer


class LiveReference:
    """Holds a frozen scorer; nothing of it has a gradient.

    Args:
        scorer: with the policy's initial weights; sharded over the same mesh as the policy, or alone like it.
    """

    def __init__(self, scorer: TokenScorer) -> None:
        self.scorer = scorer.requires_grad_(False)
        if isinstance(scorer, FSDPModule):
            for method in ("hidden", "layers"):  # gathered and given back as by a forward
                register_fsdp_forward_method(scorer, method)

    @torch.no_grad()
    def hidden(self, batch: Any) -> Tensor:
        """Last hidden states at the predictor positions, [P, H]; the head may be applied until the next step."""
        return self.scorer.hidden(batch)

    @torch.no_grad()
    def layers(self, batch: Any) -> Tensor:
        """Hidden states of all layers, [L, P, H]."""
        return self.scorer.layers(batch)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states; only after `hidden` of the same batch, which gathers the head."""
        return self.scorer.head(hidden)

    @torch.no_grad()
    def follow(self, policy: TokenScorer, mixing: float) -> None:
        """Move towards the policy: reference <- mixing policy + (1 - mixing) reference; 1 copies it.

        TR-DPO (arXiv 2404.09656).

        Raises:
            ConfigError: the policy has adapters, whose weights have no counterpart here.
        """
        for scorer in (self.scorer, policy):
            if isinstance(scorer, FSDPModule):
                scorer.reshard()
        own = dict(self.scorer.causal.named_parameters())
        theirs = dict(policy.causal.named_parameters())
        if own.keys() != theirs.keys():
            raise ConfigError("a moving reference with adapters", "policy.adapter: none")
        for name, weight in own.items():
            weight.lerp_(theirs[name].detach().to(weight.dtype), mixing)
