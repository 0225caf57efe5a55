"""Offline sets in: prompts with responses and rewards that somebody already has.

Three shapes are read: a list of strings beside a list of rewards; a list of {text, score} objects; and the pair columns
`chosen` and `rejected`, which become two responses with the ordinal rewards 1 and 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import pyarrow as pa

from raypo.config import PromptsConfig
from raypo.data.files import Row, describe, read_rows
from raypo.data.sources import (
    RAW,
    Prompt,
    cell,
    check_messages,
    check_text,
    raw_row,
    row_prompt,
)
from raypo.errors import DataError

RAW_SETS = pa.schema(
    [
        *RAW,
        ("responses", pa.list_(pa.string())),  # K texts
        ("rewards", pa.list_(pa.float64())),  # K numbers; null or NaN: not known
    ]
)

CHOSEN, REJECTED = "chosen", "rejected"


def read_sets(config: PromptsConfig, path: str | None = None) -> tuple[pa.Table, dict[str, int]]:
    """Sets as they were given, in source order, duplicates included.

    Args:
        config: format, columns, keys and limit.
        path: read this instead of `config.path`, without limit.

    Returns:
        rows of RAW_SETS, each with at least two responses; rows dropped by reason: "too_few_responses".

    Raises:
        DataError: the source cannot be read, a column is missing or of the wrong type, responses and rewards differ in
            number, or no row has two responses.
    """
    kept: list[dict[str, Any]] = []
    rows = read_rows(config, path)
    for row in rows:
        prompt, texts, rewards, used = _read_set(row, config)
        if len(texts) >= 2:
            kept.append(raw_row(row, prompt, without=used) | {"responses": texts, "rewards": rewards})
    if not kept:
        raise DataError(
            f"{rows[0].place} has fewer than two responses, and so has every other row ({len(rows)})",
            "at least two responses per prompt: a set of one has no preference in it",
            "put all responses to a prompt into one row, as a list",
        )
    return pa.Table.from_pylist(kept, schema=RAW_SETS), {"too_few_responses": len(rows) - len(kept)}


def _read_set(row: Row, config: PromptsConfig) -> tuple[Prompt, list[str], list[float | None], Sequence[str]]:
    """Prompt, responses, rewards, and the columns they were read from."""
    if config.responses_column not in row.values and {CHOSEN, REJECTED} <= row.values.keys():
        prompt, texts = _read_pair(row, config)
        return prompt, texts, [1.0, 0.0], (config.column, CHOSEN, REJECTED)
    prompt = row_prompt(row, config.column)
    values = _list(row, config.responses_column, "prompts.responses_column")
    used: tuple[str, ...] = (config.column, config.responses_column)
    if any(isinstance(value, dict) for value in values):
        texts = [_key(row, value, config.response_text_key, "prompts.response_text_key") for value in values]
        rewards = [_key(row, value, config.response_score_key, "prompts.response_score_key") for value in values]
    else:
        texts, rewards = values, _list(row, config.rewards_column, "prompts.rewards_column")
        used += (config.rewards_column,)
    if len(texts) != len(rewards):
        raise DataError(
            f"{row.place} has {len(texts)} responses and {len(rewards)} rewards",
            "one reward per response",
            "mend the row; an unknown reward is null",
        )
    return (
        prompt,
        [_text(row, n, t) for n, t in enumerate(texts, 1)],
        [_number(row, n, r) for n, r in enumerate(rewards, 1)],
        used,
    )


def _list(row: Row, column: str, setting: str) -> list[Any]:
    value = cell(row, column, setting=setting)
    if not isinstance(value, list):
        raise DataError(
            f"{row.place}: {column!r} is {describe(value)}",
            "a list with one entry per response",
            f"mend the row, or name another column ({setting})",
        )
    return value


def _key(row: Row, value: Any, key: str, setting: str) -> Any:
    if not isinstance(value, dict) or key not in value:
        got = f"an object with {', '.join(map(repr, value))}" if isinstance(value, dict) else describe(value)
        raise DataError(f"{row.place}: a response is {got}", f"an object with {key!r}", f"name its key: {setting}=...")
    return value[key]


def _text(row: Row, number: int, value: Any) -> str:
    if not isinstance(value, str):
        raise DataError(f"{row.place}, response {number} is {describe(value)}", "text", "mend the row")
    return check_text(value, f"{row.place}, response {number}")


def _number(row: Row, number: int, value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, Real):
        raise DataError(
            f"{row.place}, reward {number} is {describe(value)}",
            "a number, or null where it is not known",
            "mend the row",
        )
    return float(value)


def _read_pair(row: Row, config: PromptsConfig) -> tuple[Prompt, list[str]]:
    """Prompt and the two responses of a pair; a pair of whole conversations holds its prompt itself.

    Raises:
        DataError: the two are not text and not conversations that part at the last message.
    """
    chosen, rejected = row.values[CHOSEN], row.values[REJECTED]
    if isinstance(chosen, str) and isinstance(rejected, str):
        return row_prompt(row, config.column), [_text(row, 1, chosen), _text(row, 2, rejected)]
    if not (_conversation(chosen) and _conversation(rejected)):
        raise DataError(
            f"{row.place}: {CHOSEN!r} is {describe(chosen)}, {REJECTED!r} is {describe(rejected)}",
            "two texts, or two conversations that end with the assistant's turn",
            "mend the row",
        )
    texts = [_text(row, number, side[-1]["content"]) for number, side in enumerate((chosen, rejected), start=1)]
    if config.column in row.values:
        return row_prompt(row, config.column), texts
    if chosen[:-1] != rejected[:-1] or len(chosen) < 2:
        raise DataError(
            f"{row.place}: there is no {config.column!r}, and {CHOSEN!r} and {REJECTED!r} do not begin alike",
            "a prompt column, or two conversations that differ in their last message only",
            "add the prompt, or name its column (prompts.column)",
        )
    return check_messages(chosen[:-1], f"{row.place}: {CHOSEN!r} without its last message"), texts


def _conversation(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(m, dict) and isinstance(m.get("role"), str) for m in value)
        and value[-1]["role"] == "assistant"
    )
