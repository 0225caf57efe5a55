"""Prompts in: files and Hugging Face datasets to raw rows, and the split by content hash.

A raw row has the prompt as it was given, text or messages; nothing is rendered or tokenized here (see `chat`). Every
fault names its file and its line or row.
"""

from __future__ import annotations

import glob
import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raypo.config import PromptsConfig
from raypo.errors import DataError

RAW = pa.schema(
    [
        ("prompt_id", pa.string()),  # content hash, 16 hex digits
        ("prompt", pa.string()),  # the text, or the messages as JSON
        ("conversational", pa.bool_()),  # whether `prompt` is messages
        ("metadata", pa.string()),  # JSON object: the other columns of the source row
    ]
)

MESSAGES_KEY = "prompt_messages"
"""Under this key the metadata of a conversational prompt holds its messages, for rewards with a template of their own."""

Prompt = str | list[dict[str, Any]]

_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class Row:
    """A source row.

    Args:
        place: file and line, or file and row, counted from 1.
        values: column name to value.
    """

    place: str
    values: Mapping[str, Any]


def read_prompts(config: PromptsConfig, path: str | None = None) -> pa.Table:
    """Prompts as they were given; returns rows of RAW in source order, duplicates included.

    Args:
        config: format, column and limit.
        path: read this instead of `config.path`, without limit: the held-out file has the same format.

    Raises:
        DataError: the source cannot be read, is empty, lacks the column, or a prompt is neither text nor messages.
    """
    return raw_table(
        [raw_row(row, row_prompt(row, config.column), without=(config.column,)) for row in read_rows(config, path)]
    )


def raw_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Raw rows as a table of RAW."""
    return pa.Table.from_pylist(rows, schema=RAW)


def raw_row(row: Row, prompt: Prompt, *, without: Sequence[str]) -> dict[str, Any]:
    """One row of RAW; the metadata holds every column but those of `without`."""
    conversational = not isinstance(prompt, str)
    metadata = {name: value for name, value in row.values.items() if name not in without}
    if conversational:
        metadata[MESSAGES_KEY] = prompt
    return {
        "prompt_id": prompt_id(prompt),
        "prompt": json.dumps(prompt) if conversational else prompt,
        "conversational": conversational,
        "metadata": json.dumps(metadata, default=str),
    }


def prompt_id(prompt: Prompt) -> str:
    """Content hash of a prompt, 16 hex digits: the same for the same text, or the same messages in any key order."""
    text = prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True, ensure_ascii=False)
    kind = "text" if isinstance(prompt, str) else "messages"
    return hashlib.sha256(f"{kind}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def row_prompt(row: Row, column: str) -> Prompt:
    """The prompt of a row.

    Raises:
        DataError: no such column, or neither text nor a list of {role, content} messages.
    """
    value = cell(row, column, setting="prompts.column")
    if isinstance(value, str):
        return check_text(value, f"{row.place}: {column!r}")
    if not isinstance(value, list) or not value:
        raise DataError(
            f"{row.place}: {column!r} is {describe(value)}",
            "a string, or a list of {role, content} messages",
            "mend the row, or name another column (prompts.column)",
        )
    return check_messages(value, f"{row.place}: {column!r}")


def check_messages(value: list[Any], where: str) -> list[dict[str, Any]]:
    """Messages whose last turn is not the assistant's.

    Raises:
        DataError: a message is not {role: text, content: text}, or the assistant has already answered.
    """
    for number, message in enumerate(value, start=1):
        good = isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))
        if not good:
            raise DataError(
                f"{where}, message {number} is {describe(message)}",
                "an object with `role` and `content`, both text",
                "mend the row: only text conversations can be prompts",
            )
        check_text(message["content"], f"{where}, message {number}")
    if value[-1]["role"] == "assistant":
        raise DataError(
            f"{where} ends with the assistant's turn",
            "a prompt that ends where the assistant is to answer",
            "remove the last message, or name the column that holds prompts without answers",
        )
    # Parquet fills keys that other rows have with null
    return [{key: part for key, part in message.items() if part is not None} for message in value]


def check_text(text: str, where: str) -> str:
    """The text itself.

    Raises:
        DataError: it holds half of a surrogate pair, which is no character and cannot be encoded.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{where} is not Unicode text: {error}", "text that UTF-8 can hold", "mend the row") from error
    return text


def cell(row: Row, column: str, *, setting: str) -> Any:
    """A row's value.

    Raises:
        DataError: no such column; those there are are named.
    """
    if column not in row.values:
        raise DataError(
            f"{row.place} has no column {column!r}; it has {', '.join(map(repr, row.values)) or 'none'}",
            f"a column {column!r} in every row",
            f"name the column that there is: {setting}=...",
        )
    return row.values[column]


def describe(value: Any) -> str:
    """A value and its type, short, for a message."""
    if value is None:
        return "null"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def read_rows(config: PromptsConfig, path: str | None = None) -> list[Row]:
    """Rows of JSONL (.gz), JSON or Parquet files, of a folder or glob of them, or of a Hugging Face dataset.

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
        filesystem, inner = _remote(path)
        is_folder = filesystem.get_file_info(inner).type == pafs.FileType.Directory
        found = filesystem.get_file_info(pafs.FileSelector(inner, recursive=True)) if is_folder else []
        files = [info.path for info in found] if is_folder else [inner]
    else:
        filesystem, inner = pafs.LocalFileSystem(), os.path.expanduser(path)
        is_folder = os.path.isdir(inner)
        if is_folder and any(os.path.exists(os.path.join(inner, f)) for f in ("dataset_dict.json", "state.json")):
            return _hub_rows(config, inner, on_disk=True)
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


def _remote(uri: str) -> tuple[pafs.FileSystem, str]:
    try:
        filesystem, inner = pafs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{uri} cannot be opened: {error}", "a path or a pyarrow URI", "check the address") from error
    return filesystem, inner


def _file_rows(filesystem: pafs.FileSystem, file: str) -> Iterator[Row]:
    """Rows of one file.

    Raises:
        DataError: it cannot be read, or is of no known format.
    """
    name = os.path.basename(file)
    try:
        if file.endswith(".parquet"):
            yield from _numbered(name, pq.read_table(file, filesystem=filesystem).to_pylist())
        elif file.endswith((".json", ".json.gz")):
            with filesystem.open_input_stream(file) as stream:
                yield from _json_rows(name, stream.read())
        elif file.endswith((".jsonl", ".jsonl.gz")):
            with filesystem.open_input_stream(file) as stream:
                yield from _jsonl_rows(name, stream)
        else:
            raise DataError(f"{file}: unknown kind of file", f"a name that ends in {', '.join(_SUFFIXES)}", "rename it")
    except FileNotFoundError as error:
        raise DataError(f"{file}: no such file", "a readable file", "check the path") from error
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{file} cannot be read: {error}", "a whole, readable file", "check or copy it again"
        ) from error


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
            f"{path} is no file or folder here, and as a Hugging Face dataset it cannot be loaded: {first}",
            "a file, a folder, or a dataset that can be reached",
            "check prompts.path, prompts.subset and prompts.split, and the network",
        ) from error
    return _numbered(f"{path} [{config.split}]", dataset)


def split(table: pa.Table, fraction: float, *, heldout: pa.Table | None = None) -> tuple[pa.Table, dict[str, int]]:
    """Add the column `split`; duplicates are merged and overlap with given held-out rows leaves training.

    A prompt is held out when its content hash, as a fraction of the largest, is below `fraction`: whatever else is
    in the file, and in whatever order. When that leaves either side of two or more prompts empty, the prompt of lowest
    hash is held out, or that of highest hash is not.

    Args:
        table: training rows with `prompt_id`.
        fraction: share to hold out; 0: none. Not read when `heldout` is given.
        heldout: separate rows for evaluation, same columns.

    Returns:
        the rows kept, in their order, training first; rows dropped by reason: "duplicate", "overlap".
    """
    train = _first_of_each(table)
    counts = {"duplicate": table.num_rows - train.num_rows, "overlap": 0}
    if heldout is not None:
        kept = _first_of_each(heldout)
        counts["duplicate"] += heldout.num_rows - kept.num_rows
        apart = train.filter(pc.invert(pc.is_in(train["prompt_id"], value_set=kept["prompt_id"].combine_chunks())))
        counts["overlap"] = train.num_rows - apart.num_rows
        return pa.concat_tables([_labelled(apart, "train"), _labelled(kept, "heldout")]), counts
    names = train["prompt_id"].to_pylist()
    ranks = [int(name, 16) / 2 ** (4 * len(name)) for name in names]
    held = [rank < fraction for rank in ranks]
    if 0.0 < fraction < 1.0 and len(ranks) > 1:
        held[ranks.index(min(ranks))] = True
        held[ranks.index(max(ranks))] = False
    mask = pa.array(held, pa.bool_())
    parts = [_labelled(train.filter(pc.invert(mask)), "train"), _labelled(train.filter(mask), "heldout")]
    return pa.concat_tables(parts), counts


def _first_of_each(table: pa.Table) -> pa.Table:
    seen: set[str] = set()
    keep = [not (name in seen or seen.add(name)) for name in table["prompt_id"].to_pylist()]
    return table.filter(pa.array(keep, pa.bool_()))


def _labelled(table: pa.Table, name: str) -> pa.Table:
    return table.append_column("split", pa.array([name] * table.num_rows, pa.string()))
