"""What a step cannot go below: its operations, and the rate at which a machine multiplies large matrices."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

import torch

from raypo.models.linear import product
from raypo.training.settings import Settings

VOCABULARY, HIDDEN, INTERMEDIATE, LAYERS, HEADS = 8192, 384, 1024, 6, 6
"""Of the benchmark's model."""

CHUNK = Settings.logprob_chunk_tokens


@dataclass(frozen=True)
class Shape:
    """Of a Llama: sizes of its matrices; the head's is that of the embeddings."""

    vocabulary: int = VOCABULARY
    hidden: int = HIDDEN
    intermediate: int = INTERMEDIATE
    layers: int = LAYERS
    heads: int = HEADS
    key_heads: int = HEADS

    @property
    def weights(self) -> int:
        """Of the decoder's matrices: queries and outputs, keys and values, and the three of the MLP."""
        keys = self.hidden * self.hidden * self.key_heads // self.heads
        return self.layers * (2 * self.hidden**2 + 2 * keys + 3 * self.hidden * self.intermediate)


MODEL = Shape()

PEAK = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
}
"""Operations per second in bf16 with fp32 sums, dense, as the makers state them; the first name whose words are among a
device's counts: an L40 is no L4, and an A10G no A10."""


def peak_of(device: str) -> float | None:
    """Stated bf16 operations per second of a device, by its name; None: not in the table."""
    return next((rate for name, rate in PEAK.items() if re.search(rf"(?<!\w){name}(?!\w)", device)), None)


def flops(
    responses: int, prompt: int, response: int, *, shared: bool, shape: Shape = MODEL, again: bool = True
) -> float:
    """Of a forward and a backward pass over one set.

    Per token and decoder weight 2 forward and 4 backward; per query, key it sees and hidden unit 4 forward and 10
    backward, as the fused kernel computes scores again. The head is applied per response token: 6 per weight, and 2
    more for the tokens of all chunks but the last, whose logits are computed again.

    Args:
        responses: K.
        prompt: tokens.
        response: tokens of each response.
        shared: the prompt once for all, or once for each.
        shape: of the model.
        again: count what is computed a second time in the backward pass; without it this is what MFU counts.
    """
    seen = prompt * (prompt + 1) / 2
    inside = response - 1 if shared else response  # of a response: its last token predicts nothing, and is left out
    pairs = inside * (inside + 1) / 2 + inside * prompt
    if shared:
        tokens, pairs = prompt + responses * inside, seen + responses * pairs
    else:
        tokens, pairs = responses * (prompt + inside), responses * (seen + pairs)
    predicted = responses * response
    repeated = (predicted - 1) // CHUNK * CHUNK if again else 0
    head = (6 * predicted + 2 * repeated) * shape.hidden * shape.vocabulary
    return 6 * shape.weights * tokens + (14 if again else 12) * shape.layers * shape.hidden * pairs + head


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
