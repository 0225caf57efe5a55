"""A run's folder kept a second time in an object store: for machines whose disks go with them.

The run works on its folder as ever; a thread of the driver copies what is committed, in the order in which it was
committed, each manifest after what it lists. On a machine without the folder the same command fetches it and continues.
What a folder without a manifest holds is not committed and is not copied. One driver at a time may run a name: two
would overwrite each other, and on two disks neither sees the other's mark (`raypo.stages.owner`).
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from raypo.config import RunConfig
from raypo.errors import OutputError
from raypo.stages import tables

logger = logging.getLogger(__name__)

MANIFESTS = frozenset({tables.MANIFEST, "manifest.json"})  # of tables, and of checkpoints
HEAD = "run.json"  # fetched last: a folder without it holds no run
PUSH_EVERY_S = 5.0
BLOCK = 1 << 22
ATTEMPTS = 3


@dataclass(frozen=True)
class Unit:
    """Files that are committed together: a folder with a manifest, or one loose file.

    Args:
        manifest: relative path of the manifest, or of the loose file.
        files: relative paths of the other files.
    """

    manifest: str
    files: tuple[str, ...]


def units(names: Mapping[str, Any]) -> list[Unit]:
    """Committed files by unit; those of no unit, and Ray's own record of attempts, are left out.

    Args:
        names: relative paths with `/` between their parts.
    """
    heads = {_parent(name): name for name in names if _last(name) in MANIFESTS}
    below: dict[str, list[str]] = {head: [] for head in heads.values()}
    loose = []
    for name in names:
        if name in below or _last(name).endswith(".tmp") or name.startswith("ray/"):
            continue
        if (owner := _owner(name, heads)) is not None:
            below[owner].append(name)
        elif not name.startswith("checkpoints/") and "/attempt-" not in f"/{name}":
            loose.append(name)
    return [Unit(head, tuple(sorted(files))) for head, files in below.items()] + [Unit(name, ()) for name in loose]


def _owner(name: str, heads: Mapping[str, str]) -> str | None:
    """Manifest of the nearest folder above a file that has one."""
    folder = _parent(name)
    while folder:
        if folder in heads:
            return heads[folder]
        folder = _parent(folder)
    return None


def _parent(name: str) -> str:
    return name.rpartition("/")[0]


def _last(name: str) -> str:
    return name.rpartition("/")[2]


class Mirror:
    """A local folder and its copy.

    Args:
        root: folder of the run.
        uri: of the copy: s3://, gs:// or another that pyarrow knows.

    Raises:
        OutputError: no such kind of storage, or it does not answer.
    """

    def __init__(self, root: str, uri: str) -> None:
        self._root, self._uri = Path(root), uri
        self._store, self._path = tables.resolve(uri)
        self._sent: dict[str, tuple[int, int]] = {}  # size and time of each file that was copied
        self._held: dict[str, Unit] = {}  # units that the copy has

    def restore(self) -> int:
        """Fetch the copy where the folder lacks what it has; returns the number of files fetched.

        A folder that has all that the copy has, and more, stays as it is. One that lacks something, or has something
        else, was left behind by a run that went on elsewhere: it is moved aside, whole.

        Raises:
            OutputError: the storage does not answer.
        """
        try:
            selector = pafs.FileSelector(self._path, recursive=True, allow_not_found=True)
            there = {
                info.path.removeprefix(self._path).lstrip("/"): info.size
                for info in self._store.get_file_info(selector)
                if info.type == pafs.FileType.File
            }
            found = units(there)
            self._held = {unit.manifest: unit for unit in found}
            if HEAD not in there or self._has(found):
                return 0
            if self._root.exists():
                aside = self._root.with_name(f"{self._root.name}.stale-{time.time_ns()}")
                logger.warning("%s is behind its copy at %s: moved to %s", self._root, self._uri, aside)
                os.rename(self._root, aside)
            for unit in sorted(found, key=lambda unit: unit.manifest == HEAD):
                for name in (*unit.files, unit.manifest):
                    self._fetch(name)
        except (OSError, pa.ArrowInvalid) as error:
            raise OutputError(
                f"{self._uri} cannot be read: {error}", "storage that answers", "check the address, or wait for it"
            ) from error
        return len(there)

    def _has(self, found: list[Unit]) -> bool:
        """Whether the local folder has every committed unit of the copy, with the same content."""
        if not (self._root / HEAD).is_file():
            return False
        versions = [
            path.name for path in self._root.glob("checkpoints/version-*") if (path / "manifest.json").is_file()
        ]
        for unit in found:
            if _last(unit.manifest) not in MANIFESTS:
                continue  # loose files are made from units, or grow
            local = self._root / unit.manifest
            if not local.is_file():
                # old versions are removed from the folder first
                if unit.manifest.startswith("checkpoints/") and unit.manifest.split("/")[1] < max(versions, default=""):
                    continue
                return False
            with self._store.open_input_stream(f"{self._path}/{unit.manifest}") as stream:
                if _content(stream.read()) != _content(local.read_bytes()):
                    return False
        return True

    def _fetch(self, name: str) -> None:
        place = self._root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_name(f"{place.name}.tmp")
        with self._store.open_input_stream(f"{self._path}/{name}") as stream, temporary.open("wb") as file:
            while block := stream.read(BLOCK):
                file.write(block)
        os.replace(temporary, place)

    def push(self) -> int:
        """Copy what was committed since the last time; returns the number of files copied.

        Raises:
            OSError: the storage does not answer.
        """
        local = {
            path.relative_to(self._root).as_posix(): path.stat()
            for path in sorted(self._root.rglob("*"))
            if path.is_file()
        }
        marks = {name: (stat.st_size, stat.st_mtime_ns) for name, stat in local.items()}
        found, copied = units(marks), 0
        # in the order of commits: the copy is at any time a state that the folder has had
        for unit in sorted(found, key=lambda unit: marks[unit.manifest][1]):
            new = [name for name in (*unit.files, unit.manifest) if self._sent.get(name) != marks[name]]
            if unit.manifest not in new:
                continue  # nothing below a manifest changes after it
            for name in new:
                self._send(name)
                self._sent[name] = marks[name]
            copied += len(new)
            self._drop(set(self._held.get(unit.manifest, unit).files) - set(unit.files))
            self._held[unit.manifest] = unit
        for gone in self._held.keys() - {unit.manifest for unit in found}:
            if _last(gone) in MANIFESTS:
                self._drop({gone})  # first: a folder that is half removed must not look whole
                self._drop(set(self._held.pop(gone).files))
        return copied

    def _send(self, name: str) -> None:
        if isinstance(self._store, pafs.LocalFileSystem):
            self._store.create_dir(_parent(f"{self._path}/{name}"), recursive=True)
        with (
            (self._root / name).open("rb") as file,
            self._store.open_output_stream(f"{self._path}/{name}", compression=None) as stream,
        ):
            while block := file.read(BLOCK):
                stream.write(block)

    def _drop(self, names: set[str]) -> None:
        for name in sorted(names):
            self._sent.pop(name, None)
            if self._store.get_file_info(f"{self._path}/{name}").type == pafs.FileType.File:
                self._store.delete_file(f"{self._path}/{name}")


def _content(manifest: bytes) -> Any:
    """What a manifest says, but for the list of files, from which resume states of old versions are taken."""
    tree = json.loads(manifest)
    return {key: value for key, value in tree.items() if key != "files"} if isinstance(tree, dict) else tree


@contextmanager
def mirrored(config: RunConfig, root: str) -> Iterator[None]:
    """Fetch a run's folder from its mirror, and keep the mirror up to date until the block ends; nothing without one.

    Args:
        config: of the run.
        root: folder of the run.

    Raises:
        OutputError: the mirror cannot be read, or at the end not be written; the folder here is whole.
    """
    if config.mirror is None:
        yield
        return
    mirror = Mirror(root, tables.join(config.mirror, config.name))
    mirror.restore()
    ended = threading.Event()
    thread = threading.Thread(target=_keep, args=(mirror, ended), name="raypo-mirror", daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        ended.set()
        thread.join()
        _tried(mirror)  # the run's own failure is what its user must see
        raise
    ended.set()
    thread.join()
    _finish(mirror, config.mirror)


def _keep(mirror: Mirror, ended: threading.Event) -> None:
    while not ended.wait(PUSH_EVERY_S):
        _tried(mirror)


def _tried(mirror: Mirror) -> OSError | None:
    """Push; a file that went away, or a store that does not answer, is for the next time."""
    try:
        mirror.push()
    except OSError as error:
        logger.warning("the mirror is behind: %s", error)
        return error
    return None


def _finish(mirror: Mirror, uri: str) -> None:
    """What is left to copy when the run has ended.

    Raises:
        OutputError: it cannot be copied.
    """
    for attempt in range(ATTEMPTS):
        if (error := _tried(mirror)) is None:
            return
        time.sleep(2**attempt)
    raise OutputError(
        f"{uri} cannot be written: {error}",
        "storage that answers",
        "run the same command again: the folder here is whole, and is copied then",
    ) from error
