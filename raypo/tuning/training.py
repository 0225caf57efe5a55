"""One offline trial's training, cut into rungs; a rung ends in a durable weight version.

The steps of all rungs together are those of `raypo train` with the same config: on one worker the weights are the same
bit by bit. A trial of one worker trains in its own process: a worker group would cost more than most of its steps.
"""

from __future__ import annotations

import gc
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import torch
import torch.distributed as dist

from raypo.config import RunConfig
from raypo.errors import RunError
from raypo.models.heap import give_back, keep_freed
from raypo.online.folder import RunFolder
from raypo.online.offline import NoEngines
from raypo.online.run import fit_workers
from raypo.stages.cluster import objective_of
from raypo.training import checkpoint
from raypo.training.rounds import RoundTask, Stop
from raypo.training.worker import Learner

POLL_S = 0.1


class Alone:
    """Trains in this process, as a group of one rank.

    Args:
        config: of the trial; its newest checkpoint is gone on from.
        task: the whole training; `rungs` says into how many parts it is cut.
    """

    def __init__(self, config: RunConfig, task: RoundTask) -> None:
        self._task, self._root = task, RunFolder(config).root
        torch.set_num_threads(config.training.threads)
        keep_freed()
        backend = "nccl" if config.training.gpus_per_worker else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        try:
            self._learner: Learner | None = Learner(config, objective_of(config), self._root, _Nobody())
        except BaseException:
            dist.destroy_process_group()
            raise

    def train(self, version: int) -> dict[str, float]:
        """Train until a version is durable; returns the metrics of the last step, none if it was there already."""
        learner, metrics = self._learner, {}
        assert learner is not None  # closed trials are not asked
        while learner.version < version:
            began, rung = time.monotonic(), learner.version
            metrics = learner.round(replace(self._task, rung=rung))
            facts = {"seconds": time.monotonic() - began, "metrics": metrics}
            learner.save((rung + 1) / self._task.rungs, facts)
            checkpoint.prune(self._root, keep=set())
        return metrics

    def close(self) -> None:
        """Free the model and the group."""
        if self._learner is not None:
            self._learner.close()
            self._learner = None
            gc.collect()
            give_back()  # to the trial that comes next
            dist.destroy_process_group()


class _Nobody:
    """A table source for a learner that is driven from outside."""

    def ready(self) -> None: ...

    def next(self, version: int) -> RoundTask | Stop:
        return Stop("driven from outside")

    def note(self, gauge: dict[str, Any]) -> None: ...

    def trained(self, fields: dict[str, Any]) -> None: ...


class Gate:
    """Lets a worker group train one rung at a time. An actor: every rank asks it.

    Args:
        task: the whole training.
    """

    def __init__(self, task: RoundTask) -> None:
        self._task, self._changed = task, threading.Condition()
        self._allowed, self._stopped = 0, False

    def allow(self, version: int) -> None:
        """Let versions up to this one be trained."""
        with self._changed:
            self._allowed = max(self._allowed, version)
            self._changed.notify_all()

    def stop(self) -> None:
        """Let the workers end after what they are at."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def next(self, version: int) -> RoundTask | Stop:
        """Block until the rung after a version may begin, or none may."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._allowed > version or version >= self._task.rungs)
            if self._stopped or version >= self._task.rungs:
                return Stop("stopped" if self._stopped else "all rungs are trained")
            return replace(self._task, rung=version)


class Gated:
    """A table source that asks a gate. Picklable.

    Args:
        gate: the actor's handle.
    """

    def __init__(self, gate: Any) -> None:
        self._gate = gate

    def ready(self) -> None:
        """The source policy is there."""

    def next(self, version: int) -> RoundTask | Stop:
        """The same answer on every rank."""
        answer: RoundTask | Stop = ray.get(self._gate.next.remote(version))
        return answer

    def note(self, gauge: dict[str, Any]) -> None:
        """The metrics file says it."""

    def trained(self, fields: dict[str, Any]) -> None:
        """The checkpoint's manifest says it."""


class Group:
    """Trains by Ray Train, on as many workers as the config says, behind a gate.

    Args:
        config: of the trial.
        task: the whole training.
    """

    def __init__(self, config: RunConfig, task: RoundTask) -> None:
        self._config, self._folder = config, RunFolder(config)
        threads = 4 + config.training.workers  # each rank waits in one
        self._gate = ray.remote(Gate).options(num_cpus=0, max_concurrency=threads).remote(task)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._fit, daemon=True)
        self._thread.start()

    def _fit(self) -> None:
        try:
            fit_workers(self._config, self._folder, Gated(self._gate), NoEngines())
        except BaseException as error:  # noqa: BLE001 - told by whoever waits for a version
            self._error = error

    def train(self, version: int) -> dict[str, float]:
        """Train until a version is durable; returns the metrics of its last step.

        Raises:
            RaypoError: as raised by the workers.
        """
        ray.get(self._gate.allow.remote(version))
        while (found := checkpoint.newest(self._folder.root)) is None or found.version < version:
            if self._error is not None:
                raise self._error
            if not self._thread.is_alive():
                raise RunError(f"training ended before version {version}", "all rungs", "see the trial's ray folder")
            time.sleep(POLL_S)
        checkpoint.prune(self._folder.root, keep=set())
        return dict(found.facts.get("metrics", {}))

    def close(self) -> None:
        """End the workers and wait until their placement group is given back."""
        ray.get(self._gate.stop.remote())
        self._thread.join(timeout=self._config.training.start_timeout_s)
        ray.kill(self._gate)


def begin(config: RunConfig, task: RoundTask) -> Alone | Group:
    """Training as the config asks for it."""
    return Alone(config, task) if config.training.workers == 1 else Group(config, task)


def drop_state(config: RunConfig, version: int) -> None:
    """Remove what resuming would need of a trial that is over; its newest weights stay."""
    folder = RunFolder(config)
    checkpoint.drop_states(folder.root, older_than=version + 1)
    shutil.rmtree(Path(folder.path("ray")), ignore_errors=True)
