"""Before a device is timed: gradients of layouts and types agree, and what rounding alone makes of log-ratios."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from raypo.bench.llama import LAYOUTS, Plan, make_scorer, objective, settings
from raypo.data.packing import Packing, micro_batches, pack
from raypo.errors import RunError
from raypo.logprobs import sum_by_response
from raypo.models.scorer import TokenScorer
from raypo.training.passes import Ranks, backward
from raypo.training.sets import TrainingSet
from raypo.training.settings import Settings
from raypo.training.terms import Means

AGREE = {"float32": 1e-4, "bfloat16": 0.1}
"""Largest norm of a gradient's difference from fp32's over its norm; bf16 has 8 bits, 2^-9 = 0.002 per rounding."""


def agreement(plan: Plan, sets: Sequence[TrainingSet]) -> list[dict[str, Any]]:
    """Loss of the first set, and distance of its gradients from those of separate rows in fp32.

    Raises:
        RunError: a distance is above `AGREE`.
    """
    rows: list[dict[str, Any]] = []
    base: list[torch.Tensor] = []
    for dtype in dict.fromkeys(("float32", plan.dtype)):
        for packing in reversed(LAYOUTS):
            loss, found = _gradients(plan, sets[:1], dtype, packing)
            base = base or found
            apart = _distance(found, base)
            rows.append({"case": f"{dtype}, {packing}", "loss": loss, "distance": apart})
            if not apart <= AGREE[dtype]:
                raise RunError(f"{dtype}, {packing}: gradients differ by {apart:.3g}", f"at most {AGREE[dtype]:g}")
    return rows


def _gradients(
    plan: Plan, sets: Sequence[TrainingSet], dtype: str, packing: Packing
) -> tuple[float, list[torch.Tensor]]:
    """Loss, and gradients on the CPU, of a model of its own."""
    scorer = make_scorer(plan, dtype)
    sums = backward(Means(scorer, objective(), settings(plan, packing), 0, plan.device), sets, Ranks(0, 1))
    grads: list[Any] = [p.grad for p in scorer.parameters() if p.grad is not None]  # of FSDP2, which knows full_tensor
    return float(sums["loss"]), [grad.full_tensor().cpu() for grad in grads]


def _distance(ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> float:
    """Norm of the difference of all gradients over their norm."""
    apart = sum(float((a - b).double().square().sum()) for a, b in zip(ours, theirs, strict=True))
    return float((apart / sum(float(b.double().square().sum()) for b in theirs)) ** 0.5)


def log_ratios(plan: Plan, sets: Sequence[TrainingSet]) -> list[dict[str, Any]]:
    """Median and largest |log-ratio| of a response, nats, where policy and reference are one model in `dtype`.

    The policy's sets are packed together; the reference's log-probs are of each set alone, of separate rows, and of
    fp32. Exact arithmetic would give 0.
    """
    scorer = make_scorer(plan, plan.dtype)
    places = micro_batches([one.tokens for one in sets], plan.budget, "shared")
    packed, alone = [[sets[i] for i in group] for group in places], [[sets[i]] for group in places for i in group]
    together = _sums(plan, scorer, packed, "shared")
    others = {
        "each set alone": _sums(plan, scorer, alone, "shared"),
        "separate rows": _sums(plan, scorer, alone, "none"),
    }
    del scorer
    others["packed, fp32"] = _sums(plan, make_scorer(plan, "float32"), packed, "shared")
    apart = {name: (together - other).abs() for name, other in others.items()}
    return [
        {"reference": name, "median": float(one.median()), "largest": float(one.max())} for name, one in apart.items()
    ]


@torch.no_grad()
def _sums(plan: Plan, scorer: TokenScorer, batches: Sequence[Sequence[TrainingSet]], packing: Packing) -> torch.Tensor:
    """Log-prob of every response, nats, on the CPU."""
    found = []
    for part in batches:
        batch = pack([one.tokens for one in part], pad_token_id=0, packing=packing).to(plan.device)
        logps = scorer(batch, chunk_tokens=Settings.logprob_chunk_tokens).logps
        found.append(sum_by_response(logps, batch.response_index, len(batch.slot)).cpu())
    return torch.cat(found)
