"""An offline study against as many separate runs: what sharing annotations, engines and processes saves.

Both sides make the same numbers: each trial's weights, and its held-out reward and KL. Nothing is stopped early and a
trial has one rung, so what is measured is sharing alone. Separate runs are `raypo train` and then `raypo evaluate`, in
processes of their own, one after the other; times are wall clock, imports and Ray's start included.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from raypo.config import as_yaml
from raypo.errors import ConfigError, RunError
from raypo.stages import tables
from raypo.tuning.space import point_of, trial_config
from raypo.tuning.study import StudyConfig, base_of, evaluation_of, load


def bench_tune(
    path: Path, overrides: Sequence[str], out: Path, separate: int | None = None, console: Console | None = None
) -> dict[str, Any]:
    """Time the study, then separate runs of its trials; returns and writes what was measured.

    Args:
        path: of an offline study.
        overrides: of it.
        out: JSON file.
        separate: separate runs that are timed; their mean stands for the others. None: all.
        console: where progress goes.

    Raises:
        ConfigError: the study is no offline one.
        RunError: a command failed.
    """
    console, study = console or Console(), load(path, overrides)
    if study.form != "offline":
        raise ConfigError("an online study", "an offline one: online trials share no work", "give another study")
    with tempfile.TemporaryDirectory() as folder:
        plain = {"output": folder, "scheduler": "none", "rungs": 1, "keep": "all"}
        study = study.model_copy(update=plain)
        whole = timed(["tune", write(Path(folder, "study.yaml"), json.loads(study.model_dump_json()))], path)
        trials = (tables.read_json(f"{folder}/{study.name}/summary.json") or {})["trials"]
        console.print(f"study of {len(trials)} trials: {whole:.1f} s", highlight=False)
        parts = []
        for number, row in enumerate(trials[:separate], 1):
            trained, evaluated, model = alone(study, row, Path(folder), path)
            parts.append({"train": trained, "evaluate": evaluated})
            console.print(f"separate run {number}: {trained:.1f} s + {evaluated:.1f} s", highlight=False)
            same_weights(model, Path(folder, study.name, "trials", row["name"], "checkpoints", "version-0001", "model"))
    mean = {name: sum(part[name] for part in parts) / len(parts) for name in ("train", "evaluate")}
    told = {
        "trials": len(trials),
        "concurrency": study.concurrency,
        "cores": os.cpu_count(),
        "study_seconds": whole,
        "separate_seconds": {name: value * len(trials) for name, value in mean.items()},
        "separate_timed": parts,
        "ratio": whole / (len(trials) * sum(mean.values())),
        "ratio_to_training_alone": whole / (len(trials) * mean["train"]),
    }
    out.write_text(json.dumps(told, indent=1), encoding="utf-8")
    show(told, console)
    return told


def timed(arguments: list[str], study: Path) -> float:
    """Wall seconds of a raypo command in a process of its own.

    Raises:
        RunError: it failed.
    """
    began = time.monotonic()
    search = [str(study.parent.absolute()), os.getcwd(), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, search))}
    command = [sys.executable, "-m", "raypo.cli", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"raypo {arguments[0]} ended with {done.returncode}: {done.stderr[-2000:]}", "0")
    return time.monotonic() - began


def alone(study: StudyConfig, row: dict[str, Any], folder: Path, path: Path) -> tuple[float, float, Path]:
    """One trial as `raypo train` and `raypo evaluate`: seconds of each, and the weights."""
    config = trial_config(study, point_of(study.space, row)).model_copy(update={"output": str(folder / "alone")})
    trained = timed(["train", write_text(folder / "train.yaml", as_yaml(config))], path)
    model = folder / "alone" / config.name / "checkpoints" / "version-0001" / "model"
    # its prompts are those of the sets: the study's file has to be one that prompts can be read from too
    judged = evaluation_of(study, base_of(study)).model_copy(update={"name": config.name})
    place = write_text(folder / "evaluate.yaml", as_yaml(judged))
    out = str(folder / "alone" / config.name / "figures")
    return trained, timed(["evaluate", place, "--policy", f"trial={model}", "--out", out], path), model


def same_weights(one: Path, other: Path) -> None:
    """Both sides did the same work.

    Raises:
        RunError: they did not.
    """
    for file in sorted(one.glob("*.safetensors")):
        if file.read_bytes() != (other / file.name).read_bytes():
            raise RunError(f"{file.name} of the study and of the separate run differ", "the same weights, bit by bit")


def write(path: Path, tree: dict[str, Any]) -> str:
    """A mapping as a YAML file; returns its path."""
    return write_text(path, yaml.safe_dump(tree, sort_keys=False))


def write_text(path: Path, text: str) -> str:
    """A file; returns its path."""
    path.write_text(text, encoding="utf-8")
    return str(path)


def show(told: dict[str, Any], console: Console) -> None:
    """The figures as a table."""
    separate = told["separate_seconds"]
    table = Table("", "seconds", "share", box=None)
    total = sum(separate.values())
    table.add_row(f"{told['trials']} separate runs, train + evaluate", f"{total:.1f}", "1.00")
    table.add_row("  of them train", f"{separate['train']:.1f}", f"{separate['train'] / total:.2f}")
    table.add_row(f"one study, {told['concurrency']} at once", f"{told['study_seconds']:.1f}", f"{told['ratio']:.2f}")
    console.print(table)
    console.print(
        f"the study costs {told['ratio']:.2f} of the separate runs, and {told['ratio_to_training_alone']:.2f} of their "
        "training alone",
        highlight=False,
    )
