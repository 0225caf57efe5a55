"""The peer's environment: trl beside the torch and the transformers of this process, made by uv for one benchmark.

With another torch the peer's speed and memory would tell of that torch too.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from raypo.bench.measure import child
from raypo.errors import RunError

TRL = "trl==1.16.0"
"""The release whose losses and trainer the tests and the benchmark are written against."""

SHARED = "torch", "transformers"
"""Packages in the version of this process."""


def make_interpreter(folder: Path) -> str:
    """Make the environment and give the path of its interpreter.

    Args:
        folder: where it goes; not there yet.

    Raises:
        RunError: there is no uv, or it cannot install.
    """
    uv = shutil.which("uv")
    if uv is None:
        raise RunError("no `uv` to make an environment with", "uv, or --python", f"give --python with {TRL} installed")
    interpreter = folder / "bin" / "python"
    pinned = [f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in SHARED]
    for command in (
        [uv, "venv", "--quiet", "--python", sys.executable, str(folder)],
        [uv, "pip", "install", "--quiet", "--python", str(interpreter), TRL, *pinned],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            told = f"`{' '.join(command[:3])}` ended with {done.returncode}: {done.stderr.strip()[-1000:]}"
            raise RunError(told, f"an environment with {TRL}", "make one by hand and give its interpreter as --python")
    return str(interpreter)


def versions(python: str) -> dict[str, Any]:
    """What an interpreter has of trl, torch and transformers.

    Raises:
        RunError: one of them is not there.
    """
    names = ("trl", *SHARED)
    told = f"import importlib.metadata as m, json; print(json.dumps({{name: m.version(name) for name in {names}}}))"
    return child([python, "-c", told])
