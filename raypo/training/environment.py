"""What a repetition of bits depends on beside the config: versions, threads, the kind of processor."""

from __future__ import annotations

import platform
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import torch


def environment() -> dict[str, Any]:
    """Of this process, for the facts of a checkpoint."""
    versions = {name: package_version(name) for name in ("ray", "torch", "transformers", "peft")}
    return versions | {
        "threads": torch.get_num_threads(),
        "processor": processor(),
        "python": platform.python_version(),
    }


def processor() -> str:
    """The model name of the CPU, as the kernel tells it; the architecture where it does not."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text(encoding="utf-8").splitlines() if told.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
