"""From sets of responses to batches: which hidden state predicts which token of which response.

Shapes: B sets, K the largest number of responses of a set, N responses in all, P response tokens in all, R rows of the
batch, T row length.

A batch does not say how responses were laid out, only where each response token's predictor is: `predictor_index`
points into the flattened [R x T] hidden states. There are two layouts, and both give the same log-probs:

    none      one row per response: its prompt, then the response, padded on the right
    shared    one row for all sets, without padding: prompt, y_1, ..., y_K, the next prompt, ...; positions go on after
              the prompt in every response, and attention keeps responses apart (`raypo.models.attention`)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

Packing = Literal["shared", "none"]

Span = tuple[int, int, tuple[int, ...]]
"""A set in a shared row: where its prompt starts, tokens of the prompt, and tokens of each response."""


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
    def shared_tokens(self) -> int:
        """Tokens of the set in a shared row: a response's last token predicts nothing and is left out."""
        return len(self.prompt_token_ids) + sum(max(0, len(ids) - 1) for ids in self.response_token_ids)

    @property
    def width(self) -> int:
        """Tokens of the longest row."""
        return len(self.prompt_token_ids) + max((len(ids) for ids in self.response_token_ids), default=0)

    def tokens(self, packing: Packing) -> int:
        """Tokens that a forward pass over the set alone computes."""
        return self.shared_tokens if packing == "shared" else self.padded_tokens


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
        spans: the sets of a shared row, or None where each row is one response.
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
    spans: tuple[Span, ...] | None = None

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    def scatter(self, values: Tensor) -> Tensor:
        """Per-response values [N] into [B, K], differentiably; 0 where a set has fewer responses."""
        return values.new_zeros(self.shape).index_put((self.set_index, self.slot), values)


def pack(sets: Sequence[ResponseSet], *, pad_token_id: int, packing: Packing = "none") -> Batch:
    """Lay sets out for one forward pass.

    The hidden state that predicts a response's first token is that of the last prompt token; the one that predicts its
    token j is that of token j - 1.

    Args:
        sets: at least one, each with at least one response.
        pad_token_id: fills rows; attention never sees it.
        packing: "shared" encodes each prompt once, "none" once per response.
    """
    return _shared_row(sets) if packing == "shared" else _rows(sets, pad_token_id)


def _owners(sets: Sequence[ResponseSet]) -> dict[str, Any]:
    """What does not depend on the layout: whose each response token is, in the order of sets and slots."""
    responses = [(s, k, ids) for s, one in enumerate(sets) for k, ids in enumerate(one.response_token_ids)]
    lengths = torch.tensor([len(ids) for _, _, ids in responses])
    return {
        "targets": torch.tensor([token for _, _, ids in responses for token in ids], dtype=torch.long),
        "response_index": torch.repeat_interleave(torch.arange(len(responses)), lengths),
        "set_index": torch.tensor([s for s, _, _ in responses]),
        "slot": torch.tensor([k for _, k, _ in responses]),
        "shape": (len(sets), max(len(one.response_token_ids) for one in sets)),
    }


def _rows(sets: Sequence[ResponseSet], pad_token_id: int) -> Batch:
    rows = [(list(one.prompt_token_ids), list(ids)) for one in sets for ids in one.response_token_ids]
    width = max(len(prompt) + len(ids) for prompt, ids in rows)
    input_ids = torch.full((len(rows), width), pad_token_id, dtype=torch.long)
    attention_mask = torch.zeros(len(rows), width, dtype=torch.long)
    predictors = []
    for row, (prompt, ids) in enumerate(rows):
        tokens = torch.tensor(prompt + ids, dtype=torch.long)
        input_ids[row, : len(tokens)] = tokens
        attention_mask[row, : len(tokens)] = 1
        predictors.append(torch.arange(len(ids)) + row * width + len(prompt) - 1)
    return Batch(
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=(attention_mask.cumsum(1) - 1).clamp_min(0),
        predictor_index=torch.cat(predictors),
        **_owners(sets),
    )


def _shared_row(sets: Sequence[ResponseSet]) -> Batch:
    tokens: list[int] = []
    positions, predictors, spans = [], [], []
    for one in sets:
        prompt = len(one.prompt_token_ids)
        start, last = len(tokens), len(tokens) + prompt - 1
        tokens += one.prompt_token_ids
        positions.append(torch.arange(prompt))
        for ids in one.response_token_ids:
            # the prompt's last token predicts the first; the last predicts nothing and is left out
            inner = torch.arange(max(0, len(ids) - 1))
            predictors += [torch.full((min(1, len(ids)),), last), inner + len(tokens)]
            positions.append(inner + prompt)
            tokens += ids[:-1]
        spans.append((start, prompt, tuple(max(0, len(ids) - 1) for ids in one.response_token_ids)))
    input_ids = torch.tensor(tokens, dtype=torch.long)[None]
    return Batch(
        input_ids=input_ids,
        attention_mask=torch.ones_like(input_ids),
        position_ids=torch.cat(positions)[None],
        predictor_index=torch.cat(predictors),
        spans=tuple(spans),
        **_owners(sets),
    )


def micro_batches(sets: Sequence[ResponseSet], budget: int, packing: Packing = "none") -> list[list[int]]:
    """Group sets so that no group has more tokens than the budget; a set is never split.

    Sets of like size go together. A set that alone exceeds the budget is a group of its own.

    Args:
        sets: in any order.
        budget: tokens per group: of the shared row, or of the rows with their padding (rows x widest row).
        packing: the layout that `pack` will be given.

    Returns:
        groups of indices into `sets`; each index once; deterministic.
    """
    shared = packing == "shared"

    def size(one: ResponseSet) -> int:
        return one.shared_tokens if shared else one.width

    order = sorted(range(len(sets)), key=lambda i: (-size(sets[i]), sets[i].prompt_id))
    groups: list[list[int]] = []
    rows = tokens = 0
    for index in order:
        more = len(sets[index].response_token_ids)
        # the first of a group of rows is its widest: the order falls
        grown = tokens + size(sets[index]) if shared else (rows + more) * size(sets[groups[-1][0]]) if groups else 0
        if groups and grown <= budget:
            groups[-1].append(index)
            rows, tokens = rows + more, tokens + size(sets[index])
        else:
            groups.append([index])
            rows, tokens = more, size(sets[index])
    return groups
