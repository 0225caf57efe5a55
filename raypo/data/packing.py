"""From sets of responses to batches: which hidden state predicts which token of which response.

Shapes: B sets, K the largest number of responses of a set, N responses in all, P response tokens in all, R rows of the
batch, T row length.

A batch does not say how responses were laid out, only where each response token's predictor is: `predictor_index`
points into the flattened [R x T] hidden states. One row per response is one layout; a row that shares its prompt among
K responses is another, and differs in `pack` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class ResponseSet:
    """Token ids of a prompt and its responses.

    Args:
        prompt_id: key of the set.
        prompt_token_ids: at least one token; the last one predicts each response's first.
        response_token_ids: K lists; an empty one is a response of no tokens, log-prob 0.
    """

    prompt_id: str
    prompt_token_ids: Sequence[int]
    response_token_ids: Sequence[Sequence[int]]

    @property
    def padded_tokens(self) -> int:
        """Tokens of the set as rows of its own width."""
        return self.width * len(self.response_token_ids)

    @property
    def width(self) -> int:
        """Tokens of the longest row."""
        return len(self.prompt_token_ids) + max((len(ids) for ids in self.response_token_ids), default=0)


@dataclass(frozen=True)
class Batch:
    """Tensors of one forward pass.

    Args:
        input_ids: [R, T] int64.
        attention_mask: [R, T] int64, 1 at tokens, 0 at right padding.
        position_ids: [R, T] int64.
        predictor_index: [P] int64, into the flattened [R x T].
        targets: [P] int64, the response tokens.
        response_index: [P] int64 in [0, N).
        set_index: [N] int64 in [0, B).
        slot: [N] int64 in [0, K): the response's place in its set.
        shape: (B, K).
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    predictor_index: Tensor
    targets: Tensor
    response_index: Tensor
    set_index: Tensor
    slot: Tensor
    shape: tuple[int, int]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    def scatter(self, values: Tensor) -> Tensor:
        """Per-response values [N] into [B, K], differentiably; 0 where a set has fewer responses."""
        return values.new_zeros(self.shape).index_put((self.set_index, self.slot), values)


def pack(sets: Sequence[ResponseSet], *, pad_token_id: int) -> Batch:
    """One right-padded row per response: its prompt, then the response.

    The hidden state that predicts a response's first token is that of the last prompt token; the one that predicts its
    token j is that of token j - 1.

    Args:
        sets: at least one, each with at least one response.
        pad_token_id: fills rows; attention never sees it.
    """
    rows = [
        (s, k, list(one.prompt_token_ids), list(ids))
        for s, one in enumerate(sets)
        for k, ids in enumerate(one.response_token_ids)
    ]
    width = max(len(prompt) + len(ids) for _, _, prompt, ids in rows)
    input_ids = torch.full((len(rows), width), pad_token_id, dtype=torch.long)
    attention_mask = torch.zeros(len(rows), width, dtype=torch.long)
    predictors, targets, owners = [], [], []
    for row, (_, _, prompt, ids) in enumerate(rows):
        tokens = torch.tensor(prompt + ids, dtype=torch.long)
        input_ids[row, : len(tokens)] = tokens
        attention_mask[row, : len(tokens)] = 1
        predictors.append(torch.arange(len(ids)) + row * width + len(prompt) - 1)
        targets.append(tokens[len(prompt) :])
        owners.append(torch.full((len(ids),), row, dtype=torch.long))
    return Batch(
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=(attention_mask.cumsum(1) - 1).clamp_min(0),
        predictor_index=torch.cat(predictors),
        targets=torch.cat(targets),
        response_index=torch.cat(owners),
        set_index=torch.tensor([s for s, _, _, _ in rows]),
        slot=torch.tensor([k for _, k, _, _ in rows]),
        shape=(len(sets), max(len(one.response_token_ids) for one in sets)),
    )


def micro_batches(sets: Sequence[ResponseSet], budget: int) -> list[list[int]]:
    """Group sets so that no group has more padded tokens than the budget; a set is never split.

    Sets of like width go together. A set that alone exceeds the budget is a group of its own.

    Args:
        sets: in any order.
        budget: padded tokens (rows x widest row) per group.

    Returns:
        groups of indices into `sets`; each index once; deterministic.
    """
    order = sorted(range(len(sets)), key=lambda i: (-sets[i].width, sets[i].prompt_id))
    groups: list[list[int]] = []
    rows = 0
    for index in order:
        more = len(sets[index].response_token_ids)
        # the first of a group is its widest: the order falls
        if groups and (rows + more) * sets[groups[-1][0]].width <= budget:
            groups[-1].append(index)
            rows += more
        else:
            groups.append([index])
            rows = more
    return groups
