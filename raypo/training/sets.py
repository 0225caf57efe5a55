"""What a step trains on: sets of responses. Torch alone; rows of tables become sets in `raypo.training.rows`.

Shapes: B sets, K responses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from raypo.data.packing import ResponseSet


@dataclass(frozen=True)
class TrainingSet:
    """One row of records.ANNOTATED, as training needs it.

    Args:
        tokens: prompt and responses.
        reference_logps: per response, nats.
        rewards: per response; only differences matter.
        usable: per response.
        psi: of the prompt.
        ended: per response: a stop token ended it.
        reference_token_logps: per response and token, nats; empty where the objective needs sums alone.
        token_weights: per response and token; empty where the objective asks for none with the data.
        shortest: tokens of the shortest response of the whole set; None: that of `tokens`.
    """

    tokens: ResponseSet
    reference_logps: Sequence[float]
    rewards: Sequence[float]
    usable: Sequence[bool]
    psi: float
    ended: Sequence[bool] = ()
    reference_token_logps: Sequence[Sequence[float]] = ()
    token_weights: Sequence[Sequence[float]] = ()
    shortest: int | None = None

    def __post_init__(self) -> None:
        if self.shortest is None:
            object.__setattr__(self, "shortest", min(len(ids) for ids in self.tokens.response_token_ids))
        if not self.ended:
            object.__setattr__(self, "ended", [True] * len(self.rewards))

    @property
    def response_tokens(self) -> int:
        """Tokens of all responses."""
        return sum(len(ids) for ids in self.tokens.response_token_ids)

    @property
    def content(self) -> str:
        """SHA-256 over every token and number of the set, hex: floats are told so that they come back exactly."""
        return hashlib.sha256(repr(self).encode()).hexdigest()

    def part(self, slots: Sequence[int]) -> TrainingSet:
        """Some of the responses, for a forward pass that cannot hold all; what belongs to the whole set stays."""
        ids = self.tokens.response_token_ids
        token_logps, weights = self.reference_token_logps, self.token_weights
        return replace(
            self,
            tokens=replace(self.tokens, response_token_ids=[ids[k] for k in slots]),
            reference_logps=[self.reference_logps[k] for k in slots],
            rewards=[self.rewards[k] for k in slots],
            usable=[self.usable[k] for k in slots],
            ended=[self.ended[k] for k in slots],
            reference_token_logps=[token_logps[k] for k in slots] if token_logps else (),
            token_weights=[weights[k] for k in slots] if weights else (),
        )


def columns(sets: Sequence[TrainingSet], dtype: torch.dtype, device: torch.device | str) -> dict[str, Any]:
    """What `set_loss` needs beside the policy's log-probs: psi [B], and [B, K] tensors, 0 where no response is."""
    width = max(len(one.rewards) for one in sets)

    def padded(rows: list[Sequence[Any]], kind: torch.dtype) -> Tensor:
        return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], dtype=kind, device=device)

    return {
        "reference_logps": padded([one.reference_logps for one in sets], dtype),
        "lengths": padded([[len(ids) for ids in one.tokens.response_token_ids] for one in sets], torch.long),
        "rewards": padded([one.rewards for one in sets], dtype),
        "mask": padded([one.usable for one in sets], torch.bool),
        "psi": torch.tensor([one.psi for one in sets], dtype=dtype, device=device),
    }
