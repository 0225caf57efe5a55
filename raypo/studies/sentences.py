"""Many rows in a few words: parts of the sentence in which a finding says what was found, made from the rows alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from raypo.studies.result import Row, Verdict

VOTES: dict[Verdict, str] = {"holds": "confirmed", "fails": "refuted", "undecided": "open"}
NOT_MEASURED = "not measured"


def joined(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else ""


def counted(words: Sequence[str], order: Sequence[str]) -> str:
    """How often each word was said: `confirmed in 1 and open in 2 of 3`, `open in all 3`.

    Args:
        words: one per comparison.
        order: all words that there can be, as they are told.
    """
    count = {word: sum(one == word for one in words) for word in order}
    said = [word for word in order if count[word]]
    if len(said) < 2:
        alone = "" if len(words) < 2 else f" in both {len(words)}" if len(words) == 2 else f" in all {len(words)}"
        return f"{said[0]}{alone}" if said else NOT_MEASURED
    return f"{joined([f'{word} in {count[word]}' for word in said])} of {len(words)}"


def voted(verdicts: Sequence[Verdict]) -> str:
    """What comparisons say of a claim: `confirmed in 1, refuted in 7 and open in 2 of 10`."""
    return counted([VOTES[one] for one in verdicts], list(VOTES.values()))


SIDES = ("better", "worse", "no different", "open")


def side(row: Row) -> str:
    """Where an effect lies: one of SIDES. `no different`: its interval has nothing that matters, up or down."""
    up, down = row.supports(), row.supports(-1)
    if "holds" in (up, down):
        return "better" if up == "holds" else "worse"
    return "no different" if (up, down) == ("fails", "fails") else "open"


def sides(rows: Sequence[Row], order: Sequence[str] = SIDES) -> str:
    """`better in 1 and open in 2 of 3`.

    Args:
        rows: that were tested.
        order: other words for SIDES, in their order.
    """
    called = dict(zip(SIDES, order, strict=True))
    return counted([called[side(row)] for row in rows], order)


def lies(row: Row) -> str:
    """Where an effect lies beside what its test is against, in two words at most.

    `above`, `below`: surely, and not surely too small to matter. `not above`, `not below`: surely by less than matters.
    `no different`: neither by as much. `open`: nothing is sure. `-`: nothing is tested.
    """
    if not np.isfinite(row.p):
        return "-"
    moved = replace(row, low=row.low - row.against, high=row.high - row.against)
    up, down = moved.supports(), moved.supports(-1)
    if "holds" in (up, down):
        return "above" if up == "holds" else "below"
    said = {(True, True): "no different", (True, False): "not above", (False, True): "not below"}
    return said.get((up == "fails", down == "fails"), "open")


def sign(row: Row) -> str:
    """Where the interval of a row lies that nothing was tested on: `above`, `below`, or `unclear` where it holds 0."""
    return "above" if row.low > 0 else "below" if row.high < 0 else "unclear"


def grouped(said: Mapping[str, str], order: Sequence[str]) -> str:
    """Names by what is said of them: `higher with a and b, lower with c`.

    Args:
        said: of each name, one of `order`.
        order: as it is told; what is said of nothing is left out.
    """
    groups = {word: [name for name, one in said.items() if one == word] for word in order}
    return ", ".join(f"{word} {joined(names)}" for word, names in groups.items() if names) or NOT_MEASURED
