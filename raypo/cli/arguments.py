"""What the commands share: their arguments, and configs with reward functions that can be imported."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from raypo import config
from raypo.errors import ConfigError

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of a run.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="e.g. training.learning_rate=1e-6")
]
StudyFile = Annotated[Path, typer.Argument(metavar="STUDY", help="YAML file of a study.")]
StudyOverrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="e.g. trials=16 base.policy.path=MODEL")
]


def local_path(text: str | Path) -> Path:
    """The value of --out, read before a Path is made of it: that would make a folder `s3:/...` of an address.

    Raises:
        ConfigError: it is an address.
    """
    if "://" in str(text):
        raise ConfigError(
            f"--out {text}",
            "a local folder or file: what goes to an object store is a run's folder, by `mirror:` in its config",
            "give a path on this machine, and copy from there what is to lie elsewhere",
        )
    return Path(text)


def out_option(told: str) -> Any:
    """The option --out, a local path.

    Args:
        told: its line of help.
    """
    return typer.Option(parser=local_path, metavar="<path>", help=told)


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
