"""What a step cannot go below: its operations, and the rate at which this machine multiplies large matrices."""

from __future__ import annotations

import time

import torch

from raypo.config import TrainingConfig
from raypo.models.linear import product

VOCABULARY, HIDDEN, INTERMEDIATE, LAYERS, HEADS = 8192, 384, 1024, 6, 6
"""Of the benchmark's model."""

CHUNK: int = TrainingConfig.model_fields["logprob_chunk_tokens"].default


def flops(responses: int, prompt: int, response: int, *, shared: bool) -> float:
    """Of a forward and a backward pass over one set.

    Per token and decoder weight 2 forward and 4 backward; per query, key it sees and hidden unit 4 forward and 10
    backward, as the fused kernel computes scores again. The head is applied per response token: 6 per weight, and 2
    more for the tokens of all chunks but the last, whose logits are computed again.
    """
    weights = LAYERS * (4 * HIDDEN**2 + 3 * HIDDEN * INTERMEDIATE)
    seen = prompt * (prompt + 1) / 2
    inside = response - 1 if shared else response  # of a response: its last token predicts nothing, and is left out
    pairs = inside * (inside + 1) / 2 + inside * prompt
    if shared:
        tokens, pairs = prompt + responses * inside, seen + responses * pairs
    else:
        tokens, pairs = responses * (prompt + inside), responses * (seen + pairs)
    predicted = responses * response
    again = (predicted - 1) // CHUNK * CHUNK
    head = (6 * predicted + 2 * again) * HIDDEN * VOCABULARY
    return 6 * weights * tokens + 14 * LAYERS * HIDDEN * pairs + head


def product_rate(threads: int, size: int = 2048, repeats: int = 5) -> float:
    """Operations per second of a square fp32 matrix product as linear layers compute it, the best of the repeats."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        one, multiply = torch.randn(size, size), product if torch.backends.mkldnn.is_available() else torch.mm
        seconds = []
        for _ in range(repeats):
            began = time.perf_counter()
            multiply(one, one)
            seconds.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(before)
    return 2 * size**3 / min(seconds)
