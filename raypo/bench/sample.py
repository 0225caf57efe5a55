"""`raypo bench sample`: tokens per second of the sampling stage against vLLM alone, and of a sync against a start.

Both sides draw the same responses with the same engine settings: vLLM alone in one call of `LLM.generate` for all
prompts, in a process of its own; the stage through Ray Data and an engine actor, in calls of
`sampling.batch_prompts`. Both are ready before either is timed, and then take turns: a machine whose speed drifts
treats them alike. A sync is that of the engine which the stage used, weights of the same model.
"""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import torch
from rich.console import Console
from rich.progress import track

from raypo.bench.measure import Conversation, environment, show, spread, write
from raypo.bench.train import make_inputs
from raypo.config import RunConfig, build
from raypo.errors import RunError
from raypo.sampling.engine import Backend

SEEDS = "bench"
NAMES = {"bare": "LLM.generate alone", "stage": "the sampling stage"}


def backend() -> Backend:
    """Where this machine's engines run; asked of torch, for vLLM alone has no Ray to ask."""
    return "gpu" if torch.cuda.is_available() else "cpu"


def engine_environment(threads: int) -> dict[str, str]:
    """Of an engine's process."""
    from raypo.sampling.engine import environment as of_engine

    return of_engine(backend(), threads=threads, kv_cache_gib=1, tensor_parallel=1)


@dataclass(frozen=True)
class SamplePlan:
    """What is measured.

    Args:
        prompts: how many.
        prompt: tokens of each.
        responses: K.
        response: tokens of each response; none ends earlier, so both sides draw the same number.
        repeats: timed calls of each side, in turns, after one that is not counted.
        threads: OpenMP threads of the engine.
    """

    prompts: int = 32
    prompt: int = 64
    responses: int = 8
    response: int = 64
    repeats: int = 6
    threads: int = 2


def bench_sample(plan: SamplePlan, out: Path) -> dict[str, Any]:
    """Run both sides in turns, print tables, write JSON; returns what was written.

    Raises:
        RunError: a side failed, or the two drew different tokens.
    """
    found: dict[str, Any] = {"plan": asdict(plan), "environment": environment(plan.threads)}
    with TemporaryDirectory() as place:
        folder = Path(place)
        found["parameters"] = make_inputs(folder, 2, plan.prompt, 2, count=plan.prompts)
        answers, stage = in_turns(folder, plan)
    if len({one["drawn"] for side in answers.values() for one in side}) != 1:
        raise RunError("the stage and vLLM alone drew different tokens", "the same responses of the same seeds")
    tokens = plan.prompts * plan.responses * plan.response
    found["cases"] = [
        {"case": NAMES[side], **spread([tokens / one["seconds"] for one in given])} for side, given in answers.items()
    ]
    show("response tokens per second", found["cases"])
    found["ratios"] = {
        "tokens/s of the stage / vLLM alone": found["cases"][1]["mean"] / found["cases"][0]["mean"],
        "seconds of an engine start / of a sync": stage["start_seconds"] / fmean(stage["sync_seconds"]),
    }
    found["engine"] = {"start_seconds": stage["start_seconds"], "sync_seconds": spread(stage["sync_seconds"])}
    show("engine, seconds", [{"start": stage["start_seconds"], **found["engine"]["sync_seconds"]}])
    show("ratios", [{"what": name, "times": value} for name, value in found["ratios"].items()])
    write(out, found)
    return found


def config_of(folder: Path, plan: SamplePlan) -> RunConfig:
    """The run whose sampling stage is measured."""
    return build(
        {
            "name": "bench",
            "output": str(folder),
            "policy": {"path": str(folder), "compute_dtype": "float32", "export_dtype": "float32"},
            "prompts": {"path": "none.jsonl", "max_prompt_tokens": plan.prompt},
            "sampling": {"num_responses": plan.responses, "max_response_tokens": plan.response},
            "training": {"threads": plan.threads},
            "engine": {"backend": backend()},
        }
    )


def prompts_of(folder: Path) -> pa.Table:
    """The benchmark's prompts as the stage takes them."""
    rows = json.loads((folder / "sets.json").read_text(encoding="utf-8"))
    ids = [row["prompt"] for row in rows]
    count = len(ids)
    return pa.table(
        {
            "prompt_id": [f"p{i}" for i in range(count)],
            "prompt": [""] * count,
            "prompt_token_ids": pa.array(ids, pa.list_(pa.int32())),
            "metadata": ["{}"] * count,
        }
    )


def in_turns(folder: Path, plan: SamplePlan) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any]]:
    """Start both sides, one after the other, and let them sample in turns.

    Returns:
        the answers of each side, and what the stage told last.
    """
    with ExitStack() as stack:
        sides = {
            side: stack.enter_context(
                Conversation(
                    [sys.executable, "-m", "raypo.bench.sample_case", side, str(folder), json.dumps(asdict(plan))],
                    engine_environment(plan.threads) if side == "bare" else {},  # an engine's actor has its own
                )
            )
            for side in NAMES
        }
        answers: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        for number in track(range(plan.repeats), description="in turns", console=Console(stderr=True)):
            for side in sorted(sides, reverse=bool(number % 2)):
                answers[side].append(sides[side].ask())
        return answers, {side: one.end() for side, one in sides.items()}["stage"]
