"""Step metrics: one JSON line per optimizer step always, TensorBoard by default, MLflow and W&B when configured.

The files are the run's own: what cannot be written to them ends it. A tracking server gets a copy to look at: one that
is away is warned about once, asked again after a pause, and never ends or holds up the run.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from tensorboardX import SummaryWriter

from raypo.config import RunConfig
from raypo.errors import ConfigError
from raypo.masking import masked

logger = logging.getLogger(__name__)

PAUSE_S = 60.0
PATIENCE = 10.0
"""A server that failed is left alone for so many times what the failure took: clients try for minutes by themselves."""


class Tracker:
    """Writes step metrics; made on rank 0 alone.

    Args:
        config: of the run.
        run_dir: folder of the run.
        step: steps already done: lines of later ones, from an attempt that died, are dropped.

    Raises:
        ConfigError: MLflow or W&B is configured and not installed.
    """

    def __init__(self, config: RunConfig, run_dir: str | Path, step: int) -> None:
        place = Path(run_dir)
        self._path = place / "metrics.jsonl"
        kept = [line for line in read_metrics(self._path) if line["step"] <= step]
        replace_text(self._path, "".join(json.dumps(line) + "\n" for line in kept))
        self._board = None
        if config.tracking.tensorboard:
            self._board = SummaryWriter(str(place / "tensorboard"), purge_step=step + 1 if step else None)
        self._servers = []
        if config.tracking.mlflow_uri:
            self._servers.append(_mlflow(config, place))
        if config.tracking.wandb_project:
            self._servers.append(_wandb(config, place))

    def step(self, metrics: dict[str, Any]) -> None:
        """Write one step; `metrics` has an integer `step` and numbers."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")
        numbers = {name: value for name, value in metrics.items() if isinstance(value, float)}
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, metrics["step"])
            self._board.flush()
        for server in self._servers:
            server.step(numbers, metrics["step"])

    def close(self) -> None:
        """End the writers."""
        if self._board is not None:
            self._board.close()
        for server in self._servers:
            server.close()


@dataclass
class _Server:
    """A tracking server, whose failures cost the run nothing.

    Args:
        name: of its package.
        known: file with the ids of runs there: a run that goes on is the same run there too.
        start: begins a run, or goes on with the one of an id; returns its id.
        log: takes numbers and their step.
        finish: ends the run.
    """

    name: str
    known: Path
    start: Callable[[str | None], str]
    log: Callable[[dict[str, float], int], Any]
    finish: Callable[[], Any]
    _started: bool = False
    _warned: bool = False
    _silent_until: float = 0.0

    def step(self, numbers: dict[str, float], step: int) -> None:
        """Write one step, unless the server is being left alone."""
        if time.monotonic() < self._silent_until:
            return
        if not self._started:
            self._started = self._try(self._start)
        if self._started:
            self._try(lambda: self.log(numbers, step))

    def close(self) -> None:
        """End the run there."""
        if self._started:
            self._try(self.finish)

    def _start(self) -> None:
        ids = json.loads(self.known.read_text(encoding="utf-8")) if self.known.is_file() else {}
        ids[self.name] = self.start(ids.get(self.name))
        replace_text(self.known, json.dumps(ids) + "\n")

    def _try(self, call: Callable[[], Any]) -> bool:
        """Whether a call succeeded."""
        began = time.monotonic()
        try:
            call()
        except Exception as error:  # noqa: BLE001 - each package has kinds of its own for a server that is away
            took = time.monotonic() - began
            self._silent_until = time.monotonic() + max(PAUSE_S, PATIENCE * took)
            if not self._warned:
                told = f"{type(error).__name__}: {masked(str(error))}"
                logger.warning("%s takes no metrics: %s; metrics.jsonl has them, the run goes on", self.name, told)
            self._warned = True
            return False
        return True


def _mlflow(config: RunConfig, place: Path) -> _Server:
    """An MLflow server or store."""
    package = optional("mlflow", "tracking.mlflow_uri")

    def start(known: str | None) -> str:
        package.set_tracking_uri(config.tracking.mlflow_uri)
        return str(package.start_run(run_id=known, run_name=config.name).info.run_id)

    return _Server(
        "mlflow",
        place / "trackers.json",
        start,
        lambda numbers, step: package.log_metrics(numbers, step=step),
        package.end_run,
    )


def _wandb(config: RunConfig, place: Path) -> _Server:
    """Weights and Biases."""
    package = optional("wandb", "tracking.wandb_project")

    def start(known: str | None) -> str:
        project, name = config.tracking.wandb_project, config.name
        return str(package.init(project=project, name=name, dir=str(place), id=known, resume="allow").id)

    return _Server(
        "wandb",
        place / "trackers.json",
        start,
        lambda numbers, step: package.log(numbers, step=step),
        package.finish,
    )


def optional(name: str, field: str) -> ModuleType:
    """Import a tracking package that raypo does not install by itself.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{field} is set and {name} is not installed", name, f"install {name}, or unset {field}"
        ) from error


def replace_text(path: Path, text: str) -> None:
    """Write a file that holds the old text or the new, whenever the process dies."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a metrics file, each with its `step`.

    What is none is dropped: a line that a dying process cut short, and what a power loss made of a file that nobody
    had synced.
    """
    if not path.is_file():
        return []
    found = []
    for text in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            found.append(line)
    return found
