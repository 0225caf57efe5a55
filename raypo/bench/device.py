"""One optimizer step on a device of one's choice: share of its peak, tokens per second, memory; and what bf16 costs.

    python -m raypo.bench.device --device cuda --dtype bfloat16 --size 1b --out bench-device.json

Needs torch, transformers and peft alone, so that it runs on a bare machine with a GPU (there FlexAttention's compiler
wants a C compiler); `raypo bench train --device cuda` calls the same. A Llama is made from config, with random weights;
training state is what a worker of one rank holds: fp32 master weights in FSDP2, AdamW, activations and products in
`dtype`.

Packed sets are computed by FlexAttention with a block mask on a GPU (by split attention on a CPU), and beside them the
same sets as separate rows by SDPA. Responses are of one length, where rows need no padding: their best case.

Before anything is timed, fp32 gradients of both layouts are shown to agree, and those in `dtype` with them.

MFU is the operations of the layout's own forward and backward pass, without what is computed a second time
(`floor.flops`), over seconds x peak. The optimizer's time counts, its operations do not.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from raypo.bench.floor import flops, peak_of
from raypo.bench.llama import LAYOUTS, SIZES, TYPES, Plan, make_scorer, make_sets, objective, one_rank, settings
from raypo.bench.measure import environment, peak_bytes, spread, write
from raypo.bench.precision import agreement, log_ratios
from raypo.data.packing import Packing
from raypo.errors import RaypoError, ResourceError
from raypo.training.sets import TrainingSet
from raypo.training.step import make_optimizer, train_step

UNCOUNTED = 2
"""Steps: in the first AdamW makes its state, and kernels are compiled."""


def bench_device(plan: Plan, out: Path) -> dict[str, Any]:
    """Compare, measure, write JSON; returns what was written.

    Raises:
        ResourceError: there is no such device, or too little memory on it.
        RunError: gradients do not agree.
    """
    name = device_name(plan.device)
    peak = plan.peak or (peak_of(name) if plan.dtype == "bfloat16" else None)
    torch.set_num_threads(plan.threads)
    found: dict[str, Any] = {"plan": asdict(plan), "environment": environment(plan.threads)}
    found["environment"] |= {"device": name, "peak operations per second": peak}
    try:
        with one_rank(plan.device):
            sets = make_sets(plan)
            found["gradients"] = agreement(plan, sets)
            found["log-ratios at policy == reference"] = log_ratios(plan, sets)
            found["cases"] = [measured(plan, sets, packing, peak) for packing in LAYOUTS]
    except torch.cuda.OutOfMemoryError as error:
        raise ResourceError(
            f"{name} has too little memory: {str(error).splitlines()[0]}",
            f"room for micro-batches of {plan.budget:,} tokens, whose activations are kept whole",
            "a smaller --budget, or a smaller --size",
        ) from error
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
    parser.add_argument("--dtype", choices=TYPES, default=Plan.dtype)
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
