"""Kill a run again and again, resume it, and compare it with the run that was never stopped.

A kill waits for a sign of the run's progress, a file that its folder gets, and then for a seeded while: so a plan hits
the same stages on a fast machine and on a slow one. What is compared is what the run committed: rows by their content,
weights by their hash, optimizer steps by their number. Two runs that nobody stops are compared first: the noise floor.

Processes are known by a variable of their environment that the driver is given and everything it starts inherits.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from types import FrameType
from typing import Any, Literal

import numpy as np
import psutil

from raypo.errors import RunError
from raypo.stages import tables
from raypo.training.checkpoint import MANIFEST
from raypo.training.tracking import read_metrics

MARK = "RAYPO_CHAOS"
POLL_S = 0.02
ORPHAN_WAIT_S = 30.0
Victim = Literal["driver", "driver-term", "trainer", "engine", "scorer"]
TITLES: dict[str, str] = {"trainer": "ray::RayTrainWorker", "engine": "ray::EngineActor", "scorer": "ray::Reference"}
"""How Ray names the processes, by the class of the actor in them."""
RAYS_OWN = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""A node's agents, no orphans of a run: when their raylet was killed they end by themselves, once the controller has
not answered for the 60 s of Ray's RAY_gcs_rpc_server_reconnect_timeout_s. Not every kernel lets one read their
environment.
"""


@dataclass(frozen=True)
class Kill:
    """One kill of a plan.

    Args:
        sign: file below the run's folder; the kill waits for it.
        delay_s: and then so long, seconds.
        victim: `driver` (SIGKILL), `driver-term` (SIGTERM), or the process of an actor (SIGKILL).
    """

    sign: str
    delay_s: float
    victim: Victim


@dataclass
class Record:
    """What happened to a run.

    Args:
        kills: those that hit.
        missed: those whose victim or moment did not come.
        exits: exit codes of the driver, in order.
        orphans: processes of the run that outlived its driver by `ORPHAN_WAIT_S`, but `RAYS_OWN`.
        rewritten: folders whose committed table was replaced by another.
        output: of the driver's last start.
    """

    kills: list[Kill] = field(default_factory=list)
    missed: list[Kill] = field(default_factory=list)
    exits: list[int] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    rewritten: list[str] = field(default_factory=list)
    output: str = ""


def signs(rounds: int) -> list[str]:
    """What a run's folder gets, in order: the beginning of each stage of each round."""
    found = [f"prompts/{tables.MANIFEST}"]
    for index in range(rounds):
        found.append(f"evaluations/version-{index:04d}/{tables.MANIFEST}")
        found += [f"rounds/round-{index:04d}/{stage}/{tables.MANIFEST}" for stage in ("sampled", "scored", "annotated")]
        found += [f"checkpoints/version-{index + 1:04d}/{name}" for name in ("state", MANIFEST)]
    return found


def random_plan(kills: int, rounds: int, seed: int, *, longest_delay_s: float = 1.0) -> list[Kill]:
    """Kills at seeded stages of a run, in the order in which they come.

    Args:
        kills: how many.
        rounds: of the run.
        seed: of the plan.
        longest_delay_s: after a stage's beginning, seconds.
    """
    draw = np.random.default_rng(seed)
    moments = sorted(draw.integers(len(signs(rounds)), size=kills).tolist())
    victims: list[Victim] = ["driver", "driver-term", "trainer", "engine", "scorer"]
    return [
        Kill(signs(rounds)[moment], float(draw.uniform(0, longest_delay_s)), victims[int(draw.integers(len(victims)))])
        for moment in moments
    ]


def endure(command: Sequence[str], folder: Path, plan: Sequence[Kill], *, cwd: Path, timeout_s: float) -> Record:
    """Run a command until it ends by itself, through a plan of kills; a driver that was killed is started again.

    Args:
        command: of the driver.
        folder: of the run.
        plan: kills, in order.
        cwd: where the driver stands.
        timeout_s: longest time for all, seconds.

    Raises:
        RunError: the run did not end in time, or the driver ended otherwise than by a kill of the plan.
    """
    with raised_signals():
        return _endure(command, folder, plan, cwd, timeout_s)


def _endure(command: Sequence[str], folder: Path, plan: Sequence[Kill], cwd: Path, timeout_s: float) -> Record:
    record, left, deadline = Record(), list(plan), time.monotonic() + timeout_s
    committed: dict[str, list[str]] = {}
    while True:
        mark = uuid.uuid4().hex
        try:
            driver = Driver(command, cwd, mark)
            ended = False
            while left and not ended:
                ended = follow(driver, folder, left, record, deadline)
            code, record.output = driver.wait(max(1.0, deadline - time.monotonic()))
            driver.end()
        except BaseException:
            alive = marked(mark)  # the driver too, and what it started
            for process in alive:
                process.kill()
            psutil.wait_procs(alive, timeout=1.0)  # what is no child of ours may stay as a zombie
            raise
        record.exits.append(code)
        record.orphans += outlived(mark)
        for place, files in manifests(folder).items():
            if committed.setdefault(place, files) != files:
                record.rewritten.append(place)
        if code == 0:
            record.missed += left
            return record
        if not ended:
            raise RunError(f"the driver ended with {code}:\n{record.output}", "0, or the code of a planned kill")


def follow(driver: Driver, folder: Path, left: list[Kill], record: Record, deadline: float) -> bool:
    """Carry out the next kill of what is left; returns whether it ended the driver."""
    kill = left[0]
    while not (folder / kill.sign).exists():
        if not driver.lives() or time.monotonic() > deadline:
            record.missed += left
            left.clear()
            return False
        time.sleep(POLL_S)
    time.sleep(kill.delay_s)
    left.pop(0)
    hit = driver.kill(kill.victim)
    (record.kills if hit else record.missed).append(kill)
    return hit and kill.victim.startswith("driver")


@contextmanager
def raised_signals() -> Iterator[None]:
    """While it is open, SIGTERM and SIGHUP end this process by SystemExit, so that what it started is ended first.

    Those that are ignored stay so (nohup), and only a main thread can take signals.
    """
    before: dict[signal.Signals, Any] = {}

    def end(number: int, _: FrameType | None) -> None:
        for one in before:
            signal.signal(one, signal.SIG_IGN)  # a second one must not interrupt the ending
        raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread():
        for one in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(one) is not signal.SIG_IGN:
                before[one] = signal.getsignal(one)
                signal.signal(one, end)
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


class Driver:
    """The driver's process and what it started.

    Args:
        command: of the driver.
        cwd: where it stands.
        mark: value of `MARK` in its environment.
    """

    def __init__(self, command: Sequence[str], cwd: Path, mark: str) -> None:
        self._mark = mark
        # a pipe that nobody reads would fill up and stop the driver
        self._log = TemporaryFile()  # noqa: SIM115 - closed by `end`
        self._process = subprocess.Popen(
            command, cwd=cwd, env=os.environ | {MARK: mark}, stdout=self._log, stderr=subprocess.STDOUT
        )

    def lives(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def wait(self, timeout_s: float) -> tuple[int, str]:
        """Exit code, negative for a signal, and output.

        Raises:
            RunError: it runs on.
        """
        try:
            code = self._process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise RunError(f"the run did not end within {timeout_s:g} s", "a run that ends") from error
        self._log.seek(0)
        return code, self._log.read().decode(errors="replace")

    def kill(self, victim: Victim) -> bool:
        """Send the signal; returns whether there was somebody to take it."""
        if victim.startswith("driver"):
            if not self.lives():
                return False
            self._process.send_signal(signal.SIGTERM if victim == "driver-term" else signal.SIGKILL)
            return True
        for process in marked(self._mark):
            if title(process).startswith(TITLES[victim]):
                process.kill()
                return True
        return False

    def end(self) -> None:
        """Close its output; it has ended by itself."""
        self._log.close()


def marked(mark: str) -> list[psutil.Process]:
    """Processes whose environment carries a mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def title(process: psutil.Process) -> str:
    """What a process calls itself; empty once it is gone."""
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return ""


def outlived(mark: str) -> list[str]:
    """Titles of processes that are still there when `ORPHAN_WAIT_S` have passed, but `RAYS_OWN`; they are ended."""
    deadline = time.monotonic() + ORPHAN_WAIT_S
    while left := [process for process in marked(mark) if not title(process).startswith(RAYS_OWN)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    told = [title(process)[:120] for process in left]
    for process in left:
        process.kill()
    return told


def manifests(folder: Path) -> dict[str, list[str]]:
    """Files of every committed table below a run's folder, by the table's place."""
    found = {}
    for path in sorted(folder.rglob(tables.MANIFEST)):
        place = str(path.parent.relative_to(folder))
        found[place] = sorted(json.loads(path.read_text(encoding="utf-8"))["files"])
    return found


def compare(whole: Path, other: Path) -> dict[str, Any]:
    """Two runs of one config by what they committed.

    Args:
        whole: folder of the run that nobody stopped.
        other: of the other.

    Returns:
        tables compared; those that `differ`; `rows_lost` and `rows_repeated` of the other; `steps_lost` and
        `steps_repeated`; `weights`, compared versions; `weights_equal`.

    Raises:
        IntegrityError: a table is torn.
    """
    places = sorted(manifests(whole).keys() | manifests(other).keys())
    lost = repeated = 0
    differ = []
    for place in places:
        first, second = tables.read(str(whole / place)), tables.read(str(other / place))
        ids = [one[0]["prompt_id"].to_pylist() if one else [] for one in (first, second)]
        lost += len(set(ids[0]) - set(ids[1]))
        repeated += len(ids[1]) - len(set(ids[1])) + len(set(ids[1]) - set(ids[0]))
        if first is None or second is None or first[1].content != second[1].content:
            differ.append(place)
    steps = [[line["step"] for line in read_metrics(run / "metrics.jsonl")] for run in (whole, other)]
    hashes = [weights(run) for run in (whole, other)]
    return {
        "tables": len(places),
        "differ": differ,
        "rows_lost": lost,
        "rows_repeated": repeated,
        "steps_lost": len(set(steps[0]) - set(steps[1])),
        "steps_repeated": len(steps[1]) - len(set(steps[1])),
        "weights": len(hashes[0]),
        "weights_equal": bool(hashes[0]) and hashes[0] == hashes[1],
    }


def weights(run: Path) -> dict[str, str]:
    """Hash of the exported weights by version, of a run's folder."""
    found = sorted((run / "checkpoints").glob(f"version-*/{MANIFEST}"))
    return {path.parent.name: json.loads(path.read_text(encoding="utf-8"))["weights"] for path in found}
