"""What an optimizer step reads of the config, as plain values: pydantic, which makes the config, need not be there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from raypo.data.packing import Packing


@dataclass(frozen=True)
class Settings:
    """Of `raypo.config.TrainingConfig` the fields that a step reads, with the same meaning, units and defaults."""

    learning_rate: float = 5e-7
    warmup_fraction: float = 0.1
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    max_grad_norm: float = 1.0
    tokens_per_micro_batch: int = 8192
    logprob_chunk_tokens: int = 1024
    packing: Packing = "shared"
