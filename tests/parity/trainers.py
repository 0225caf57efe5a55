"""TRL's own trainers over a tiny Llama, and a policy whose log-probs are given, so that losses are compared in float64.

TRL computes its losses inside its trainers from what a model returns. A trainer here is a real one, made by its
constructor from its config; the model that its loss is called with is `Scripted` or `ScriptedLogits`, which return
drawn numbers as leaves, or the trainer's own model. Everything of TRL is imported when first used.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

PAIRS = [
    {"prompt": "w1 w2", "chosen": " w3 w4 w5", "rejected": " w6"},
    {"prompt": "w7", "chosen": " w8", "rejected": " w9 w10 w11 w12"},
    {"prompt": "w13 w14 w15", "chosen": " w16 w17", "rejected": " w18 w19"},
    {"prompt": "w20 w21", "chosen": " w22 w23 w24 w25 w26", "rejected": " w27 w28 w29"},
]
LABELLED = [
    {"prompt": row["prompt"], "completion": row["chosen" if i % 2 == 0 else "rejected"], "label": i % 2 == 0}
    for i, row in enumerate(PAIRS)
]
WIDTH = 16  # tokens of a row at most
VOCABULARY = 200  # of the tiny model


def trainer(kind: str, model: Path, output: Path, **config: Any) -> Any:
    """A TRL trainer ("dpo", "kto", "cpo", "orpo") over the pairs, on the CPU in fp32, with nothing reported."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trainer_class, config_class = _classes(kind)
    plain = {
        "output_dir": str(output),
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": len(PAIRS),
        "disable_tqdm": True,
    }
    rows = LABELLED if kind == "kto" else PAIRS
    return trainer_class(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        args=config_class(**plain | config),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(model),
    )


def _classes(kind: str) -> tuple[Any, Any]:
    if kind in ("dpo", "kto"):
        import trl

        return (trl.DPOTrainer, trl.DPOConfig) if kind == "dpo" else (trl.KTOTrainer, trl.KTOConfig)
    if kind == "cpo":
        from trl.experimental.cpo import CPOConfig, CPOTrainer

        return CPOTrainer, CPOConfig
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    return ORPOTrainer, ORPOConfig


def batch(of: Any, rows: list[int]) -> dict[str, Tensor]:
    """Some rows of the trainer's own dataset, collated by its own collator."""
    return dict(of.data_collator([of.train_dataset[i] for i in rows]))


def draw(ids: Tensor, seed: int, *shape: int) -> Tensor:
    """Numbers in [0, 1) for each row of ids [R, T], float64 [R, *shape]: a function of the row, not of its batch."""
    rows = []
    for row in ids.tolist():
        content = [token for token in row if token]  # without padding
        generator = torch.Generator().manual_seed(seed + sum(token * 211**i for i, token in enumerate(content)) % 2**40)
        rows.append(torch.rand(*shape, generator=generator, dtype=torch.float64))
    return torch.stack(rows)


class Scripted(nn.Module):
    """Log-probs of the tokens as a leaf, in the form of TRL's fused head: in (-2.55, -0.05], 0 beside the completion.

    Args:
        seed: of the numbers.
        log_square_sum: log sum_v p_v^2 at every token, for WPO.
        dtype: of the log-probs.
    """

    def __init__(self, seed: int, *, log_square_sum: float = -0.04, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.seed, self.log_square_sum, self.dtype = seed, log_square_sum, dtype
        self.calls: list[Tensor] = []

    def forward(self, input_ids: Tensor, labels: Tensor, **_: Any) -> SimpleNamespace:
        """Per-token values [R, T - 1]; the last call's leaf and mask are kept, and the log-probs of every call."""
        self.mask = labels[:, 1:] != -100
        drawn = -0.05 - 2.5 * draw(input_ids, self.seed, WIDTH)[:, : self.mask.shape[1]]
        self.logps = (drawn * self.mask).to(self.dtype).requires_grad_()
        self.calls.append(self.logps)
        zero = torch.zeros_like(drawn)
        return SimpleNamespace(
            log_probs=self.logps,
            entropy=zero,
            mean_logits=zero,
            is_top1=self.mask,
            log_sum_sq_probs=torch.full_like(self.logps, self.log_square_sum, requires_grad=False),
        )


class ScriptedLogits(nn.Module):
    """Logits as a leaf, [R, T, V], in [-2, 2)."""

    def forward(self, input_ids: Tensor, **_: Any) -> SimpleNamespace:
        """A causal model's output; the leaf is kept as `logits`."""
        drawn = draw(input_ids, 5, WIDTH, VOCABULARY)[:, : input_ids.shape[1]]
        self.logits = (4 * drawn - 2).requires_grad_()
        return SimpleNamespace(logits=self.logits)
