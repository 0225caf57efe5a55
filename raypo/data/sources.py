"""Prompts in: source rows to raw rows, and the split by content hash.

A raw row has the prompt as it was given, text or messages; nothing is rendered or tokenized here (see `chat`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raypo.config import PromptsConfig
from raypo.data.files import Row, describe, read_rows
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
"""Key in the metadata of a conversational prompt: its messages, for reward models with a template of their own."""

Prompt = str | list[dict[str, Any]]


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
    metadata = {name: _plain(value) for name, value in row.values.items() if name not in without}
    if conversational:
        metadata[MESSAGES_KEY] = prompt
    return {
        "prompt_id": prompt_id(prompt),
        "prompt": json.dumps(prompt) if conversational else prompt,
        "conversational": conversational,
        "metadata": json.dumps(metadata),
    }


def _plain(value: Any) -> Any:
    """A value that JSON can hold: what is not finite becomes null, dates and bytes their text."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


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


def split(
    table: pa.Table, fraction: float, *, heldout: pa.Table | None = None, key: str = "prompt_id"
) -> tuple[pa.Table, dict[str, int]]:
    """Add the column `split`; duplicates are merged and overlap with given held-out rows leaves training.

    A prompt is held out when its content hash, as a fraction of the largest, is below `fraction`: whatever else is
    in the file, and in whatever order. When that leaves either side of two or more prompts empty, the prompt of lowest
    hash is held out, or that of highest hash is not.

    Args:
        table: training rows with `prompt_id`.
        fraction: share to hold out; 0: none. Not read when `heldout` is given.
        heldout: separate rows for evaluation, same columns.
        key: rows that agree in this column are duplicates. Rows with the same prompt are on the same side in any case.

    Returns:
        the rows kept, in their order, training first; rows dropped by reason: "duplicate", "overlap".
    """
    train = _first_of_each(table, key)
    counts = {"duplicate": table.num_rows - train.num_rows, "overlap": 0}
    if heldout is not None:
        kept = _first_of_each(heldout, key)
        counts["duplicate"] += heldout.num_rows - kept.num_rows
        apart = train.filter(pc.invert(pc.is_in(train["prompt_id"], value_set=kept["prompt_id"].combine_chunks())))
        counts["overlap"] = train.num_rows - apart.num_rows
        return pa.concat_tables([_labelled(apart, "train"), _labelled(kept, "heldout")]), counts
    names = train["prompt_id"].to_pylist()
    ranks = [int(name, 16) / 2 ** (4 * len(name)) for name in names]
    held = [rank < fraction for rank in ranks]
    if 0.0 < fraction < 1.0 and len(set(ranks)) > 1:
        lowest, highest = min(ranks), max(ranks)
        held = [rank == lowest or (one and rank != highest) for rank, one in zip(ranks, held, strict=True)]
    mask = pa.array(held, pa.bool_())
    parts = [_labelled(train.filter(pc.invert(mask)), "train"), _labelled(train.filter(mask), "heldout")]
    return pa.concat_tables(parts), counts


def _first_of_each(table: pa.Table, key: str) -> pa.Table:
    first: dict[str, int] = {}
    for index, name in enumerate(table[key].to_pylist()):
        first.setdefault(name, index)
    return table.take(pa.array(list(first.values()), pa.int64()))


def _labelled(table: pa.Table, name: str) -> pa.Table:
    return table.append_column("split", pa.array([name] * table.num_rows, pa.string()))
