"""One side of the sampling benchmark in a process of its own.

    python -m raypo.bench.sample_case bare|stage FOLDER PLAN

FOLDER holds the model and sets.json; PLAN is JSON of `SamplePlan`. Prints a line of JSON when it is ready; for each
line that it reads it samples once and prints seconds and `drawn`, a hash of all tokens. When its input ends it prints
the last line: for the stage the seconds of the engine's start and of each sync.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raypo.bench.sample import SEEDS, SamplePlan, config_of, prompts_of
from raypo.stages.verbs import request_seed

Ids = list[list[list[int]]]
"""Tokens of every response, in the order of prompts and slots."""


@dataclass(frozen=True)
class Side:
    """What is measured.

    Args:
        sample: draws all responses once.
        ids: what it drew, out of its answer.
        finish: what is measured last.
    """

    sample: Callable[[], Any]
    ids: Callable[[Any], Ids]
    finish: Callable[[], dict[str, Any]]


def drawn(ids: Ids) -> str:
    """A hash of all tokens."""
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()


@contextmanager
def bare(folder: Path, plan: SamplePlan) -> Iterator[Side]:
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
    yield Side(
        lambda: llm.generate(requests, params, use_tqdm=False),
        lambda answers: [[list(one.token_ids) for one in answer.outputs] for answer in answers],
        dict,
    )


@contextmanager
def stage(folder: Path, plan: SamplePlan) -> Iterator[Side]:
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
        prompts = prompts_of(folder)

        def sample() -> Any:
            return verbs.sample(
                prompts,
                actors,
                config,
                round_index=0,
                version=0,
                seeds=SEEDS,
                num_responses=plan.responses,
                progress=lambda chunk: None,
            )

        def ids(answer: Any) -> Ids:
            table = answer[0].to_pydict()  # chunks may end in another order
            rows = dict(zip(table["prompt_id"], table["response_token_ids"], strict=True))
            return [rows[name] for name in prompts["prompt_id"].to_pylist()]

        def finish() -> dict[str, Any]:
            sender, weights = HostSender(actors.engines.handles(), put=ray.put), list(read_weights(folder))
            numbers = range(1, plan.repeats + 1)
            syncs = [sender.send(number, iter(weights), sender=True)["seconds"] for number in numbers]
            return {"start_seconds": started, "sync_seconds": syncs}

        yield Side(sample, ids, finish)
    finally:
        actors.shutdown()
        if owned:
            ray.shutdown()


def main(name: str, folder: Path, plan: SamplePlan) -> None:
    """Run one side."""

    def tell(found: dict[str, Any]) -> None:
        print(json.dumps(found), flush=True)  # noqa: T201 - read by the caller

    with {"bare": bare, "stage": stage}[name](folder, plan) as side:
        side.sample()  # the first is slower than those that follow, and counts on neither side
        tell({"ready": name})
        for _ in sys.stdin:
            began = time.perf_counter()
            answer = side.sample()
            seconds = time.perf_counter() - began
            tell({"seconds": seconds, "drawn": drawn(side.ids(answer))})
        tell(side.finish())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), SamplePlan(**json.loads(sys.argv[3])))
