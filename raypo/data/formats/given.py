"""What a reader of a layout gives, and the cells that it is made of; a fault names its row, its column and a remedy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from raypo.data.files import Row, describe
from raypo.data.sources import Prompt, cell, check_text
from raypo.errors import DataError


@dataclass(frozen=True)
class Given:
    """Responses that a source row has.

    Args:
        prompt: text, or {role, content} messages that do not end with the assistant's turn.
        texts: K responses.
        rewards: K numbers, higher is better; None: not known. Only differences within a set have a meaning.
        used: columns that were read; the others become metadata.
        partial: the row is one judged response: rows with the same prompt make up a set.
        labelled: with `partial`: the reward is a yes or no, so that a set of one kind contrasts nothing.
    """

    prompt: Prompt
    texts: list[str]
    rewards: list[float | None]
    used: Sequence[str]
    partial: bool = False
    labelled: bool = False


Reading = Given | str
"""A set, or the reason for which its row is dropped and counted."""


def read_list(row: Row, column: str, setting: str) -> list[Any]:
    """A cell that has one entry per response.

    Raises:
        DataError: no such column, or no list.
    """
    value = cell(row, column, setting=setting)
    if not isinstance(value, list):
        raise DataError(
            f"{row.place}: {column!r} is {describe(value)}",
            "a list with one entry per response",
            f"mend the row, or name another column ({setting})",
        )
    return value


def read_key(row: Row, value: Any, key: str, setting: str) -> Any:
    """An entry of a response object.

    Raises:
        DataError: no object, or one without the key; the keys that there are are named.
    """
    if not isinstance(value, dict) or key not in value:
        got = f"an object with {', '.join(map(repr, value))}" if isinstance(value, dict) else describe(value)
        raise DataError(f"{row.place}: a response is {got}", f"an object with {key!r}", f"name its key: {setting}=...")
    return value[key]


def read_text(row: Row, number: int, value: Any) -> str:
    """The text of response `number`, counted from 1: a string, or the assistant's message alone.

    Raises:
        DataError: it is neither.
    """
    if is_conversation(value) and len(value) == 1:
        value = value[-1]["content"]
    if not isinstance(value, str):
        raise DataError(f"{row.place}, response {number} is {describe(value)}", "text", "mend the row")
    return check_text(value, f"{row.place}, response {number}")


def read_number(row: Row, number: int, value: Any) -> float | None:
    """Reward `number`, counted from 1: a number, null where it is not known, or several raters' numbers for their mean.

    Raises:
        DataError: it is none of these.
    """
    if value is None:
        return None
    raters = value if isinstance(value, list) and value else [value]
    if not all(isinstance(one, Real) for one in raters):
        raise DataError(
            f"{row.place}, reward {number} is {describe(value)}",
            "a number, a list of raters' numbers, or null where it is not known",
            "mend the row",
        )
    return float(sum(raters)) / len(raters)


def is_conversation(value: Any) -> bool:
    """Whether it is messages of which the last is the assistant's."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(m, dict) and isinstance(m.get("role"), str) for m in value)
        and value[-1]["role"] == "assistant"
    )
