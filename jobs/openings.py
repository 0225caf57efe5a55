"""Openings of texts as prompts: `python jobs/openings.py TEXTS OPENINGS [WORDS]`, for films' reviews or stories.

TEXTS: JSON lines (gzipped where the name ends in .gz) with a column `text`, such as IMDB's reviews. OPENINGS: JSON
lines with `prompt`, the first WORDS words (8) of each longer text, each opening once. Then

    raypo study online config=jobs/stories.yaml policy.path=MODEL prompts.path=OPENINGS
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterable, Iterator

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


def main(arguments: list[str]) -> None:
    """Write OPENINGS."""
    if len(arguments) not in (2, 3) or not all(one.isdecimal() and int(one) > 0 for one in arguments[2:]):
        sys.exit("usage: python jobs/openings.py TEXTS OPENINGS [WORDS]")
    texts, place, words = arguments[0], arguments[1], int((arguments[2:] or [str(WORDS)])[0])
    read = gzip.open if texts.endswith(".gz") else open
    with read(texts, "rt", encoding="utf-8") as lines, open(place, "w", encoding="utf-8") as file:
        for opening in openings((json.loads(line)["text"] for line in lines), words):
            file.write(json.dumps({"prompt": opening}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
