"""From hidden states or logits to token log-probabilities, entropies and KL: in fp32, in chunks.

Shapes: P positions that predict a response token, H hidden size, V vocabulary (the width of the logits), N responses.
Whatever the type of the input, reductions over V are taken in fp32 (float64 stays float64).

[P, V] is never held at once: the head is applied to a chunk of positions, and applied again in the backward pass. The
last chunk is where the backward pass begins: its logits are kept, since computed again they would stand there as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

Head = Callable[[Tensor], Tensor]

Measure = Callable[[Tensor, slice], Tensor]
"""From the logits [p, V] of some positions and their place among all P to one more value per position, [p]."""


def upcast(logits: Tensor) -> Tensor:
    """fp32 at least: bf16 and fp16 are raised, fp32 and float64 stay."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def token_logps(logits: Tensor, targets: Tensor) -> Tensor:
    """Log p(target) at each position, nats.

    Args:
        logits: [P, V], any float type.
        targets: [P] int64 in [0, V).

    Returns:
        [P], fp32 or float64.
    """
    return -cross_entropy(upcast(logits), targets, reduction="none")  # its backward pass reads [P, V] once


def token_entropies(logits: Tensor) -> Tensor:
    """Entropy of the next-token distribution at each position, nats in [0, ln V].

    Args:
        logits: [P, V], any float type.

    Returns:
        [P], fp32 or float64.
    """
    logps = torch.log_softmax(upcast(logits), dim=-1)
    # p ln p -> 0 as p -> 0: a -inf logit would otherwise give 0 * -inf
    return -(logps.exp() * logps.clamp_min(torch.finfo(logps.dtype).min)).sum(-1)


def token_kl(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    """Exact KL(p || q) of two next-token distributions at each position, nats, >= 0 up to rounding.

    Args:
        logits_p: [P, V].
        logits_q: [P, V].

    Returns:
        [P], fp32 or float64.
    """
    p, q = torch.log_softmax(upcast(logits_p), dim=-1), torch.log_softmax(upcast(logits_q), dim=-1)
    lowest = torch.finfo(p.dtype).min
    return (p.exp() * (p.clamp_min(lowest) - q.clamp_min(lowest))).sum(-1)


def token_log_square_sums(logits: Tensor) -> Tensor:
    """Log sum_v p_v^2 at each position: the log of the chance that two draws agree; WPO's scale (arXiv 2406.11827).

    Args:
        logits: [P, V].

    Returns:
        [P], fp32 or float64, in [-ln V, 0].
    """
    return torch.logsumexp(2 * torch.log_softmax(upcast(logits), dim=-1), dim=-1)


def _logps_and(
    hidden: Tensor, targets: Tensor, head: Head, with_entropy: bool, measure: Measure | None, place: slice
) -> tuple[Tensor, Tensor, Tensor]:
    logits = head(hidden)
    logps = token_logps(logits, targets)
    measured = torch.zeros_like(logps) if measure is None else measure(logits, place)
    if not with_entropy:
        return logps, torch.zeros_like(logps), measured
    with torch.no_grad():
        return logps, token_entropies(logits), measured


class TokenValues(NamedTuple):
    """What is known of each of P response tokens.

    A tuple, because FSDP2 looks for the tensors of a forward's output in tuples, lists and mappings alone.

    Args:
        logps: [P] log-probs, nats, with gradient.
        entropies: [P] without gradient, or None.
        measured: [P] or [P, M], what a `Measure` gave, or None.
        masks: [M, P] of a mask head, with gradient, or None.
    """

    logps: Tensor
    entropies: Tensor | None
    measured: Tensor | None
    masks: Tensor | None = None


def chunked_token_logps(
    hidden: Tensor,
    head: Head,
    targets: Tensor,
    *,
    chunk_size: int,
    with_entropy: bool,
    measure: Measure | None = None,
) -> TokenValues:
    """Token log-probs, and what else is asked for, without ever holding [P, V].

    Args:
        hidden: [P, H] last hidden states at the predicting positions.
        head: maps [p, H] to logits [p, V]; called once per chunk, and again for all but the last in the backward pass.
        targets: [P] int64.
        chunk_size: positions per call of the head; memory grows with chunk_size x V.
        with_entropy: also return the entropies, without gradient.
        measure: one more value per position, or M, with gradient where it has one.

    Returns:
        [P] each; fp32 (float64 if the head gives float64).
    """
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in range(0, max(1, len(targets)), chunk_size):
        place = slice(start, start + chunk_size)
        asked = hidden[place], targets[place], head, with_entropy, measure, place
        if torch.is_grad_enabled() and hidden.requires_grad and place.stop < len(targets):
            parts.append(checkpoint(_logps_and, *asked, use_reentrant=False, preserve_rng_state=False))
        else:
            parts.append(_logps_and(*asked))
    logps, entropies, measured = (torch.cat(column) for column in zip(*parts, strict=True))
    return TokenValues(logps, entropies if with_entropy else None, None if measure is None else measured)


def chunked_token_kl(
    hidden_p: Tensor, head_p: Head, hidden_q: Tensor, head_q: Head, *, chunk_size: int
) -> Iterator[Tensor]:
    """Exact KL(p || q) chunk by chunk, without gradient; concatenated it is [P], nats.

    Args:
        hidden_p: [P, H] hidden states of p.
        head_p: its language-model head.
        hidden_q: [P, H'] hidden states of q at the same positions.
        head_q: its language-model head, with the same vocabulary.
        chunk_size: positions per chunk.
    """
    with torch.no_grad():
        for part_p, part_q in zip(hidden_p.split(chunk_size), hidden_q.split(chunk_size), strict=True):
            yield token_kl(head_p(part_p), head_q(part_q))


def sum_by_response(values: Tensor, response_index: Tensor, num_responses: int) -> Tensor:
    """Sum of per-token values over each response.

    Args:
        values: [P].
        response_index: [P] int64 in [0, N).
        num_responses: N.

    Returns:
        [N], in the type of the values.
    """
    return values.new_zeros(num_responses).index_add(0, response_index, values)
