"""What the commands share: their arguments, and configs with reward functions that can be imported."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from raypo import config

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of a run.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="e.g. training.learning_rate=1e-6")
]
StudyFile = Annotated[Path, typer.Argument(metavar="STUDY", help="YAML file of a study.")]
StudyOverrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="e.g. trials=16 base.policy.path=MODEL")
]


def find_modules(path: Path) -> None:
    """Let reward functions be imported that lie beside a file, or in the working folder."""
    for folder in (str(path.parent.absolute()), os.getcwd()):
        if folder not in sys.path:
            sys.path.insert(0, folder)


AcceptPins = Annotated[
    bool, typer.Option("--accept-pins", help="Continue although versions, world size, threads or types changed.")
]


def load(path: Path, overrides: list[str] | None) -> config.RunConfig:
    """Read a config; reward functions that lie beside it, or in the working folder, can then be imported."""
    find_modules(path)
    return config.load(path, overrides or [])
