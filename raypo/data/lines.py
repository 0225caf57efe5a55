"""JSON lines of one file that a recipe reads, and of one that it writes; gzipped where a name ends in .gz."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from raypo.errors import DataError, OutputError


def numbered(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects of a file with their lines' numbers, from 1; blank lines are counted and left out.

    Raises:
        DataError: the file cannot be read, or a line is no JSON object.
    """
    number = 0
    try:
        with (gzip.open if path.endswith(".gz") else open)(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise ValueError(f"it holds a {type(row).__name__}")
                    yield number, row
    except (OSError, EOFError, ValueError) as error:
        at = f"{path}, line {number}" if number and isinstance(error, ValueError) else path
        raise DataError(f"{at}: {error}", "a file of JSON objects, one a line, plain or .gz") from error


def write_whole(path: str, rows: Iterable[dict[str, Any]]) -> None:
    """Write a file that is whole, or leave what was there: also where making the rows fails.

    Raises:
        OutputError: it cannot be written.
    """
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    place = Path(path)
    beside = place.with_name(f"{place.name}.{os.getpid()}.tmp")
    try:
        # without the time of writing, so that the same rows are the same bytes
        beside.write_bytes(gzip.compress(text, mtime=0) if place.suffix == ".gz" else text)
        beside.replace(place)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise OutputError(f"cannot write {path}: {error.strerror}", "a file in a writable folder") from error
