"""One optimizer step over sets of responses. No Ray here: torch alone, so that it runs and is measured anywhere.

Shapes: B sets, K responses. Normalisation is global: the gradient is that of the mean loss over the sets of the step,
on all ranks and in all micro-batches, so neither the micro-batch nor the world size changes the result.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from raypo.config import TrainingConfig
from raypo.data.packing import ResponseSet, micro_batches, pack
from raypo.errors import RunError
from raypo.logprobs import sum_by_response
from raypo.objective import Objective, set_loss
from raypo.objective.kernel import SetLoss


@dataclass(frozen=True)
class TrainingSet:
    """One row of records.ANNOTATED, as training needs it."""

    tokens: ResponseSet
    reference_logps: Sequence[float]
    rewards: Sequence[float]
    usable: Sequence[bool]
    psi: float

    @property
    def response_tokens(self) -> int:
        """Tokens of all responses."""
        return sum(len(ids) for ids in self.tokens.response_token_ids)


def training_sets(table: pa.Table, objective: Objective) -> list[TrainingSet]:
    """The rows of a table of records.ANNOTATED that train, by prompt id and round; unusable responses are left out.

    An objective with its own `tie_eps` may use fewer sets than the table marks as trainable.

    Raises:
        DataError: the objective needs scalar rewards, and all are ordinal.
    """
    found = []
    for row in sorted(table.to_pylist(), key=lambda row: (row["prompt_id"], row["round"])):
        if not row["trainable"]:
            continue
        keep = [k for k, usable in enumerate(row["usable"]) if usable]
        found.append(
            TrainingSet(
                ResponseSet(row["prompt_id"], row["prompt_token_ids"], [row["response_token_ids"][k] for k in keep]),
                [row["reference_logps"][k] for k in keep],
                [row["scaled_rewards"][k] for k in keep],
                [True] * len(keep),
                row["psi"],
            )
        )
    if not found:
        return []
    given = columns(found, torch.float64, "cpu")
    used = set_loss(objective, policy_logps=torch.zeros_like(given["rewards"]), **given).used
    return [_from_the_best(one) for one, trains in zip(found, used.tolist(), strict=True) if trains]


def _from_the_best(one: TrainingSet) -> TrainingSet:
    """Rewards counted down from the set's best: only differences matter.

    A micro-batch whose scores happen to be 0 and 1 is then not taken for labels; whether all are labels was asked of
    the whole round.
    """
    best = max(one.rewards)
    return replace(one, rewards=[value - best for value in one.rewards])


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; states in fp32, as the master weights are."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(
        trained,
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.weight_decay,
        fused=trained[0].is_cuda,
    )


def learning_rate(progress: float, config: TrainingConfig) -> float:
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


def share(sets: Sequence[TrainingSet], world_size: int) -> list[list[int]]:
    """Which sets of a step each rank takes: longest first, each to the rank with the fewest tokens so far."""
    loads = [0] * world_size
    parts: list[list[int]] = [[] for _ in range(world_size)]
    for index in sorted(range(len(sets)), key=lambda i: (-sets[i].tokens.padded_tokens, i)):
        rank = loads.index(min(loads))
        parts[rank].append(index)
        loads[rank] += sets[index].tokens.padded_tokens
    return parts


def train_step(
    scorer: nn.Module,
    optimizer: torch.optim.Optimizer,
    sets: Sequence[TrainingSet],
    objective: Objective,
    config: TrainingConfig,
    *,
    progress: float,
    pad_token_id: int,
    step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
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

    Returns:
        loss, grad_norm, learning_rate, tokens, tokens_per_s and the objective's metrics, all over all ranks.

    Raises:
        RunError: the gradient norm is not finite; nothing was changed.
    """
    began = time.monotonic()
    rate = learning_rate(progress, config)
    for group in optimizer.param_groups:
        group["lr"] = rate
    sums: dict[str, Tensor] = {}
    for part, real in rank_batches(sets, config.tokens_per_micro_batch, rank, world_size):
        loss, out = forward(scorer, part, objective, config, pad_token_id, device)
        # FSDP2 averages gradients over ranks; the sum over all of them is wanted, divided by the step's sets
        torch.autograd.backward(loss * (world_size / len(sets) if real else 0.0))
        if real:
            accumulate(sums, loss, out)
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


def rank_batches(
    sets: Sequence[TrainingSet], budget: int, rank: int, world_size: int
) -> Iterator[tuple[list[TrainingSet], bool]]:
    """This rank's micro-batches, as many as the busiest rank has: the missing ones repeat a set with weight 0.

    Every rank must join every forward and backward pass, because they gather shards.
    """
    parts = share(sets, world_size)
    plans = [micro_batches([sets[i].tokens for i in part], budget) for part in parts]
    most = max(len(plan) for plan in plans)
    for number in range(most):
        if number < len(plans[rank]):
            yield [sets[parts[rank][i]] for i in plans[rank][number]], True
        else:
            yield [min(sets, key=lambda one: one.tokens.padded_tokens)], False


def forward(
    scorer: nn.Module,
    sets: Sequence[TrainingSet],
    objective: Objective,
    config: TrainingConfig,
    pad_token_id: int,
    device: torch.device | str,
) -> tuple[Tensor, SetLoss]:
    """Sum of the losses of a micro-batch, with gradient, and what the objective says of each set."""
    batch = pack([one.tokens for one in sets], pad_token_id=pad_token_id, packing=config.packing).to(device)
    token_logps, _ = scorer(batch, chunk_tokens=config.logprob_chunk_tokens)
    sums = sum_by_response(token_logps, batch.response_index, len(batch.slot))
    given = columns(sets, sums.dtype, device)
    out = set_loss(objective, policy_logps=batch.scatter(sums), **given)
    return out.loss.sum(), out


def columns(sets: Sequence[TrainingSet], dtype: torch.dtype, device: torch.device | str) -> dict[str, Any]:
    """What `set_loss` needs beside the policy's log-probs: psi [B], and [B, K] tensors, 0 where no response is."""
    width = max(len(one.rewards) for one in sets)

    def padded(rows: list[Sequence[Any]], kind: torch.dtype) -> Tensor:
        return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], dtype=kind, device=device)

    return {
        "reference_logps": padded([one.reference_logps for one in sets], dtype),
        "lengths": padded([[len(ids) for ids in one.tokens.response_token_ids] for one in sets], torch.long),
        "rewards": padded([one.rewards for one in sets], dtype),
        "mask": padded([one.usable for one in sets], torch.bool),
        "psi": torch.tensor([one.psi for one in sets], dtype=dtype, device=device),
    }


def accumulate(sums: dict[str, Tensor], loss: Tensor, out: SetLoss) -> None:
    """Add a micro-batch's sums over its used sets."""
    parts = {"loss": loss.detach(), "used": out.used.sum().to(loss.dtype)}
    parts |= {name: torch.where(out.used, value, torch.zeros_like(value)).sum() for name, value in out.metrics.items()}
    for name, value in parts.items():
        sums[name] = sums.get(name, torch.zeros_like(value)) + value


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
