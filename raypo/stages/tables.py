"""Durable tables: a stage writes `attempt-<id>/`, then one manifest with exact files, rows and a content hash.

Readers open only what a manifest lists, so a torn output is as good as none: it is redone, never read. The content hash
is taken over the rows sorted by prompt id and so does not depend on completion order or on file names. Any pyarrow
filesystem URI works as a folder; only a local manifest needs (and gets) a rename, an object store's PUT is atomic.

A fault that may pass (EIO, a stale NFS handle) is tried again here, at the border, so that a stage of an hour is not
lost to it. The clients of object stores repeat by themselves.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from raypo.data.files import open_store
from raypo.data.manifest import opened, sealed
from raypo.errors import DataError, IntegrityError, OutputError
from raypo.records import SCHEMAS, conform

MANIFEST = "_manifest.json"
TORN = "_manifest.torn"
ATTEMPTS, FIRST_WAIT_S = 3, 0.2
LASTING = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)
"""Faults of the path itself: the next attempt would meet them too."""
DAMAGE = (DataError, pa.ArrowException, ValueError, TypeError, AttributeError, LookupError, ArithmeticError)
"""What a file that is not as it was written can raise on its way to a table: a column of another name, text that is no
UTF-8, a schema that cannot be. Of a committed folder none is the user's own mistake: it fitted when it was written.
"""

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Manifest:
    """What a committed folder holds.

    Args:
        schema: a name in `raypo.records.SCHEMAS`.
        files: file names relative to the folder, with their sizes in bytes.
        rows: number of rows over all files.
        content: SHA-256 over the rows sorted by prompt id.
        facts: JSON object of what the stage wants remembered: counts, seconds, scales.
    """

    schema: str
    files: dict[str, int]
    rows: int
    content: str
    facts: dict[str, Any]


def resolve(uri: str) -> tuple[pafs.FileSystem, str]:
    """Filesystem and path of a local folder or a pyarrow URI.

    An object store's address and keys come from its environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...) or from the
    machine's identity, never from the URI: URIs are written into manifests and messages.

    Raises:
        OutputError: no such kind of storage, or it cannot be opened.
    """
    if "://" in uri:
        try:
            return open_store(uri)
        except (pa.ArrowInvalid, OSError) as error:
            raise OutputError(
                f"{uri} cannot be opened: {error}", "a folder, s3://, gs:// or another pyarrow URI", "check the address"
            ) from error
    return pafs.LocalFileSystem(), os.path.abspath(uri)


def join(uri: str, *parts: str) -> str:
    """A path below a folder or URI."""
    return "/".join([uri.rstrip("/"), *parts])


def content_hash(table: pa.Table) -> str:
    """SHA-256 over the rows sorted by prompt id, hex."""
    # take() copies into fresh buffers without offsets: equal rows then serialise to equal bytes
    ordered = table.combine_chunks().take(pc.sort_indices(table, sort_keys=[("prompt_id", "ascending")]))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, ordered.schema.remove_metadata()) as writer:
        writer.write_table(ordered.replace_schema_metadata(None).combine_chunks())
    return hashlib.sha256(sink.getvalue()).hexdigest()


def commit(folder: str, table: pa.Table, schema: str, facts: dict[str, Any] | None = None) -> Manifest:
    """Write a table and, last of all, its manifest.

    Raises:
        DataError: the table does not fit the schema.
        OutputError: the folder cannot be written.
    """
    table = conform(table, SCHEMAS[schema], what=f"output of {folder}")
    table = table.take(pc.sort_indices(table, sort_keys=[("prompt_id", "ascending")]))
    name = f"attempt-{uuid.uuid4().hex[:12]}/part-0000.parquet"
    try:
        size = _write_rows(folder, name, table)
        manifest = Manifest(schema, {name: size}, table.num_rows, content_hash(table), facts or {})
        write_json(join(folder, MANIFEST), sealed(asdict(manifest)))
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error}", "a writable folder", "check space and rights") from error
    return manifest


def _write_rows(folder: str, name: str, table: pa.Table) -> int:
    """Write a Parquet file below a folder; returns its size in bytes."""
    filesystem, path = resolve(folder)

    def write() -> int:
        filesystem.create_dir(f"{path}/{name.split('/')[0]}", recursive=True)
        # the train workers read the file without its manifest: its pages tell damage by themselves
        pq.write_table(table, f"{path}/{name}", filesystem=filesystem, write_page_checksum=True)
        if isinstance(filesystem, pafs.LocalFileSystem):
            with open(f"{path}/{name}", "rb") as file:
                os.fsync(file.fileno())  # the manifest must not reach the disk before what it lists
        return int(filesystem.get_file_info(f"{path}/{name}").size)

    return _patiently(filesystem, write)


def _patiently(filesystem: pafs.FileSystem, call: Callable[[], Answer]) -> Answer:
    """A call's answer, of another attempt where local storage failed in a way that may pass."""
    if not isinstance(filesystem, pafs.LocalFileSystem):
        return call()
    attempts = Retrying(
        retry=retry_if_exception(_may_pass),
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential(FIRST_WAIT_S),
        reraise=True,
    )
    return attempts(call)


def _may_pass(error: BaseException) -> bool:
    """Whether a fault is one of the storage, and not of the path or, as Arrow's own, of what the file holds."""
    return isinstance(error, OSError) and error.errno is not None and not isinstance(error, LASTING)


def manifest_of(folder: str) -> Manifest | None:
    """The manifest of a committed folder; None where nothing was committed.

    Raises:
        IntegrityError: the manifest is torn, or is no manifest of a table.
        OutputError: the storage does not answer.
    """
    try:
        if (tree := read_json(join(folder, MANIFEST))) is None:
            return None
        found = Manifest(**opened(tree, schema=str, rows=int, content=str, facts=dict))
        if found.schema not in SCHEMAS:
            raise ValueError(f"its schema {found.schema!r} is none of {', '.join(SCHEMAS)}")
        return found
    except (ValueError, TypeError) as error:
        raise _torn(f"{folder}: its manifest is torn: {error}", "a whole manifest") from error


def whole(folder: str) -> tuple[pa.Table, Manifest] | None:
    """As `read`; a torn output is set aside, so that its stage is redone.

    Raises:
        OutputError: the storage does not answer: what is there is not known, so nothing is set aside.
    """
    try:
        return read(folder)
    except IntegrityError:
        set_aside(folder)
        return None


def set_aside(folder: str) -> None:
    """Take a folder's manifest away, under another name: what it listed is then as good as not there."""
    filesystem, path = resolve(folder)
    filesystem.move(f"{path}/{MANIFEST}", f"{path}/{TORN}-{uuid.uuid4().hex[:8]}")


def read(folder: str) -> tuple[pa.Table, Manifest] | None:
    """The committed table of a folder, checked against its manifest; None where nothing was committed.

    Raises:
        IntegrityError: a listed file is missing or the rows are not those that were committed.
        OutputError: the storage does not answer.
    """
    manifest = manifest_of(folder)
    if manifest is None:
        return None
    filesystem, path = resolve(folder)
    remote = not isinstance(filesystem, pafs.LocalFileSystem)

    def load() -> list[pa.Table]:
        files = [f"{path}/{name}" for name in manifest.files]
        return [pq.read_table(file, filesystem=filesystem, page_checksum_verification=True) for file in files]

    try:
        table = conform(pa.concat_tables(_patiently(filesystem, load)), SCHEMAS[manifest.schema], what=folder)
        content = content_hash(table)
    except MemoryError:  # Arrow's own is an ArrowException too
        raise
    except (OSError, *DAMAGE) as error:
        # storage that is away is no reason to make anything again; of a local file such a fault has a number
        if (
            isinstance(error, OSError)
            and not isinstance(error, FileNotFoundError)
            and (remote or error.errno is not None)
        ):
            raise _silent(folder, error) from error
        told = error.got if isinstance(error, DataError) else f"{folder}: {error}"
        raise _torn(told, "the rows that were committed") from error
    if content != manifest.content:
        raise _torn(f"{folder}: rows differ from those committed", manifest.content)
    return table, manifest


def _torn(got: str, expected: str) -> IntegrityError:
    """For a folder that does not hold what was committed."""
    return IntegrityError(got, expected, "delete the folder; its stage is then redone")


def files_of(folder: str) -> list[str]:
    """Full paths of the files that the folder's manifest lists."""
    manifest = manifest_of(folder)
    return [] if manifest is None else [join(folder, name) for name in manifest.files]


def write_json(uri: str, tree: Any) -> None:
    """Write a JSON file that is whole or absent, whenever the process dies.

    Raises:
        OSError: the file cannot be written.
    """
    filesystem, path = resolve(uri)
    text = json.dumps(tree, indent=1, sort_keys=True).encode()
    if not isinstance(filesystem, pafs.LocalFileSystem):
        with filesystem.open_output_stream(path) as stream:
            stream.write(text)
        return
    temporary = f"{path}.{uuid.uuid4().hex[:8]}.tmp"

    def write() -> None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)

    _patiently(filesystem, write)


def read_json(uri: str) -> Any | None:
    """Read a JSON file; None where there is none.

    Raises:
        OutputError: the storage does not answer.
        IntegrityError: it is not JSON.
    """
    filesystem, path = resolve(uri)

    def load() -> bytes | None:
        if filesystem.get_file_info(path).type != pafs.FileType.File:
            return None
        with filesystem.open_input_stream(path) as stream:
            return bytes(stream.read())

    try:
        text = _patiently(filesystem, load)
    except OSError as error:
        raise _silent(uri, error) from error
    try:
        return None if text is None else json.loads(text)
    except ValueError as error:
        raise IntegrityError(
            f"{uri} is not JSON: {error}",
            "a whole file: raypo writes each at once",
            "restore this file, or remove it and run the same command again",
        ) from error


def _silent(uri: str, error: OSError) -> OutputError:
    """For storage that does not answer: what is there is not known."""
    return OutputError(f"{uri} cannot be read: {error}", "storage that answers", "wait for it; nothing was changed")
