"""Openings of texts as prompts: `python jobs/openings.py TEXTS OPENINGS [WORDS]`, for films' reviews or stories.

TEXTS: JSON lines (gzipped where the name ends in .gz) with a column `text`, such as IMDB's reviews. OPENINGS: JSON
lines with `prompt`, the first WORDS words (8) of each longer text, each opening once; gzipped likewise, and whole or
not written. Then

    raypo study online config=jobs/stories.yaml policy.path=MODEL prompts.path=OPENINGS
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

from raypo.data.lines import numbered, write_whole
from raypo.errors import DataError, RaypoError

WORDS = 8


def openings(texts: Iterable[str], words: int) -> Iterator[str]:
    """The first words of each text that goes on after them, each opening once; line breaks of HTML are spaces."""
    told = set()
    for text in texts:
        found = text.replace("<br />", " ").split()
        opening = " ".join(found[:words])
        if len(found) > words and opening not in told:
            told.add(opening)
            yield opening


def text_of(row: dict[str, Any], place: str) -> str:
    """The text of a row.

    Raises:
        DataError: there is none.
    """
    found = row.get("text")
    if not isinstance(found, str):
        raise DataError(f"{place}: columns {', '.join(row) or 'none'}", "a column `text` of text", "rename the column")
    return found


def main(arguments: list[str]) -> None:
    """Write OPENINGS."""
    if len(arguments) not in (2, 3) or not all(one.isdecimal() and int(one) > 0 for one in arguments[2:]):
        sys.exit("usage: python jobs/openings.py TEXTS OPENINGS [WORDS]")
    texts, place, words = arguments[0], arguments[1], int((arguments[2:] or [str(WORDS)])[0])
    try:
        read = (text_of(row, f"{texts}, line {number}") for number, row in numbered(texts))
        write_whole(place, ({"prompt": opening} for opening in openings(read, words)))
    except RaypoError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
