"""One optimizer step on a device of one's choice: share of its peak, tokens per second, memory; and what bf16 costs.

    python -m raypo.bench.device --device cuda --dtype bfloat16 --size 1b --out bench-device.json

Needs torch, transformers and peft alone, so that it runs on a bare machine with a GPU; `raypo bench train --device cuda`
calls the same. A Llama is made from config, with random weights; training state is what a worker of one rank holds:
fp32 master weights in FSDP2, AdamW, activations and products in `dtype`.

Packed sets are computed by FlexAttention with a block mask on a GPU (by split attention on a CPU), and beside them the
same sets as separate rows by SDPA. Responses are of one length, where rows need no padding: their best case.

Before anything is timed, fp32 gradients of both layouts are shown to agree, and those in `dtype` with them.

MFU is the operations of the layout's own forward and backward pass, without what is computed a second time
(`floor.flops`), over seconds x peak. The optimizer's time counts, its operations do not.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from transformers import AutoModelForCausalLM, LlamaConfig

from raypo.bench.floor import MODEL, Shape, flops, peak_of
from raypo.bench.measure import environment, peak_bytes, spread, write
from raypo.data.packing import Packing, ResponseSet, micro_batches, pack
from raypo.errors import RaypoError, ResourceError, RunError
from raypo.logprobs import sum_by_response
from raypo.models.scorer import TokenScorer
from raypo.models.shard import shard
from raypo.objective import AnyObjective, preset
from raypo.training.passes import Ranks, backward
from raypo.training.sets import TrainingSet
from raypo.training.settings import Settings
from raypo.training.step import make_optimizer, train_step
from raypo.training.terms import Means

SIZES = {
    "tiny": Shape(512, 64, 128, 2, 4, 2),
    "13m": MODEL,
    "1b": Shape(128_256, 2048, 8192, 16, 32, 8),  # 1.24 billion parameters, embeddings and head one matrix
}
LAYOUTS: tuple[Packing, Packing] = ("shared", "none")
AGREE = {"float32": 1e-4, "bfloat16": 0.1}
"""Largest norm of a gradient's difference from fp32's over its norm; bf16 has 8 bits, 2^-9 = 0.002 per rounding."""

UNCOUNTED = 2
"""Steps: in the first AdamW makes its state, and kernels are compiled."""


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Args:
        device: "cuda" or "cpu".
        dtype: of activations and products.
        size: of the model, a key of `SIZES`.
        responses: K of a set.
        prompt: tokens.
        response: tokens of each response.
        sets: of a step.
        budget: tokens of a micro-batch.
        steps: that are counted; `UNCOUNTED` go before them.
        threads: of torch.
        peak: bf16 operations per second of the device; None: as its maker states, if `floor.PEAK` knows it.
    """

    device: str = "cuda"
    dtype: str = "bfloat16"
    size: str = "1b"
    responses: int = 8
    prompt: int = 256
    response: int = 64
    sets: int = 16
    budget: int = 16_384
    steps: int = 8
    threads: int = 2
    peak: float | None = None


def bench_device(plan: Plan, out: Path) -> dict[str, Any]:
    """Compare, measure, write JSON; returns what was written.

    Raises:
        ResourceError: there is no such device.
        RunError: gradients do not agree.
    """
    name = device_name(plan.device)
    peak = plan.peak or (peak_of(name) if plan.dtype == "bfloat16" else None)
    torch.set_num_threads(plan.threads)
    found: dict[str, Any] = {"plan": asdict(plan), "environment": environment(plan.threads)}
    found["environment"] |= {"device": name, "peak operations per second": peak}
    with one_rank(plan.device):
        sets = make_sets(plan)
        found["gradients"] = agreement(plan, sets)
        found["log-ratios at policy == reference"] = log_ratios(plan, sets)
        found["cases"] = [measured(plan, sets, packing, peak) for packing in LAYOUTS]
    write(out, found)
    return found


def device_name(device: str) -> str:
    """As its maker calls it.

    Raises:
        ResourceError: torch sees none.
    """
    if device == "cpu":
        return str(environment(1)["device"])
    if not torch.cuda.is_available():
        raise ResourceError(
            f"no GPU: torch {torch.__version__} sees none",
            "a machine with a GPU, and a torch that is built for it",
            "run it there; what it does can be tried small on this one: --device cpu --size tiny",
        )
    return torch.cuda.get_device_name()


@contextmanager
def one_rank(device: str) -> Iterator[None]:
    """A process group of this process alone, which FSDP2 wants."""
    store, backend = dist.HashStore(), "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=timedelta(minutes=10))
    try:
        yield
    finally:
        dist.destroy_process_group()


def make_sets(plan: Plan) -> list[TrainingSet]:
    """Random sets, ranked in their order; a reference gives its responses -1 to -2 nats a token, as no policy here."""
    shape, generator = SIZES[plan.size], torch.Generator().manual_seed(0)

    def draw(length: int) -> list[int]:
        return torch.randint(3, shape.vocabulary, (length,), generator=generator).tolist()

    return [
        TrainingSet(
            ResponseSet(str(number), draw(plan.prompt), [draw(plan.response) for _ in range(plan.responses)]),
            (-plan.response * (1 + torch.rand(plan.responses, generator=generator))).tolist(),
            [-float(k) for k in range(plan.responses)],
            [True] * plan.responses,
            1.0,
        )
        for number in range(plan.sets)
    ]


def make_scorer(plan: Plan, dtype: str) -> TokenScorer:
    """The model, the same weights at every call, as a worker holds it."""
    gc.collect()  # the model before it: FSDP2 leaves cycles
    shape = SIZES[plan.size]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        max_position_embeddings=plan.prompt + plan.response,
        tie_word_embeddings=True,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    scorer = TokenScorer(model.to(plan.device)).eval()
    shard(scorer, init_device_mesh(plan.device, (1,)), compute_dtype=dtype)
    return scorer


def objective() -> AnyObjective:
    """W-MPO, with the defaults of the config."""
    return preset("w-mpo", alpha=1.0, beta=0.1)


def settings(plan: Plan, packing: Packing) -> Settings:
    """The rate is so small that the model stays what it is."""
    return Settings(learning_rate=1e-7, schedule="constant", packing=packing, tokens_per_micro_batch=plan.budget)


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
def _sums(
    plan: Plan, scorer: TokenScorer, batches: Sequence[Sequence[TrainingSet]], packing: Packing
) -> torch.Tensor:
    """Log-prob of every response, nats, on the CPU."""
    found = []
    for part in batches:
        batch = pack([one.tokens for one in part], pad_token_id=0, packing=packing).to(plan.device)
        logps = scorer(batch, chunk_tokens=Settings.logprob_chunk_tokens).logps
        found.append(sum_by_response(logps, batch.response_index, len(batch.slot)).cpu())
    return torch.cat(found)


def measured(plan: Plan, sets: Sequence[TrainingSet], packing: Packing, peak: float | None) -> dict[str, Any]:
    """Seconds of a step, and what follows from them. A token of a prompt counts once for each of its responses."""
    scorer = make_scorer(plan, plan.dtype)
    chosen = settings(plan, packing)
    optimizer, seconds = make_optimizer(scorer, chosen), []
    _forget_peak(plan.device)
    for step in range(UNCOUNTED + plan.steps):
        began = _now(plan.device)
        train_step(
            scorer,
            optimizer,
            sets,
            objective(),
            chosen,
            progress=0.5,
            pad_token_id=0,
            step=step,
            device=plan.device,
        )
        seconds.append(_now(plan.device) - began)
    counted = spread(seconds[UNCOUNTED:])
    shared, shape = packing == "shared", SIZES[plan.size]
    done = flops(plan.responses, plan.prompt, plan.response, shared=shared, shape=shape, again=False) * len(sets)
    tokens = len(sets) * plan.responses * (plan.prompt + plan.response)
    computed = sum(one.tokens.tokens(packing) for one in sets)
    return {
        "case": f"K={plan.responses}, {packing}",
        **counted,
        "tokens/s": tokens / counted["mean"],
        "computed tokens/s": computed / counted["mean"],
        "MFU": None if peak is None else done / counted["mean"] / peak,
        "peak GB": _peak(plan.device) / 1e9,
    }


def _now(device: str) -> float:
    """Seconds, after all that was asked of the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _forget_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def _peak(device: str) -> int:
    """Bytes of tensors on a GPU; on a CPU all that is resident."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else peak_bytes()


TABLES = "gradients", "log-ratios at policy == reference", "cases"


def told(found: dict[str, Any]) -> str:
    """The findings as plain text: what prints tables elsewhere may not be installed here."""
    lines = [f"{found['environment']['device']}, {found['plan']['dtype']}, {found['plan']['size']}"]
    for title in TABLES:
        lines += ["", title]
        for row in found[title]:
            name, *figures = row.items()
            cells = (f"{key} {'-' if value is None else format(value, '.4g')}" for key, value in figures)
            lines.append(f"  {name[1]}: " + ", ".join(cells))
    if found["environment"]["peak operations per second"] is None:
        lines += ["", "MFU: the peak of this device in this type is not known; give --peak-tflops"]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of this module; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m raypo.bench.device", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("bench-device.json"))
    parser.add_argument("--device", choices=("cuda", "cpu"), default=Plan.device)
    parser.add_argument("--dtype", choices=tuple(AGREE), default=Plan.dtype)
    parser.add_argument("--size", choices=tuple(SIZES), default=Plan.size)
    parser.add_argument("--peak-tflops", type=float, help="10^12 bf16 operations per second of the device")
    for name in ("responses", "prompt", "response", "sets", "budget", "steps", "threads"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Plan, name))
    given = vars(parser.parse_args(arguments))
    out, tera = given.pop("out"), given.pop("peak_tflops")
    try:
        print(told(bench_device(replace(Plan(**given), peak=tera and tera * 1e12), out)))  # noqa: T201 - a command line
    except RaypoError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
