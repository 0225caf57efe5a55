"""`raypo bench sample`: tokens per second of the sampling stage against vLLM alone, and of a sync against a start.

Both sides draw the same responses with the same engine settings: vLLM alone in one call of `LLM.generate` for all
prompts, in a process of its own; the stage through Ray Data and an engine actor, in calls of
`sampling.batch_prompts`. A sync is that of the engine which the stage used, weights of the same model.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import torch

from raypo.bench.measure import child, environment, show, spread, write
from raypo.bench.train import make_inputs
from raypo.config import RunConfig, build
from raypo.errors import RunError
from raypo.sampling.engine import Backend

SEEDS = "bench"


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
        repeats: timed calls of each side, after one that is not.
        threads: OpenMP threads of the engine.
    """

    prompts: int = 64
    prompt: int = 64
    responses: int = 8
    response: int = 64
    repeats: int = 3
    threads: int = 2


def bench_sample(plan: SamplePlan, out: Path) -> dict[str, Any]:
    """Run both sides one after the other, print tables, write JSON; returns what was written.

    Raises:
        RunError: a side failed, or the two drew different tokens.
    """
    found: dict[str, Any] = {"plan": asdict(plan), "environment": environment(plan.threads)}
    with TemporaryDirectory() as place:
        folder = Path(place)
        found["parameters"] = make_inputs(folder, 2, plan.prompt, 2, count=plan.prompts)
        bare = run_bare(folder, plan)
        stage = run_stage(folder, plan)
    if bare["drawn"] != stage["drawn"]:
        raise RunError("the stage and vLLM alone drew different tokens", "the same responses of the same seeds")
    tokens = plan.prompts * plan.responses * plan.response
    found["cases"] = [
        {"case": name, **spread([tokens / one for one in side["seconds"]])}
        for name, side in (("LLM.generate alone", bare), ("the sampling stage", stage))
    ]
    show("response tokens per second", found["cases"])
    found["ratios"] = {
        "tokens/s of the stage / vLLM alone": found["cases"][1]["mean"] / found["cases"][0]["mean"],
        "seconds of an engine start / of a sync": stage["start_seconds"] / min(stage["sync_seconds"]),
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


def run_bare(folder: Path, plan: SamplePlan) -> dict[str, Any]:
    """vLLM alone, in a process with the environment of an engine."""
    return child(_command("bare", folder, plan), engine_environment(plan.threads))


def run_stage(folder: Path, plan: SamplePlan) -> dict[str, Any]:
    """The sampling stage, in a process that starts Ray and an engine actor."""
    return child(_command("stage", folder, plan))


def _command(side: str, folder: Path, plan: SamplePlan) -> list[str]:
    return [sys.executable, "-m", "raypo.bench.sample_case", side, str(folder), json.dumps(asdict(plan))]
