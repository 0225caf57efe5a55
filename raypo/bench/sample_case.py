"""One side of the sampling benchmark in a process of its own.

    python -m raypo.bench.sample_case bare|stage FOLDER PLAN

FOLDER holds the model and sets.json; PLAN is JSON of `SamplePlan`. Prints one line of JSON: seconds of each timed call,
`drawn` (a hash of all tokens), and for the stage the seconds of the engine's start and of each sync.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from raypo.bench.sample import SEEDS, SamplePlan, config_of, prompts_of
from raypo.stages.verbs import request_seed


def drawn(ids: list[list[list[int]]]) -> str:
    """A hash of responses, in the order of prompts and slots."""
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()


def timed(call: Any, repeats: int) -> tuple[list[float], Any]:
    """Seconds of each call after one that is not counted, and the last answer."""
    seconds, answer = [], call()
    for _ in range(repeats):
        began = time.perf_counter()
        answer = call()
        seconds.append(time.perf_counter() - began)
    return seconds, answer


def bare(folder: Path, plan: SamplePlan) -> dict[str, Any]:
    """`LLM.generate` of an engine with the run's settings, without anything of ours in the call."""
    from vllm import SamplingParams

    from raypo.online.run import engine_setup
    from raypo.sampling.engine import Engine

    config = config_of(folder, plan)
    options, _ = engine_setup(config)
    llm = Engine(str(folder), weight_version=0, **options)._llm
    prompts = prompts_of(folder)
    requests: Any = [{"prompt_token_ids": ids} for ids in prompts["prompt_token_ids"].to_pylist()]
    params = [
        SamplingParams(
            n=plan.responses,
            seed=request_seed(config.seed, SEEDS, prompt_id),
            temperature=config.sampling.temperature,
            top_p=config.sampling.top_p,
            max_tokens=plan.response,
            logprobs=0,
        )
        for prompt_id in prompts["prompt_id"].to_pylist()
    ]
    seconds, answers = timed(lambda: llm.generate(requests, params, use_tqdm=False), plan.repeats)
    ids = [[list(one.token_ids) for one in answer.outputs] for answer in answers]
    return {"seconds": seconds, "drawn": drawn(ids)}


def stage(folder: Path, plan: SamplePlan) -> dict[str, Any]:
    """The sampling stage with one engine actor on a Ray of its own."""
    import ray

    from raypo.models.export import read_weights
    from raypo.online.run import engine_setup
    from raypo.sampling.sync import HostSender
    from raypo.stages import cluster, verbs
    from raypo.stages.actors import create

    config = config_of(folder, plan)
    owned = cluster.start(config, search_path=cluster.search_path())
    actors = create(config, *engine_setup(config))
    try:
        began = time.perf_counter()
        actors.engines.bring_up(str(folder), 0)
        started = time.perf_counter() - began
        prompts, version = prompts_of(folder), 0

        def sample() -> Any:
            return verbs.sample(
                prompts,
                actors,
                config,
                round_index=0,
                version=version,
                seeds=SEEDS,
                num_responses=plan.responses,
                progress=lambda chunk: None,
            )

        seconds, (table, _) = timed(sample, plan.repeats)
        sender, syncs = HostSender(actors.engines.handles(), put=ray.put), []
        weights = list(read_weights(folder))
        for number in range(1, plan.repeats + 1):
            syncs.append(sender.send(number, iter(weights), sender=True)["seconds"])
        ids = table.sort_by("prompt_id")  # chunks may end in another order
        order = {name: i for i, name in enumerate(ids["prompt_id"].to_pylist())}
        rows = ids["response_token_ids"].to_pylist()
        found = [rows[order[name]] for name in prompts["prompt_id"].to_pylist()]
        return {"seconds": seconds, "drawn": drawn(found), "start_seconds": started, "sync_seconds": syncs}
    finally:
        actors.shutdown()
        if owned:
            ray.shutdown()


def main(side: str, folder: Path, plan: SamplePlan) -> None:
    """Run one side."""
    print(json.dumps({"bare": bare, "stage": stage}[side](folder, plan)))  # noqa: T201 - read by the caller


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), SamplePlan(**json.loads(sys.argv[3])))
