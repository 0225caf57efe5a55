"""Attention over sets that share their prompt, through transformers' own attention interface.

A row of tokens is prompt, y_1, ..., y_K, prompt, y_1, ...: several sets, each with its prompt once. A prompt is causal;
a response sees its prompt and its own earlier tokens. Transformers hands every layer's queries, keys and values to the
function that is registered here, so no model's code is changed.

On CPU a set is split into what is dense: causal blocks of single segments (prompts and responses), and all responses of
a set against its prompt without a mask. The two parts of a response's softmax are joined by their log-sum-exps, and the
backward pass gives each part the joint output and the joint log-sum-exp, as ring attention does (arXiv 2310.01889,
section 3). No masked block is computed and none is stored. On GPU the same rule is a FlexAttention block mask.

Windows are counted in positions, as in a sequence of one response. Soft-capped scores are computed as they are written,
with a dense mask: torch's fused kernel has no cap, and transformers' `sdpa` leaves it out.

Shapes: T tokens of the row, H heads, D head size, S segments of a group, W its width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flex_attention import flex_attention_forward, repeat_kv
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from raypo.errors import ModelError

NAME = "raypo"
"""Under which transformers knows this attention."""

Span = tuple[int, int, tuple[int, ...]]
"""A set in a row: where its prompt starts, tokens of the prompt, and tokens of each response, which follow it."""

LAYERS = frozenset({"full_attention", "sliding_attention"})
"""Kinds of layers that the rule above describes."""

BUCKET = 16
"""Segments are batched with others of up to so many tokens less; they are causal, so right padding needs no mask."""

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


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
        ModelError: the model did not pass the spans on to its attention.
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
    if query.device.type != "cpu":
        mask = _block_mask(prefix_spans, sliding_window, query.device)
        out, _ = flex_attention_forward(module, query, key, value, mask, scaling=scaling, softcap=softcap)
        return out, None
    if softcap is not None:
        return _capped(query, key, value, dense_mask(prefix_spans, sliding_window), scaling, softcap), None
    groups = query.shape[1] // key.shape[1]
    rows = (x[0].transpose(0, 1) for x in (query, repeat_kv(key, groups), repeat_kv(value, groups)))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out: Tensor = _Split.apply(*rows, _plan(prefix_spans, sliding_window), scale)
    return out[None], None


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

    return create_block_mask(sees, None, None, len(sets), len(sets), device=device)


@dataclass(frozen=True)
class _Group:
    """Segments of like length.

    Args:
        rows: [S x W] their tokens' places in the row; padding repeats the segment's last token.
        padding: [S x W] bool, or None where all are of one length.
        shape: (S, W).
        mask: [W, W] additive, or None where causal is enough.
    """

    rows: Tensor
    padding: Tensor | None
    shape: tuple[int, int]
    mask: Tensor | None


@dataclass(frozen=True)
class _Cross:
    """A set's responses against its prompt.

    Args:
        prompt: its tokens in the row.
        responses: those of all responses.
        mask: [tokens of the responses, tokens of the prompt] additive, or None where all is seen.
    """

    prompt: slice
    responses: slice
    mask: Tensor | None


@dataclass(frozen=True)
class _Plan:
    groups: Sequence[_Group]
    crosses: Sequence[_Cross]


@lru_cache(maxsize=8)
def _plan(spans: tuple[Span, ...], window: int | None) -> _Plan:
    """How a row is split; made once per batch and used by all layers of one kind."""
    segments: dict[int, list[tuple[int, int]]] = {}
    crosses = []
    for start, prompt, lengths in spans:
        begin = start
        for length in (prompt, *lengths):
            if length:
                segments.setdefault(-(-length // BUCKET), []).append((begin, length))
            begin += length
        if sum(lengths):
            crosses.append(_cross(start, prompt, lengths, window))
    return _Plan([_group(found, window) for found in segments.values()], crosses)


def _group(segments: list[tuple[int, int]], window: int | None) -> _Group:
    starts, lengths = (torch.tensor(column) for column in zip(*segments, strict=True))
    width = int(lengths.max())
    offsets = torch.arange(width).expand(len(segments), width)
    rows = starts[:, None] + torch.minimum(offsets, lengths[:, None] - 1)
    padding = offsets >= lengths[:, None]
    mask = None
    if window is not None and window < width:
        apart = torch.arange(width)[:, None] - torch.arange(width)
        mask = _additive((apart >= 0) & (apart < window))
    return _Group(rows.flatten(), padding.flatten() if padding.any() else None, (len(segments), width), mask)


def _cross(start: int, prompt: int, lengths: tuple[int, ...], window: int | None) -> _Cross:
    mask = None
    if window is not None and window < prompt + max(lengths):
        positions = torch.cat([torch.arange(length) for length in lengths]) + prompt
        mask = _additive(positions[:, None] - torch.arange(prompt) < window)
    end = start + prompt
    return _Cross(slice(start, end), slice(end, end + sum(lengths)), mask)


def _additive(seen: Tensor) -> Tensor:
    return torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)


def _heads_first(x: Tensor) -> Tensor:
    """[T, H, D] as the kernel wants it, [1, H, T, D]."""
    return x.transpose(0, 1)[None]


def _tokens_first(x: Tensor) -> Tensor:
    """[1, H, T, D] as it stands in the row, [T, H, D]."""
    return x[0].transpose(0, 1)


class _Split(torch.autograd.Function):
    """Split attention on CPU. q, k, v: [T, H, D] of one head count; returns [T, H, D]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: _Plan, scale: float) -> Tensor:
        out, lse = torch.empty_like(q, memory_format=torch.contiguous_format), q.new_empty(q.shape[:2]).float()
        for group in plan.groups:
            o, logs = _forward(*(_batch(x, group) for x in (q, k, v)), 0.0, group.mask is None, **_how(group, q, scale))
            rows, o, logs = _real(group, o, logs.transpose(1, 2))
            out.index_copy_(0, rows, o)
            lse.index_copy_(0, rows, logs)
        for cross in plan.crosses:
            inputs = (_heads_first(x) for x in (q[cross.responses], k[cross.prompt], v[cross.prompt]))
            o, logs = _forward(*inputs, 0.0, False, **_how(cross, q, scale))
            if cross.mask is not None:  # the kernel does not say so of a row that sees nothing
                logs = logs.masked_fill((cross.mask == -torch.inf).all(1), -torch.inf)
            _join(out[cross.responses], lse[cross.responses], _tokens_first(o), logs[0].transpose(0, 1))
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.plan, ctx.scale = plan, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, out, lse = ctx.saved_tensors
        grad = grads[0]
        sums = dq, dk, dv = tuple(torch.zeros_like(q, memory_format=torch.contiguous_format) for _ in range(3))
        for group in ctx.plan.groups:
            given, logs = _batch(grad, group), lse[group.rows].view(*group.shape, -1).transpose(1, 2)
            if group.padding is not None:  # what padding gives is read by nobody
                given = given.masked_fill(group.padding.view(group.shape)[:, None, :, None], 0.0)
            found = _backward(
                given,
                *(_batch(x, group) for x in (q, k, v, out)),
                logs.contiguous(),
                0.0,
                group.mask is None,
                **_how(group, q, ctx.scale),
            )
            for total, one in zip(sums, found, strict=True):
                rows, real, _ = _real(group, one)
                total.index_copy_(0, rows, real)
        for cross in ctx.plan.crosses:
            theirs, prompt = cross.responses, cross.prompt
            inputs = (_heads_first(x) for x in (grad[theirs], q[theirs], k[prompt], v[prompt], out[theirs]))
            logs = lse[theirs].transpose(0, 1)[None].contiguous()
            found = _backward(*inputs, logs, 0.0, False, **_how(cross, q, ctx.scale))
            for total, one, place in zip((dq, dk, dv), found, (theirs, prompt, prompt), strict=True):
                total[place] += _tokens_first(one)
        return dq, dk, dv, None, None


def _how(part: _Group | _Cross, like: Tensor, scale: float) -> dict[str, Any]:
    return {"attn_mask": None if part.mask is None else part.mask.to(like.dtype), "scale": scale}


def _batch(x: Tensor, group: _Group) -> Tensor:
    """[T, H, D] as segments, [S, H, W, D]."""
    return x.index_select(0, group.rows).view(*group.shape, *x.shape[1:]).transpose(1, 2)


def _real(group: _Group, x: Tensor, logs: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Places, values [n, H, D] and log-sum-exps [n, H] of the tokens that are no padding."""
    values = x.transpose(1, 2).reshape(-1, x.shape[1], x.shape[3])
    logs = values[..., 0] if logs is None else logs.reshape(-1, x.shape[1])
    if group.padding is None:
        return group.rows, values, logs
    keep = ~group.padding
    return group.rows[keep], values[keep], logs[keep]


def _join(out: Tensor, lse: Tensor, more: Tensor, more_lse: Tensor) -> None:
    """Join a second part of a softmax to the first, in place; a part that sees nothing has log-sum-exp -inf."""
    joint = torch.logaddexp(lse, more_lse)
    weight = (more_lse - joint).exp()[..., None].to(out.dtype)
    out.mul_((lse - joint).exp()[..., None].to(out.dtype)).add_(more.nan_to_num(0.0) * weight)
    lse.copy_(joint)
