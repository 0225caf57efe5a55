"""Step metrics: one JSON line per optimizer step always, TensorBoard by default, MLflow and W&B when configured."""

from __future__ import annotations

import json
import os
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from tensorboardX import SummaryWriter

from raypo.config import RunConfig
from raypo.errors import ConfigError


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
        self._mlflow = self._wandb = None
        known = place / "trackers.json"  # a run that goes on is the same run there too
        ids = json.loads(known.read_text(encoding="utf-8")) if known.is_file() else {}
        if config.tracking.mlflow_uri:
            self._mlflow = optional("mlflow", "tracking.mlflow_uri")
            self._mlflow.set_tracking_uri(config.tracking.mlflow_uri)
            started = self._mlflow.start_run(run_id=ids.get("mlflow"), run_name=config.name)
            ids["mlflow"] = started.info.run_id
        if config.tracking.wandb_project:
            self._wandb = optional("wandb", "tracking.wandb_project")
            started = self._wandb.init(
                project=config.tracking.wandb_project,
                name=config.name,
                dir=str(place),
                id=ids.get("wandb"),
                resume="allow",
            )
            ids["wandb"] = started.id
        if ids:
            replace_text(known, json.dumps(ids) + "\n")

    def step(self, metrics: dict[str, Any]) -> None:
        """Write one step; `metrics` has an integer `step` and numbers."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")
        numbers = {name: value for name, value in metrics.items() if isinstance(value, float)}
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, metrics["step"])
            self._board.flush()
        if self._mlflow is not None:
            self._mlflow.log_metrics(numbers, step=metrics["step"])
        if self._wandb is not None:
            self._wandb.log(numbers, step=metrics["step"])

    def close(self) -> None:
        """End the writers."""
        if self._board is not None:
            self._board.close()
        if self._mlflow is not None:
            self._mlflow.end_run()
        if self._wandb is not None:
            self._wandb.finish()


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
    """Whole lines of a metrics file; a line that a dying process cut short is dropped."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return found
