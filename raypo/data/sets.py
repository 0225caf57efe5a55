"""Offline sets in: prompts with responses and rewards that somebody already has, in any layout of `formats.table`.

What cannot contrast is dropped and counted here: responses that repeat another of their set, sets that repeat another,
and, unless the objective compares with an anchor, sets of one response and prompts whose labels are all the same. Sets
whose rewards are equal otherwise stay: a run may have reward sources of its own, and ties are found and counted where
rewards are annotated.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import Any

import pyarrow as pa

from raypo.config import PromptsConfig
from raypo.data.files import Row, read_rows
from raypo.data.formats.given import Given
from raypo.data.formats.table import format_of
from raypo.data.sources import RAW, prompt_id, raw_row
from raypo.errors import DataError

RAW_SETS = pa.schema(
    [
        *RAW,
        ("set_id", pa.string()),  # content hash of prompt and responses, 16 hex digits
        ("responses", pa.list_(pa.string())),  # K texts, no two the same
        ("rewards", pa.list_(pa.float64())),  # K numbers; null or NaN: not known
    ]
)

TOO_FEW, ONE_LABEL, REPEATED = "too_few_responses", "one_label", "duplicate_responses"


def read_sets(config: PromptsConfig, path: str | None = None, *, lone: bool = False) -> tuple[pa.Table, dict[str, Any]]:
    """Sets as they were given, in source order, repeated sets included.

    Rows with one judged response make up one set per prompt, where its first row stands and with its metadata.

    Args:
        config: layout, columns, keys and limit.
        path: read this instead of `config.path`, without limit.
        lone: one response is enough, and labels may all be the same: the objective compares with an anchor (KTO).

    Returns:
        rows of RAW_SETS, each with at least two responses, or one; facts: `rows` of the source, `formats` name to rows,
        `dropped` sets by reason ("too_few_responses", "one_label", and those of `formats.turns`),
        `duplicate_responses` that left their set, of which the first with a known reward is kept, and none
        of those that are labelled both ways.

    Raises:
        DataError: the source cannot be read, a row is of no known layout, a cell is of the wrong type, or no set has
            two responses.
    """
    rows = read_rows(config, path)
    formats: Counter[str] = Counter()
    dropped: Counter[str] = Counter({TOO_FEW: 0})
    read: list[tuple[Row, Given]] = []
    for row in rows:
        layout = format_of(row, config)
        formats[layout.name] += 1
        found = layout.read(row, config)
        if isinstance(found, str):
            dropped[found] += 1
        else:
            read.append((row, found))
    kept, repeated = [], 0
    for row, given in _gathered(read):
        texts, rewards = _distinct(given, labels=given.labelled or lone)
        repeated += len(given.texts) - len(texts)
        if len(texts) < (1 if lone else 2):
            dropped[TOO_FEW] += 1
        elif given.labelled and len(set(rewards)) == 1 and not lone:
            dropped[ONE_LABEL] += 1
        else:
            kept.append(_raw(row, given, texts, rewards))
    facts = {"rows": len(rows), "formats": dict(formats), "dropped": dict(dropped), REPEATED: repeated}
    if not kept:
        raise _nothing(rows, facts, lone=lone)
    return pa.Table.from_pylist(kept, schema=RAW_SETS), facts


def _nothing(rows: list[Row], facts: dict[str, Any], *, lone: bool) -> DataError:
    got = (
        f"in {len(rows)} rows, the first of which is {rows[0].place}; read as {facts['formats']}, "
        f"dropped: {facts['dropped']}, {REPEATED}: {facts[REPEATED]}"
    )
    if lone:
        return DataError(
            f"no labelled response {got}",
            "responses with one label each: one that is labelled both ways says nothing, and is left out",
            "mend the labels; say what the layout is: prompts.sets_format=...",
        )
    return DataError(
        f"no set of two responses {got}",
        "at least two different responses per prompt: a set of one has no preference in it",
        "put all responses to a prompt into one row, as a list; say what the layout is: prompts.sets_format=...; or "
        "take objective.preset=kto, which trains from one labelled response",
    )


def _gathered(read: list[tuple[Row, Given]]) -> list[tuple[Row, Given]]:
    """Partial rows with the same prompt as one, where its first row stands."""
    sets: dict[Any, list[tuple[Row, Given]]] = {}
    for number, (row, given) in enumerate(read):
        key = (prompt_id(given.prompt), given.labelled) if given.partial else number
        sets.setdefault(key, []).append((row, given))
    return [
        (
            rows[0][0],
            Given(
                rows[0][1].prompt,
                [text for _, given in rows for text in given.texts],
                [reward for _, given in rows for reward in given.rewards],
                rows[0][1].used,
                labelled=rows[0][1].labelled,
            ),
        )
        for rows in sets.values()
    ]


def _distinct(given: Given, *, labels: bool) -> tuple[list[str], list[float | None]]:
    """Each text once, with its first known reward; a text that is labelled both ways is a tie, and out."""
    found: dict[str, list[float]] = {}
    for text, reward in zip(given.texts, given.rewards, strict=True):
        found.setdefault(text, []).extend([] if reward is None else [reward])
    kept = {text: known for text, known in found.items() if not labels or len(set(known)) < 2}
    return list(kept), [known[0] if known else None for known in kept.values()]


def _raw(row: Row, given: Given, texts: list[str], rewards: list[float | None]) -> dict[str, Any]:
    one = raw_row(row, given.prompt, without=given.used)
    # the same responses judged otherwise are another opinion, not a copy
    content = json.dumps([one["prompt_id"], *sorted(map(json.dumps, zip(texts, rewards, strict=True)))])
    set_id = hashlib.sha256(f"set\0{content}".encode()).hexdigest()[:16]
    return one | {"set_id": set_id, "responses": texts, "rewards": rewards}
