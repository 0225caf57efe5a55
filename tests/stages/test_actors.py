"""Long-lived actors that die, and engines whose update was cut short: real Ray actors, an engine that only counts."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pytest
from ray.exceptions import RayActorError
from tiny import run_config

from raypo.errors import EngineError, LostProcess
from raypo.stages.actors import Actors, EngineActor, Engines, answer
from raypo.stages.streaming import stream


class Counted:
    """What an engine tells of itself, without one: spoilt between `start_update` and the next process."""

    def __init__(self, folder: str, *, weight_version: int) -> None:
        self.held = weight_version

    def version(self) -> int:
        return self.held

    def load(self, folder: str, version: int) -> None:
        if self.held == -1:
            raise EngineError("an earlier update was cut short", "a new engine", "replace the engine")
        self.held = version

    def start_update(self) -> None:
        self.held = -1

    def pid(self) -> int:
        return os.getpid()


class CountedActor(EngineActor):
    """The engine actor, around that."""

    def __init__(self) -> None:
        super().__init__({})
        self._make = Counted  # type: ignore[assignment]


@pytest.fixture
def engine(ray_cluster: None) -> Any:
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's processes cannot import a test
    return ray.remote(CountedActor).options(num_cpus=0, max_restarts=-1, max_task_retries=0).remote()


@pytest.mark.parametrize("fault", ["cut short", "killed"])
def test_an_engine_that_was_lost_comes_back_with_the_weights_that_are_asked_for(fault: str, engine: Any) -> None:
    """A new process holds version 2; one start in it. What is there already is not brought up again."""
    engines = Engines([engine], run_config("unused", "unused"))
    assert engines.bring_up("folder", 1) == 1
    [handle] = engines.handles()
    before = handle("pid")
    if fault == "cut short":
        handle("start_update")
        assert engines.versions() == [-1]
    else:
        os.kill(before, signal.SIGKILL)  # `ray.kill` returns while the process still answers
    assert engines.bring_up("folder", 2) == 1
    assert (engines.versions(), engines.starts()) == ([2], 1)
    assert handle("pid") != before
    assert engines.bring_up("folder", 2) == 0


def test_a_scorer_that_died_is_waited_for_and_a_dead_one_is_told(engine: Any) -> None:
    """While Ray restarts an actor it refuses calls; one that is not restarted is an error by the deadline."""
    import ray

    engines = Engines([engine], run_config("unused", "unused"))
    engines.bring_up("folder", 1)
    actors = Actors(Engines([], run_config("unused", "unused")), [engine], {})
    os.kill(engines.handles()[0]("pid"), signal.SIGKILL)
    actors.wait_for_scorers(60.0)
    assert ray.get(engine.version.remote()) == -1
    ray.kill(engine)
    with suppress(RayActorError):
        while True:  # the kill reaches it later than the call returns
            ray.get(engine.version.remote())
    with pytest.raises(EngineError, match="did not restart"):
        actors.wait_for_scorers(1.0)


def test_the_loss_of_an_engine_reaches_whoever_can_repeat_the_stage(engine: Any) -> None:
    """Raised in a task of Ray Data, in another process: still our error, so that the stage is tried again."""
    import ray

    [handle] = Engines([engine], run_config("unused", "unused")).handles()
    answer(engine.version, time.monotonic() + 60, "an engine")

    def call(batch: pa.Table) -> pa.Table:
        ray.kill(engine)
        handle("version")
        return batch

    rows = pa.table({"x": [1]})
    with pytest.raises(LostProcess, match="process of engine died"):
        stream([rows], call, concurrency=1, no_progress_timeout_s=60, progress=lambda _: None)
