"""Files and Hugging Face datasets to source rows; every fault names its file and its line or row."""

from __future__ import annotations

import glob
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raypo.config import PromptsConfig
from raypo.errors import DataError

_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
GOOGLE_RETRIES_S = 30
"""How long Google's client repeats a request; left to itself, for a quarter of an hour and without a word."""


@dataclass(frozen=True)
class Row:
    """A source row.

    Args:
        place: file and line, or file and row, counted from 1.
        values: column name to value.
    """

    place: str
    values: Mapping[str, Any]


def describe(value: Any) -> str:
    """A value and its type, short, for a message."""
    if value is None:
        return "null"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def read_rows(config: PromptsConfig, path: str | None = None) -> list[Row]:
    """Rows of JSONL (.gz), JSON or Parquet files, of a folder or glob of them, or of a Hugging Face dataset.

    A folder is a dataset of its own kind where `save_to_disk` wrote it, or where it is a copy of a hub repository: the
    front matter of its README.md describes a dataset. Its files belong to splits, of which `split` is read.

    Args:
        config: `split` and `subset` are read for Hugging Face datasets, `limit` for `config.path` of any kind.
        path: read this instead of `config.path`, without limit.

    Raises:
        DataError: there is nothing to read, or something that cannot be read; never an empty list.
    """
    path, limit = (config.path, config.limit) if path is None else (path, None)
    rows = list(islice(_stream(config, path), limit))
    if not rows:
        raise DataError(f"{path} is empty", "at least one row", "check the path, and what writes the file")
    return rows


def _stream(config: PromptsConfig, path: str) -> Iterator[Row]:
    if "://" in path:
        filesystem, inner, is_folder, files = _remote(path)
    else:
        filesystem, inner = pafs.LocalFileSystem(), os.path.expanduser(path)
        is_folder = os.path.isdir(inner)
        if is_folder and any(os.path.exists(os.path.join(inner, f)) for f in ("dataset_dict.json", "state.json")):
            return _hub_rows(config, inner, on_disk=True)
        if is_folder and _is_repository(inner):
            return _hub_rows(config, inner, on_disk=False)
        files = glob.glob(os.path.join(inner, "**"), recursive=True) if is_folder else [inner]
        if not os.path.exists(inner):
            files = sorted(glob.glob(inner, recursive=True))
            if not files and _HUB_NAME.fullmatch(path) and not path.endswith(_SUFFIXES):
                return _hub_rows(config, path, on_disk=False)
    if is_folder:
        files = sorted(file for file in files if file.endswith(_SUFFIXES))
    if not files:
        raise DataError(
            f"{path}: " + (f"no {', '.join(_SUFFIXES)} file in this folder" if is_folder else "no such file or folder"),
            "a JSONL (.gz), JSON or Parquet file or folder, or a Hugging Face dataset",
            "check the path",
        )
    return (row for file in files for row in _file_rows(filesystem, file))


def _is_repository(folder: str) -> bool:
    card = os.path.join(folder, "README.md")
    if not os.path.exists(card):
        return False
    with open(card, encoding="utf-8", errors="replace") as file:
        text = file.read()
    front = text.split("\n---", 1)[0] if text.startswith("---\n") else ""
    return any(line.startswith(("configs:", "dataset_info:")) for line in front.splitlines())


def open_store(uri: str) -> tuple[pafs.FileSystem, str]:
    """Filesystem and path of a pyarrow URI; one that does not answer says so in bounded time.

    Raises:
        ArrowInvalid: no such kind of storage.
        OSError: it cannot be opened.
    """
    google = uri.startswith(("gs://", "gcs://")) and "retry_limit_seconds=" not in uri
    limit = f"{'&' if '?' in uri else '?'}retry_limit_seconds={GOOGLE_RETRIES_S}" if google else ""
    return pafs.FileSystem.from_uri(uri + limit)


def _remote(uri: str) -> tuple[pafs.FileSystem, str, bool, list[str]]:
    """Filesystem and path of a URI; whether it is a folder, and the files in it.

    Raises:
        DataError: no such kind of storage, or it does not answer.
    """
    try:
        filesystem, inner = open_store(uri)
        is_folder = filesystem.get_file_info(inner).type == pafs.FileType.Directory
        found = filesystem.get_file_info(pafs.FileSelector(inner, recursive=True)) if is_folder else []
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{uri} cannot be opened: {error}", "a path or a pyarrow URI", "check the address") from error
    return filesystem, inner, is_folder, [info.path for info in found] if is_folder else [inner]


def _file_rows(filesystem: pafs.FileSystem, file: str) -> Iterator[Row]:
    """Rows of one file.

    Raises:
        DataError: it cannot be read, or is of no known format.
    """
    name = os.path.basename(file)
    try:
        if file.endswith(".parquet"):
            table = pq.read_table(file, filesystem=filesystem)
            refuse_objects(table.schema, name)
            yield from _numbered(name, table.to_pylist())
        elif file.endswith((".json", ".json.gz")):
            with filesystem.open_input_stream(file) as stream:
                yield from _json_rows(name, stream.read())
        elif file.endswith((".jsonl", ".jsonl.gz")):
            with filesystem.open_input_stream(file) as stream:
                yield from _jsonl_rows(name, stream)
        else:
            raise DataError(
                f"{file}: unknown kind of file", f"a name that ends in {', '.join(_SUFFIXES)}", "convert it"
            )
    except FileNotFoundError as error:
        raise DataError(f"{file}: no such file", "a readable file", "check the path") from error
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{file} cannot be read: {error}", "a whole, readable file", "check or copy it again"
        ) from error


def refuse_objects(schema: pa.Schema, name: str) -> None:
    """Refuse columns of types that are not Arrow's own: reading a cell of Ray's runs whatever was pickled into it.

    Args:
        schema: of a table.
        name: of its file.

    Raises:
        DataError: naming the column and its type.
    """
    waiting = [(field.name, field.type) for field in schema]
    while waiting:
        column, kind = waiting.pop()
        if isinstance(kind, pa.BaseExtensionType) and not kind.extension_name.startswith("arrow."):
            raise DataError(
                f"{name}: column {column!r} is of type {kind.extension_name}",
                "plain Arrow types: others may run code when they are read",
                "write the column as text, numbers, lists or structs, or leave it out",
            )
        waiting += [(column, kind.field(index).type) for index in range(kind.num_fields)]


def _numbered(name: str, values: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
    return (Row(f"{name} row {number}", row) for number, row in enumerate(values, start=1))


def _jsonl_rows(name: str, stream: Any) -> Iterator[Row]:
    for number, line in enumerate(io.BufferedReader(stream), start=1):
        if line.strip():
            place = f"{name} line {number}"
            yield Row(place, _object(_parse(line, place), place))


def _json_rows(name: str, data: bytes) -> Iterator[Row]:
    values = _parse(data, name) if data.strip() else []
    if not isinstance(values, list):
        raise DataError(f"{name} holds {describe(values)}", "a JSON list of objects", "write one list of rows")
    for number, value in enumerate(values, start=1):
        place = f"{name} row {number}"
        yield Row(place, _object(value, place))


def _parse(data: bytes, place: str) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:  # UnicodeDecodeError is one
        raise DataError(f"{place} is not JSON: {error}", "JSON", "mend it, or see what wrote it") from error


def _object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{place} is {describe(value)}", "a JSON object: column name to value", "mend the row")
    return value


def _hub_rows(config: PromptsConfig, path: str, *, on_disk: bool) -> Iterator[Row]:
    """Rows of a Hugging Face dataset; `datasets` runs no code from a repository.

    Raises:
        DataError: it cannot be loaded, or has no such split.
    """
    import datasets  # half a second, which files do not need

    try:
        if on_disk:
            loaded = datasets.load_from_disk(path)
            if isinstance(loaded, datasets.DatasetDict) and config.split not in loaded:
                raise DataError(
                    f"{path} has no split {config.split!r}; it has {', '.join(map(repr, loaded))}",
                    "one of its splits",
                    "set prompts.split",
                )
            dataset = loaded[config.split] if isinstance(loaded, datasets.DatasetDict) else loaded
        else:
            dataset = datasets.load_dataset(path, config.subset, split=config.split)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{path} is no file or folder of rows here, and as a Hugging Face dataset it cannot be loaded: {first}",
            "a file, a folder, or a dataset that can be reached and has the split",
            "check prompts.path, prompts.subset and prompts.split, and the network",
        ) from error
    refuse_objects(dataset.data.schema, path)
    return _numbered(f"{path} [{config.split}]", dataset)
