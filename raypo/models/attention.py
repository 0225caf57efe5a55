"""Attention over sets that share their prompt, through transformers' own attention interface.

A row of tokens is prompt, y_1, ..., y_K, prompt, y_1, ...: several sets, each with its prompt once. A prompt is causal;
a response sees its prompt and its own earlier tokens. Transformers hands every layer's queries, keys and values to the
function that is registered here, so no model's code is changed.

On CPU it is computed in parts that need no mask (`raypo.models.split`), on GPU by FlexAttention with a block mask.

Windows are counted in positions, as in a sequence of one response. Soft-capped scores are computed as they are written,
with a dense mask: torch's fused kernel has no cap, and transformers' `sdpa` leaves it out.

Shapes: R rows, T tokens of a row, H heads, D head size.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flex_attention import flex_attention_forward, repeat_kv
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from raypo.errors import ModelError
from raypo.models.split import Span, split_attention

NAME = "raypo"
"""Under which transformers knows this attention."""

LAYERS = frozenset({"full_attention", "sliding_attention"})
"""Kinds of layers that the rule above describes."""


def use_attention(causal: Any) -> None:
    """Let a model call the attention of this module; a model that does not use the interface keeps its own."""
    if causal.config._attn_implementation == "sdpa" and causal._can_set_attn_implementation():
        causal.set_attn_implementation(NAME)


def refuse_unshareable(causal: Any) -> None:
    """Refuse a model whose tokens meet otherwise than through causal attention, windowed or not.

    Raises:
        ModelError: its layers are of another kind, or it does not use transformers' attention interface.
    """
    config = causal.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or LAYERS)
    if getattr(config, "attention_chunk_size", None) or kinds - LAYERS:
        what = ", ".join(sorted(kinds - LAYERS)) or "attention in chunks"
    elif causal.config._attn_implementation != NAME:
        what = f"{causal.config._attn_implementation} attention of its own"
    else:
        return
    raise ModelError(
        f"{type(causal).__name__} has {what}",
        "causal attention through transformers' interface: only then do responses that share a prompt not meet",
        "set training.packing=none",
    )


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    prefix_spans: tuple[Span, ...] | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers' layers call; `prefix_spans` is passed through by the model's forward.

    Args:
        module: the layer's attention.
        query: [R, H, T, D].
        key: [R, H', T, D], H' divides H.
        value: [R, H', T, D].
        attention_mask: of rows of single sequences, as `sdpa_mask` makes it; not read with spans.
        scaling: of the scores; None is 1 / sqrt(D).
        prefix_spans: the sets of the only row, or None where every row is one sequence.
        sliding_window: a token sees so many positions, its own among them.
        softcap: scores s become cap * tanh(s / cap).
        kwargs: dropout, which is 0, and what other implementations read.

    Returns:
        [R, T, H, D], and None for the weights.

    Raises:
        ModelError: the model did not pass the spans on to its attention, or has heads of two sizes.
    """
    if prefix_spans is None:
        if attention_mask is not None and attention_mask.shape[-1] != key.shape[2]:
            raise ModelError(
                f"{type(module).__name__} was not told which tokens share a prompt",
                "a model that passes keyword arguments on to its attention",
                "set training.packing=none",
            )
        if softcap is None:
            return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
        if attention_mask is None:
            attention_mask = torch.ones(key.shape[2], key.shape[2], dtype=torch.bool, device=key.device).tril()
        return _capped(query, key, value, attention_mask, scaling, softcap), None
    if value.shape[-1] != query.shape[-1]:
        raise ModelError(
            f"{type(module).__name__} has values of {value.shape[-1]} numbers a head and queries of {query.shape[-1]}",
            "heads of one size: only these are known to attention over shared prompts",
            "set training.packing=none",
        )
    if query.device.type != "cpu":
        mask = _block_mask(prefix_spans, sliding_window, query.device)
        out, _ = flex_attention_forward(module, query, key, value, mask, scaling=scaling, softcap=softcap)
        return out, None
    if softcap is not None:
        return _capped_sets(query, key, value, prefix_spans, sliding_window, scaling, softcap), None
    groups = query.shape[1] // key.shape[1]
    q, k, v = (x[0].transpose(0, 1) for x in (query, repeat_kv(key, groups), repeat_kv(value, groups)))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return split_attention(q, k, v, prefix_spans, window=sliding_window, scale=scale)[None], None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def _capped(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scaling: float | None, cap: float) -> Tensor:
    """Attention with capped scores: transformers' eager form."""
    groups = q.shape[1] // k.shape[1]
    k, v = repeat_kv(k, groups), repeat_kv(v, groups)
    scores = q @ k.transpose(2, 3) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = (cap * torch.tanh(scores / cap)).masked_fill(~mask, -torch.inf)
    # a padding row sees nothing
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).nan_to_num(0.0).to(v.dtype)
    return (weights @ v).transpose(1, 2)


def _capped_sets(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    spans: tuple[Span, ...],
    window: int | None,
    scaling: float | None,
    cap: float,
) -> Tensor:
    """Capped attention of each set by itself, so that scores grow with the sets of a row and not with their square."""
    found = []
    for start, prompt, lengths in spans:
        here = slice(start, start + prompt + sum(lengths))
        mask = dense_mask(((0, prompt, lengths),), window)
        found.append(_capped(q[:, :, here], k[:, :, here], v[:, :, here], mask, scaling, cap))
    return torch.cat(found, dim=1)


@lru_cache(maxsize=8)
def token_places(spans: tuple[Span, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Of every token: its set, its response (-1 in a prompt), and its position in the sequence of its response."""
    sets, responses, positions = [], [], []
    for number, (_, prompt, lengths) in enumerate(spans):
        for response, first, count in [(-1, 0, prompt), *((k, prompt, length) for k, length in enumerate(lengths))]:
            sets.append(torch.full((count,), number))
            responses.append(torch.full((count,), response))
            positions.append(torch.arange(first, first + count))
    return torch.cat(sets), torch.cat(responses), torch.cat(positions)


@lru_cache(maxsize=4)
def dense_mask(spans: tuple[Span, ...], window: int | None) -> Tensor:
    """Which token sees which, [T, T] bool: the rule, written out."""
    sets, responses, positions = token_places(spans)
    sees = (sets[:, None] == sets) & ((responses == -1) | (responses[:, None] == responses))
    apart = positions[:, None] - positions
    return sees & (apart >= 0) & (apart < (window or 2**40))


@lru_cache(maxsize=8)
def _block_mask(spans: tuple[Span, ...], window: int | None, device: torch.device) -> Any:
    """The rule as a FlexAttention block mask."""
    from torch.nn.attention.flex_attention import create_block_mask

    sets, responses, positions = (x.to(device) for x in token_places(spans))

    def sees(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        own = (responses[k] == -1) | (responses[q] == responses[k])
        apart = positions[q] - positions[k]
        return (sets[q] == sets[k]) & own & (apart >= 0) & (apart < (window or 2**40))

    # compiled: block by block, where torch would otherwise write out the whole mask first
    count, compiled = len(sets), device.type == "cuda"
    return create_block_mask(sees, None, None, count, count, device=device, _compile=compiled)
