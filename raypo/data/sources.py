"""Formats in: prompts and offline sets from JSONL, JSON, Parquet and Hugging Face datasets.

What leaves here are plain rows; tokens come later (`chat`). Whatever cannot be used is refused with its row number, or
dropped and counted; nothing is dropped in silence.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raypo.config import PromptsConfig
from raypo.errors import DataError

Message = dict[str, str]
Prompt = str | list[Message]


@dataclass
class RawPrompt:
    """One source row.

    Args:
        prompt_id: content hash of the prompt.
        prompt: text, or messages.
        metadata: the row's other columns.
        split: "train" or "heldout".
    """

    prompt_id: str
    prompt: Prompt
    metadata: dict[str, Any]
    split: str = "train"


@dataclass
class RawSet:
    """One prompt with given responses and rewards (None: not judged)."""

    source: RawPrompt
    responses: list[str]
    rewards: list[float | None]


@dataclass
class Prompts:
    """Rows, and what was left out by reason."""

    rows: list[RawPrompt]
    dropped: dict[str, int] = field(default_factory=dict)


def prompt_id(prompt: Prompt) -> str:
    """First 16 hex digits of SHA-256 over the prompt: the same text has the same id in every run."""
    text = prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_rows(path: str, split: str = "train") -> list[dict[str, Any]]:
    """All rows of a JSONL (or .jsonl.gz), JSON or Parquet file, a folder of Parquet files, or a Hugging Face dataset.

    Raises:
        DataError: no such file, unreadable, or no row.
    """
    place = Path(path)
    try:
        rows = list(_rows(place, path, split))
    except (OSError, UnicodeDecodeError, pa.ArrowInvalid, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}", "JSONL, JSON, Parquet or a dataset", "check the path") from error
    if not rows:
        raise DataError(f"{path} is empty", "at least one row", "check the path and the format")
    return rows


def _rows(place: Path, path: str, split: str) -> Iterator[dict[str, Any]]:
    name = place.name.removesuffix(".gz")
    if name.endswith(".jsonl"):
        yield from _json_lines(place)
    elif name.endswith(".json"):
        yield from _json(place)
    elif name.endswith(".parquet") or (place.is_dir() and any(place.glob("*.parquet"))):
        yield from pq.read_table(place).to_pylist()
    elif place.is_file():
        raise DataError(f"{path} has an unknown ending", ".jsonl, .jsonl.gz, .json or .parquet", "rename or convert it")
    else:
        yield from _dataset(place, path, split)


def _json_lines(place: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(place, "rt", encoding="utf-8") if place.suffix == ".gz" else place.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{place} line {number} is not JSON: {error}", "one JSON object a line") from error
            if not isinstance(row, dict):
                raise DataError(f"{place} line {number} is {type(row).__name__}", "a JSON object")
            yield row


def _json(place: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(place, "rt", encoding="utf-8") if place.suffix == ".gz" else place.open(encoding="utf-8") as file:
        try:
            rows = json.load(file)
        except json.JSONDecodeError as error:
            raise DataError(f"{place} is not JSON: {error}", "a list of objects") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{place} does not hold a list of objects", "a list of objects")
    yield from rows


def _dataset(place: Path, path: str, split: str) -> Iterator[dict[str, Any]]:
    import datasets  # 1 s of imports, for datasets only

    try:
        if place.is_dir():
            loaded = datasets.load_from_disk(path)
            loaded = loaded[split] if isinstance(loaded, datasets.DatasetDict) else loaded
        else:
            loaded = datasets.load_dataset(path, split=split)
    except Exception as error:  # datasets raises types of its own, of hubs and of file systems
        raise DataError(
            f"{path} is no file, and no dataset could be loaded: {str(error).splitlines()[0]}",
            "a JSONL, JSON or Parquet file, a saved dataset, or a dataset's name",
            "check the path and prompts.split",
        ) from error
    yield from loaded


def read_prompts(config: PromptsConfig) -> Prompts:
    """Prompts of a run, duplicates merged, each in its split.

    Raises:
        DataError: unreadable, a missing column, or a prompt of the wrong type.
    """
    found = Prompts([])
    train = _unique(_prompts_of(config.path, config), found)
    if config.limit is not None:
        train = dict(list(train.items())[: config.limit])
    if config.heldout_path is None:
        for one in train.values():
            one.split = "heldout" if _share(one.prompt_id) < config.heldout_fraction else "train"
        found.rows = list(train.values())
        return found
    heldout = _unique(_prompts_of(config.heldout_path, config), found)
    kept = [one for key, one in train.items() if key not in heldout]
    found.dropped["in_heldout"] = len(train) - len(kept)
    for one in heldout.values():
        one.split = "heldout"
    found.rows = [*kept, *heldout.values()]
    return found


def _share(identity: str) -> float:
    """A number in [0, 1) from a prompt's id: which split it is in depends on its content alone."""
    return int(hashlib.sha256(f"split/{identity}".encode()).hexdigest()[:8], 16) / 2**32


def _unique(rows: Iterator[RawPrompt], found: Prompts) -> dict[str, RawPrompt]:
    unique: dict[str, RawPrompt] = {}
    for one in rows:
        if one.prompt_id in unique:
            found.dropped["duplicate"] = found.dropped.get("duplicate", 0) + 1
        else:
            unique[one.prompt_id] = one
    return unique


def _prompts_of(path: str, config: PromptsConfig) -> Iterator[RawPrompt]:
    for number, row in enumerate(read_rows(path, config.split), start=1):
        yield raw_prompt(row, config.column, f"{path} row {number}")


def raw_prompt(row: dict[str, Any], column: str, where: str) -> RawPrompt:
    """Take the prompt out of a source row.

    Raises:
        DataError: no such column, or neither text nor messages in it.
    """
    if column not in row:
        raise DataError(
            f"{where} has no column {column!r}; it has {', '.join(map(repr, row))}",
            "the column that prompts.column names",
            "set prompts.column",
        )
    prompt = row[column]
    chat = isinstance(prompt, list) and prompt and all(is_message(m) for m in prompt)
    if not chat and not (isinstance(prompt, str) and prompt):
        raise DataError(
            f"{where}: column {column!r} holds {_shown(prompt)}",
            "non-empty text, or a list of {role, content} messages",
            "mend the row, or set prompts.column",
        )
    return RawPrompt(prompt_id(prompt), prompt, {key: value for key, value in row.items() if key != column})


def is_message(value: Any) -> bool:
    """Whether a value is {role: text, content: text}."""
    return isinstance(value, dict) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str)


def _shown(value: Any) -> str:
    return f"{type(value).__name__} {json.dumps(value, default=str)[:80]}"


def read_sets(config: PromptsConfig) -> list[RawSet]:
    """Offline sets: prompts with given responses and rewards.

    Three layouts are read: a list of texts and a list of numbers (`responses_column`, `rewards_column`); one list of
    objects with `text` and `score` (the first column's objects may hold both); and `chosen` beside `rejected`, which
    become rewards 1 and 0.

    Raises:
        DataError: a missing column, a wrong type, lists of unequal length, or a prompt with one response.
    """
    sets = []
    for number, row in enumerate(read_rows(config.path, config.split), start=1):
        where = f"{config.path} row {number}"
        responses, rewards = _responses(row, config, where)
        if len(responses) < 2:
            raise DataError(
                f"{where} has {len(responses)} response",
                "at least 2: a set of one response has no preference in it",
                "remove the row, or sample responses with `raypo run`",
            )
        used = {config.responses_column, config.rewards_column, "chosen", "rejected"}
        rest = {key: value for key, value in row.items() if key not in used}
        sets.append(RawSet(raw_prompt(rest, config.column, where), responses, rewards))
        if config.limit is not None and len(sets) == config.limit:
            break
    return sets


def _responses(row: dict[str, Any], config: PromptsConfig, where: str) -> tuple[list[str], list[float | None]]:
    name = config.responses_column
    if name not in row and {"chosen", "rejected"} <= row.keys():
        return [_text(row["chosen"], where), _text(row["rejected"], where)], [1.0, 0.0]
    if not isinstance(row.get(name), list):
        raise DataError(
            f"{where}: column {name!r} " + (f"holds {_shown(row[name])}" if name in row else f"is missing from {list(row)}"),
            "a list of responses",
            "set prompts.responses_column, or give `chosen` and `rejected`",
        )
    found = row[name]
    responses = [_text(one, where) for one in found]
    if found and all(isinstance(one, dict) and "score" in one for one in found):
        return responses, [_number(one["score"], where) for one in found]
    given = row.get(config.rewards_column)
    if given is None:
        return responses, [None] * len(responses)
    if not isinstance(given, list) or len(given) != len(responses):
        raise DataError(
            f"{where}: column {config.rewards_column!r} holds {_shown(given)}", f"a list of {len(responses)} numbers"
        )
    return responses, [_number(one, where) for one in given]


def _text(value: Any, where: str) -> str:
    """A response's text: plain, in an object's `text`, or the last message of a conversation."""
    if isinstance(value, dict):
        value = value.get("text", value.get("content"))
    if isinstance(value, list) and value and all(is_message(m) for m in value):
        value = value[-1]["content"]
    if not isinstance(value, str):
        raise DataError(f"{where}: a response is {_shown(value)}", "text")
    return value


def _number(value: Any, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DataError(f"{where}: a reward is {_shown(value)}", "a number")
    return float(value) if math.isfinite(value) else None
