"""Studies that were run, as one Markdown table, from their result.json files: a row a study."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raypo.errors import ConfigError, DataError
from raypo.studies.correlations import CEILING, RANK
from raypo.studies.write import clauses

COLUMNS = ("claim", "paper", "what was measured", "outcome with 95 % interval (n, seeds, power)", "command", "commit")
VERDICTS = {"holds": "holds", "fails": "fails", "mixed": "holds in part", "undecided": "undecided"}
NEEDED = ("study", "claim", "paper", "measured", "verdict", "finding", "rows", "headline", "shown", "environment")


def markdown(folders: Sequence[Path]) -> str:
    """The table of the studies in these folders, in their order.

    Raises:
        ConfigError: no folder is named.
        DataError: a folder has no result of a study, or one without what the table tells.
    """
    if not folders:
        raise ConfigError("study --markdown without a folder", "the folders of studies that were run")
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    for folder in folders:
        found = read(folder)
        cells = (
            f"**`{found['study']}`** {found['claim']}",
            found["paper"],
            found["measured"],
            outcome(found),
            f"`{found['shown']}`",
            found["environment"]["commit"],
        )
        lines.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def read(folder: Path) -> dict[str, Any]:
    """A study's result.json.

    Raises:
        DataError: see `markdown`.
    """
    place = folder / "result.json"
    try:
        found: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{place}: {error}", "a folder that `raypo study NAME` wrote") from error
    lacking = [key for key in NEEDED if key not in found] if isinstance(found, dict) else list(NEEDED)
    if lacking:
        raise DataError(f"{place} lacks {', '.join(lacking)}", "a result of this version's studies", "run it again")
    return found


MOST_ROWS = 3
"""Of comparisons that a cell of the table names; of more only the least and the greatest effect."""


def outcome(found: Mapping[str, Any]) -> str:
    """The verdict, how many comparisons say what, what was found in words, and the least and the greatest effect.

    Beside a rank correlation stands what a perfect index would reach, or that this cannot be told.
    All that decide a claim are bold in the study's page, and `table.csv` has them.
    """
    rows = [found["rows"][at] for at in found["headline"]]
    ceilings = {_where(row): row for row in rows if row["measure"] == CEILING}
    alike = ", ".join(
        filter(None, (_range(rows, "n", "n "), _range(rows, "seeds", "seeds "), _range(rows, "power", "power ")))
    )
    # a comparison whose methods never meet at the KL has a p of 1 and no effect
    tested = [row for row in rows if row["p"] is not None and row["effect"] is not None]
    tested.sort(key=lambda row: row["effect"])
    several = len(tested) > MOST_ROWS
    named = [tested[0], tested[-1]] if several else tested
    told = (
        " to ".join(f"{_bounded(row)} ({row['condition']}{_measure(row, rows)}{_most(row, ceilings)})" for row in named)
        if several
        else "; ".join(
            f"{row['condition']}{_measure(row, rows)} {_bounded(row)}{_most(row, ceilings)}" for row in named
        )
    )
    verdict = f"**{VERDICTS[found['verdict']]}**" + (f" ({alike})" if alike else "")
    return " ".join(filter(None, (f"{verdict}: {clauses(found['finding'])[0]}", told and f"Effects: {told}.")))


def _measure(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Named only where one condition was measured in several ways."""
    several = len({one["measure"] for one in rows if one["condition"] == row["condition"]}) > 1
    return f", {row['measure']}" if several else ""


def _where(row: Mapping[str, Any]) -> str:
    """What a correlation and its ceiling were both measured on."""
    return str(row["condition"]).rpartition(", ")[0]


def _most(row: Mapping[str, Any], ceilings: Mapping[str, Mapping[str, Any]]) -> str:
    """The ceiling of a rank correlation; other effects have none."""
    if row["measure"] != RANK:
        return ""
    found = ceilings.get(_where(row))
    return f", ceiling {_bounded(found)}" if found is not None else ", no ceiling can be told"


def _bounded(row: Mapping[str, Any]) -> str:
    low, high = ("-" if row[name] is None else f"{row[name]:+.3f}" for name in ("low", "high"))
    return ("-" if row["effect"] is None else f"{row['effect']:+.3f}") + f" [{low}, {high}]"


def _range(rows: Sequence[Mapping[str, Any]], name: str, label: str) -> str:
    """`power 0.31 to 0.52`, one number where all are alike; empty where there is none."""
    values = [row[name] for row in rows if row[name] is not None]
    if not values:
        return ""
    ends = [f"{one:.2f}" if isinstance(one, float) else str(one) for one in (min(values), max(values))]
    return label + " to ".join(dict.fromkeys(ends))
