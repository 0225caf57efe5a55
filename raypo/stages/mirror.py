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
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from raypo.config import RunConfig
from raypo.errors import OutputError
from raypo.stages import tables
from raypo.stages.owner import is_no_claim
from raypo.stages.units import Unit, age, has_manifest, listed, parent, replaced, same_commit, same_files, units
from raypo.training import checkpoint

logger = logging.getLogger(__name__)

HEAD = "run.json"  # fetched last: a folder without it holds no run
METRICS = "metrics.jsonl"
PUSH_EVERY_S = 5.0
BLOCK = 1 << 22
ATTEMPTS = 3


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
            if HEAD not in there or self._has(found, there):
                return 0
            if self._root.exists():
                aside = self._root.with_name(f"{self._root.name}.stale-{time.time_ns()}")
                logger.warning("%s is behind its copy at %s: moved to %s", self._root, self._uri, aside)
                os.rename(self._root, aside)
            for unit in sorted(found, key=lambda unit: unit.manifest == HEAD):
                for name in (*unit.files, unit.manifest):
                    self._fetch(name)
            self._sent = self._here()
        except (OSError, pa.ArrowInvalid) as error:
            raise OutputError(
                f"{self._uri} cannot be read: {error}", "storage that answers", "check the address, or wait for it"
            ) from error
        return len(there)

    def _has(self, found: list[Unit], there: Mapping[str, int]) -> bool:
        """Whether the local folder has every committed unit of the copy, with the same content.

        Args:
            found: units of the copy.
            there: sizes of its files.
        """
        if not (self._root / HEAD).is_file():
            return False
        versions = [
            path.relative_to(self._root).as_posix()
            for path in self._root.glob(f"checkpoints/version-*/{checkpoint.MANIFEST}")
        ]
        for unit in found:
            if not has_manifest(unit.manifest):
                continue  # loose files are made from units, or grow
            local = self._root / unit.manifest
            if not local.is_file() and replaced(unit.manifest, versions):
                continue
            with self._store.open_input_stream(f"{self._path}/{unit.manifest}") as stream:
                theirs = stream.read()
            mine = local.read_bytes() if local.is_file() else b""
            if not same_commit(mine, theirs):
                if _was_here(local, theirs):
                    continue
                return False
            self._match(unit.manifest, mine, theirs, there)
        return True

    def _match(self, manifest: str, mine: bytes, theirs: bytes, there: Mapping[str, int]) -> None:
        """Note as sent what the copy has of a unit: by the hashes of both manifests, and the sizes in the store."""
        folder, whole = parent(manifest), mine == theirs
        same = same_files(mine, theirs)
        for name in listed(mine):
            full = f"{folder}/{name}"
            if name in same and there.get(full) == same[name] and (self._root / full).is_file():
                self._sent[full] = _mark(self._root / full)
            else:
                whole = False
        if whole:
            self._sent[manifest] = _mark(self._root / manifest)

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

        The copy never loses what a resume from it needs: what the folder has lost, or has torn, stays as it is there.

        Raises:
            OSError: the storage does not answer, or the folder that was copied is not there.
        """
        marks = self._here()
        if not _whole(self._root / HEAD):
            if HEAD not in self._held:
                return 0  # no run has begun
            raise FileNotFoundError(f"{self._root / HEAD} is gone or damaged: until it is back, nothing is copied")
        found, copied = units(marks), 0
        # in the order of commits: the copy is at any time a state that the folder has had. The copy's checkpoints come
        # last: the state of an old one goes when newer ones are there. The record comes first, for without it the rest
        # is no run; then the metrics: a checkpoint's resume drops the steps that are ahead of it, but cannot make up
        # for steps that are missing
        first = {HEAD: -2, METRICS: -1}
        for unit in sorted(
            found, key=lambda unit: (self._is_old(unit.manifest), first.get(unit.manifest, marks[unit.manifest][1]))
        ):
            if self._sent.get(unit.manifest) == marks[unit.manifest]:
                continue  # nothing below a manifest changes after it
            copied += self._replace(unit, marks)
        self._prune({unit.manifest for unit in found} & self._held.keys())
        return copied

    def _is_old(self, manifest: str) -> bool:
        return manifest in self._held and age(manifest) is not None

    def _here(self) -> dict[str, tuple[int, int]]:
        """Size and time of each file of the folder, by relative path.

        Raises:
            OSError: a folder in it cannot be listed: what is missing may be there.
        """
        found: dict[str, tuple[int, int]] = {}
        if not self._root.is_dir():
            return found
        for place, folders, files in os.walk(self._root, onerror=_raise):
            if Path(place) == self._root:
                folders[:] = [name for name in folders if name != "ray"]
            for name in filter(is_no_claim, files):  # of a comparison's driver, within a run's folder
                with suppress(FileNotFoundError):  # renamed meanwhile
                    path = Path(place, name)
                    found[path.relative_to(self._root).as_posix()] = _mark(path)
        return found

    def _replace(self, unit: Unit, marks: Mapping[str, tuple[int, int]]) -> int:
        """Copy a unit's files that are new, its manifest last, and remove what it no longer has; none of a torn one."""
        folder, names = parent(unit.manifest), set[str]()
        if has_manifest(unit.manifest):
            sizes = {
                f"{folder}/{name}": size for name, size in listed((self._root / unit.manifest).read_bytes()).items()
            }
            if any(name not in marks or marks[name][0] != size for name, size in sizes.items()):
                return 0
            names = set(sizes)
        before = self._held.get(unit.manifest, unit)
        new = [name for name in unit.files if self._sent.get(name) != marks[name]]
        if unit.manifest in self._held and set(new) & set(before.files):
            self._drop({unit.manifest})  # it is not of the files that take the place of others
        for name in (*new, unit.manifest):
            self._send(name)
            self._sent[name] = marks[name]
        self._drop(set(before.files) - set(unit.files) - names)
        self._held[unit.manifest] = unit
        return len(new) + 1

    def _prune(self, here: set[str]) -> None:
        """Remove the checkpoints that the folder has replaced.

        Args:
            here: units that both have. Where the copy's newest checkpoint is none of them, nothing goes.
        """
        held = {name: one for name in self._held if (one := age(name)) is not None}
        if not held or max(held, key=held.__getitem__) not in here:
            return
        for gone in held.keys() - here:
            if replaced(gone, here):
                self._drop({gone})  # first: a folder that is half removed must not look whole
                self._drop(set(self._held.pop(gone).files))

    def _send(self, name: str) -> None:
        place, local = f"{self._path}/{name}", isinstance(self._store, pafs.LocalFileSystem)
        if local:
            self._store.create_dir(parent(place), recursive=True)
        written = f"{place}.tmp" if local else place  # an object appears whole, a file does not
        with (
            (self._root / name).open("rb") as file,
            self._store.open_output_stream(written, compression=None) as stream,
        ):
            while block := file.read(BLOCK):
                stream.write(block)
        if local:
            self._store.move(written, place)

    def _drop(self, names: set[str]) -> None:
        for name in sorted(names):
            self._sent.pop(name, None)
            if self._store.get_file_info(f"{self._path}/{name}").type == pafs.FileType.File:
                self._store.delete_file(f"{self._path}/{name}")


def _was_here(manifest: Path, theirs: bytes) -> bool:
    """Whether what the copy has of a table was here and was set aside: it is made again, or was, and that is newer.

    Args:
        manifest: of the table here; it need not exist.
        theirs: the copy's manifest.
    """
    aside = [path.read_bytes() for path in manifest.parent.glob(f"{tables.TORN}*")]
    return any(same_commit(one, theirs) or not (listed(one) or manifest.is_file()) for one in aside)


def _mark(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _raise(error: OSError) -> None:
    raise error


def _whole(record: Path) -> bool:
    """Whether a file is there and is JSON."""
    try:
        json.loads(record.read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    return True


def fetched(config: RunConfig, root: str) -> Mirror | None:
    """The mirror of a run's folder, which then has what the mirror has; None without one.

    Args:
        config: of the run.
        root: folder of the run.

    Raises:
        OutputError: the mirror cannot be read.
    """
    if config.mirror is None:
        return None
    mirror = Mirror(root, tables.join(config.mirror, config.name))
    mirror.restore()
    return mirror


@contextmanager
def mirrored(config: RunConfig, root: str) -> Iterator[None]:
    """Fetch a run's folder from its mirror, and keep the mirror up to date until the block ends; nothing without one.

    Args:
        config: of the run.
        root: folder of the run.

    Raises:
        OutputError: the mirror cannot be read, or at the end not be written; the folder here is whole.
    """
    if config.mirror is None or (mirror := fetched(config, root)) is None:
        yield
        return
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
