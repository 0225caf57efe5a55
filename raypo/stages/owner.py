"""One driver at a time in a run's folder: two would remove each other's half-written checkpoints.

A driver lays `.NAME.owner-TOKEN.json` beside the folder: host, process, and a sign of life that a thread renews. It
then looks for others, and withdraws where it finds one: of two that come at once each sees the other, whichever file
system lies below. Nothing but a new file of one's own and a listing is needed: no flock, which NFS servers may not have
or keep to one machine, no link and no rename over another's file. As each name is used once, who removes the file of a
dead driver cannot hit a living one.

On the machine that wrote it a file is dead with its process (by its start time, so a number that is used again deceives
nobody): a driver that was killed is followed at once. A file of another machine, or of another container, is watched:
renewed, its driver lives, and the newcomer is refused; not renewed for `STALE_S`, it is dead. Clocks are not compared.
A driver that slept so long finds its file gone, and ends before it does more; what it wrote within `RENEW_S` is checked
by the manifests.

Beside the folder and not in it: so it is no part of the run, is never mirrored or forked, and stays where it is when a
folder is moved aside.
"""

from __future__ import annotations

import contextvars
import errno
import glob
import json
import logging
import os
import random
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from raypo.errors import OutputError, RunError

logger = logging.getLogger(__name__)

RENEW_S = 5.0
STALE_S = 60.0
WATCH_S = 0.2
ATTEMPTS = 20  # of drivers that come at once, before one of them gives up
LOST_SIGNAL = signal.SIGUSR2  # Ray Train takes SIGINT for itself

_held: contextvars.ContextVar[frozenset[str]] = contextvars.ContextVar("held", default=frozenset())


@contextmanager
def owned(root: str) -> Iterator[None]:
    """Own a run's folder until the block ends; a block within one that owns it already changes nothing.

    In another thread than the main one, a driver that was taken for dead ends only with its block.

    Args:
        root: the folder; it need not exist.

    Raises:
        OutputError: another driver owns it, or the folder above it cannot be written.
        RunError: this driver was silent for so long that another took the folder over.
    """
    root = os.path.realpath(root)
    if root in _held.get():
        yield
        return
    try:
        made = not os.path.isdir(os.path.dirname(root))
        _make(os.path.dirname(root))
        claim = Claim(root)
    except OSError as error:
        # what has ended may be looked at where nobody can write; what has not never runs without an owner
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM) and os.path.exists(
            os.path.join(root, "summary.json")
        ):
            yield
            return
        raise OutputError(
            f"cannot write to {os.path.dirname(root)}: {error.strerror}",
            "a writable folder",
            "choose another output= or --out",
        ) from error
    token = _held.set(_held.get() | {root})
    try:
        with _interrupted(claim):
            yield
    except BaseException as error:
        if claim.lost:
            raise _lost(root) from error
        raise
    finally:
        _held.reset(token)
        claim.end()
        if made:
            with suppress(OSError):  # it holds a run by now
                os.rmdir(os.path.dirname(root))
    if claim.lost:
        raise _lost(root)


def _make(folder: str) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
    except RecursionError:  # one level of Python's stack for each of the path
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG)) from None


@contextmanager
def _interrupted(claim: Claim) -> Iterator[None]:
    """Have the main thread interrupted when the claim is lost; another thread cannot be."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt  # the one exception that leaves a call of Ray's as itself

    before = signal.signal(LOST_SIGNAL, stop)
    claim.wakes = threading.main_thread().ident
    try:
        yield
    finally:
        claim.end()  # first: what comes of the signal without a handler is the end of the process
        signal.signal(LOST_SIGNAL, before)


class Claim:
    """A driver's file beside a run's folder, renewed by a thread until `end`.

    Args:
        root: of the run.

    Attributes:
        lost: another driver has taken the folder over.
        wakes: thread that is signalled then.

    Raises:
        OutputError: another driver owns the folder.
        OSError: the file cannot be written.
    """

    def __init__(self, root: str) -> None:
        self._root, self._beats = Path(root), 0
        self._file = self._root.with_name(f"{_prefix(self._root)}{uuid.uuid4().hex[:12]}.json")
        now = datetime.now(UTC).isoformat(timespec="seconds")
        pid = os.getpid()
        self._told = {"host": socket.gethostname(), "place": _place(), "pid": pid, "born": _born(pid), "began": now}
        self.lost = False
        self.wakes: int | None = None
        self._take()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="raypo-owner", daemon=True)
        self._thread.start()

    def _take(self) -> None:
        for left in self._root.parent.glob(f"{glob.escape(_prefix(self._root))}*.tmp"):
            half = _read(left) or {}
            if half.get("place") == _place() and not _runs(half["pid"], half["born"]):
                left.unlink(missing_ok=True)
        for _ in range(ATTEMPTS):
            for other in _others(self._root, self._file):
                if (told := _living(other)) is not None:
                    raise _refusal(self._root, told)
                other.unlink(missing_ok=True)
            temporary = self._file.with_suffix(".tmp")
            temporary.write_bytes(self._sign())  # under its own name only when it is whole
            os.rename(temporary, self._file)
            if not (others := _others(self._root, self._file)):
                return
            self._file.unlink(missing_ok=True)
            time.sleep(random.uniform(0, 2 * WATCH_S))  # one of those that came at once is alone at some time
        raise _refusal(self._root, _read(others[0]) or {})

    def _sign(self) -> bytes:
        """The file's content; always of one length, so that it can be written over in place."""
        seen = datetime.now(UTC).isoformat(timespec="seconds")
        return json.dumps(self._told | {"seen": seen, "beat": f"{self._beats:012d}"}).encode()

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_S):
            self._beats += 1
            try:
                with self._file.open("r+b") as file:  # never made again: who removed it owns the folder
                    file.write(self._sign())
            except FileNotFoundError:
                self.lost = True
                logger.error("another driver has taken over %s; this one ends", self._root)
                if self.wakes is not None:
                    signal.pthread_kill(self.wakes, LOST_SIGNAL)
                return
            except OSError as error:
                logger.warning("%s cannot be renewed: %s", self._file, error)

    def end(self) -> None:
        """Give the folder back."""
        self._ended.set()
        self._thread.join()
        with suppress(OSError):
            self._file.unlink(missing_ok=True)


def is_no_claim(name: str) -> bool:
    """Whether a file's name is not that of a driver's file, which belongs to its machine alone."""
    return not (name.startswith(".") and ".owner-" in name)


def _prefix(root: Path) -> str:
    return f".{root.name}.owner-"


def _others(root: Path, own: Path) -> list[Path]:
    """Files of other drivers."""
    names = sorted(name for name in os.listdir(root.parent) if name.startswith(_prefix(root)))
    return [root.with_name(name) for name in names if name.endswith(".json") and name != own.name]


def _read(path: Path) -> dict[str, Any] | None:
    """What a driver's file says; nothing of one that is damaged, None where it is gone."""
    try:
        told = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _living(path: Path) -> dict[str, Any] | None:
    """What the file of a living driver says; None where it is dead. Of another machine's it takes a while to know."""
    if (first := _read(path)) is None:
        return None
    if first.get("place") == _place():
        return first if _runs(first["pid"], first["born"]) else None
    logger.warning(
        "%s was left by process %s on %s: waiting %g s at most for a sign of life",
        path,
        first.get("pid"),
        first.get("host"),
        STALE_S,
    )
    deadline = time.monotonic() + STALE_S
    while time.monotonic() < deadline:
        time.sleep(WATCH_S)
        if (now := _read(path)) is None:
            return None
        if now != first:
            return now
    return None


def _place() -> str:
    """Where a process number means one process: this boot of this machine, this container."""
    parts = [socket.gethostname()]
    with suppress(OSError):  # not on Linux: the host's name has to do
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _born(pid: int) -> str | None:
    """When a process of this place began, in its kernel's ticks; None where that cannot be seen, or it runs no more."""
    try:
        # behind the name, which may hold anything: state is field 3 and the start time field 22
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]


def _runs(pid: int, born: str | None) -> bool:
    """Whether a process of this place runs that began then."""
    if (seen := _born(pid)) is not None:
        return seen == born
    if born is not None and os.path.isdir(f"/proc/{pid}"):
        return False  # it has ended, and nobody has asked for its exit code
    try:
        os.kill(pid, 0)  # no /proc, or one that hides what others run
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return born is None


def _refusal(root: Path, told: dict[str, Any]) -> OutputError:
    """For a folder that another driver owns."""
    who = f"process {told.get('pid', 'unknown')} on {told.get('host', 'an unknown host')}"
    return OutputError(
        f"{root} is owned by {who}, since {told.get('began', 'an unknown time')}, "
        f"last sign of life {told.get('seen', 'unknown')}",
        "one driver at a time: two would remove each other's half-written checkpoints",
        f"wait for {who} or end it, then give the same command again; or choose another name= or --out",
    )


def _lost(root: str) -> RunError:
    """For a driver that was taken for dead."""
    return RunError(
        f"another driver has taken over {root}: this one was silent for {STALE_S:g} s, or its file was removed",
        "one driver at a time",
        "leave the run to the other; what was committed stays",
    )
