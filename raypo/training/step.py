"""One optimizer step over sets of responses.

No Ray here and no pydantic: torch, transformers and peft, so that it runs and is measured anywhere.

The gradient is that of the mean loss over the sets of the step, on all ranks and in all micro-batches, so neither the
micro-batch nor the world size changes the result (`raypo.training.passes`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from raypo.errors import RunError
from raypo.models.live import LiveReference
from raypo.objective import AnyObjective
from raypo.training.collation import Collation
from raypo.training.passes import Ranks, backward
from raypo.training.sets import TrainingSet
from raypo.training.settings import Settings
from raypo.training.terms import Means

if TYPE_CHECKING:
    from raypo.config import TrainingConfig


def make_optimizer(model: nn.Module, config: TrainingConfig | Settings) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; states in fp32, as the master weights are."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(
        trained,
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.weight_decay,
        fused=True,
    )


def learning_rate(progress: float, config: TrainingConfig | Settings) -> float:
    """Rate at a share of the whole job's planned prompts, in [0, 1]: linear warm-up, then the schedule's shape.

    Linear and cosine end at 0 when progress is 1.
    """
    if progress < config.warmup_fraction:
        return config.learning_rate * progress / config.warmup_fraction
    rest = (progress - config.warmup_fraction) / max(1e-12, 1.0 - config.warmup_fraction)
    shape = {"constant": 1.0, "linear": 1.0 - rest, "cosine": (1.0 + math.cos(math.pi * rest)) / 2}
    return config.learning_rate * shape[config.schedule]


def step_order(count: int, *, seed: int, round_index: int, epoch: int) -> list[int]:
    """Own permutation of the sets for an epoch: depends on the seed, round and epoch alone."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + round_index) * 1_009 + epoch)
    return torch.randperm(count, generator=generator).tolist()


def train_step(
    scorer: nn.Module,
    optimizer: torch.optim.Optimizer,
    sets: Sequence[TrainingSet],
    objective: AnyObjective,
    config: TrainingConfig | Settings,
    *,
    progress: float,
    pad_token_id: int,
    step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
    reference: LiveReference | None = None,
    anchor: float = 0.0,
    collation: Collation | None = None,
    following: Sequence[TrainingSet] = (),
) -> dict[str, float]:
    """One optimizer step; every rank is given all sets of the step and takes its share.

    Args:
        scorer: a `TokenScorer`, sharded over the ranks or alone.
        optimizer: from `make_optimizer`.
        sets: of the whole step, the same on every rank, all of which the objective can use.
        objective: which one is not known here.
        config: of training.
        progress: share of the whole job's planned prompts, in [0, 1].
        pad_token_id: fills rows.
        step: its number, for errors.
        rank: of this process.
        world_size: number of ranks; gradients are averaged over them by FSDP2.
        device: of the model.
        reference: the live reference, where the objective needs one.
        anchor: the anchor's score in this step, where the objective reads one.
        collation: lays out batches; one that is kept from step to step can begin with the next step's.
        following: sets of the next step, as `sets`.

    Returns:
        loss, grad_norm, learning_rate, tokens, tokens_per_s and the objective's metrics, all over all ranks.

    Raises:
        RunError: the gradient norm is not finite; nothing was changed.
    """
    began = time.monotonic()
    rate = learning_rate(progress, config)
    for group in optimizer.param_groups:
        group["lr"] = rate
    means = Means(
        scorer, objective, config, pad_token_id, device, reference, anchor, collation or Collation(), following
    )
    sums = backward(means, sets, Ranks(rank, world_size))
    norm = clip(scorer, config.max_grad_norm)
    if not math.isfinite(norm):
        optimizer.zero_grad(set_to_none=True)
        raise RunError(
            f"step {step}: gradient norm {norm} at learning rate {rate:.3g}",
            "a finite gradient",
            "lower training.learning_rate or objective.beta, or use policy.compute_dtype=float32 to find the cause",
        )
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    metrics = reduce_metrics(sums, len(sets), world_size)
    seconds = time.monotonic() - began
    tokens = sum(one.response_tokens for one in sets)
    return metrics | {
        "grad_norm": norm,
        "learning_rate": rate,
        "response_tokens": float(tokens),
        "tokens_per_s": tokens / seconds,
        "seconds": seconds,
    }


def reduce_metrics(sums: dict[str, Tensor], sets: int, world_size: int) -> dict[str, float]:
    """Means over the sets of all ranks; a rank without sets contributes nothing."""
    gathered: list[dict[str, float] | None] = [{name: float(value) for name, value in sums.items()}]
    if world_size > 1:
        own = gathered[0]
        gathered = [None] * world_size
        dist.all_gather_object(gathered, own)
    total: dict[str, float] = {}
    for part in gathered:
        for name, value in (part or {}).items():
            total[name] = total.get(name, 0.0) + value
    used = total.pop("used", 0.0)
    loss = total.pop("loss", 0.0)
    means = {name: value / max(used, 1.0) for name, value in total.items()}
    return {"loss": loss / sets, **means, "sets": float(sets), "sets_used": used}


def clip(model: nn.Module, max_norm: float) -> float:
    """Clip gradients to a global norm over all shards; returns the norm before."""
    norm = torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], max_norm)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
