"""The page of a study: a template over plain data, escaped throughout, without a script.

The table of trials sorts without one: each row knows its rank by every column, and the arrow that was chosen says which
rank orders the rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from raypo.report import trials as drawn
from raypo.report.page import drawing, interval, write_html


@dataclass(frozen=True)
class StudyRecord:
    """A study, as its page shows it.

    Args:
        name: of the study.
        form: "offline" or "online".
        headline: sentences in plain words.
        warnings: in plain words.
        paths: config paths that were searched.
        logarithmic: those that were searched on a logarithmic scale.
        trials: a row per trial: `trial`, `state`, `rungs`, each path, `reward`, `reward_low`, `reward_high`, `kl`,
            `gain`, `gain_low`, `gain_high`, `win_rate`, `length`, `front`, `within_bound`, `error`. Figures of failed
            trials are None where they have no rung. `crashed`: that was no fault of the trial's input.
        best: number of the winner; None without one.
        start: held-out reward of the start.
        kl_bound: nats per response.
        importance: per figure, `shares` by path and the `reason` where there are none.
        study: the study as YAML.
        config: the winner's config as YAML.
        versions: of packages.
    """

    name: str
    form: str
    headline: list[str]
    warnings: list[str]
    paths: list[str]
    logarithmic: list[str]
    trials: list[dict[str, Any]]
    best: int | None
    start: float
    kl_bound: float
    importance: dict[str, dict[str, Any]]
    study: str = ""
    config: str = ""
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One cell of the table: what is read, and where its row stands when its column sorts."""

    text: str
    rank: int


SHOWN = ("reward", "gain", "kl", "win_rate", "length")
NAMES = {"kl": "KL, nats", "win_rate": "win rate", "length": "tokens"}


def columns(record: StudyRecord) -> list[str]:
    """Keys of the table's columns, in order."""
    return ["trial", "state", "rungs", *record.paths, *SHOWN]


def cells(record: StudyRecord) -> list[list[Cell]]:
    """Per trial, per column: text, and rank in descending order; what is not known comes last."""
    ranked: list[list[Cell]] = [[] for _ in record.trials]
    for key in columns(record):
        values = [one[key] for one in record.trials]
        places = ranks(values)
        for row, one, place in zip(ranked, record.trials, places, strict=True):
            row.append(Cell(text_of(one, key), place))
    return ranked


def ranks(values: Sequence[Any]) -> list[int]:
    """Place of each value in descending order, from 0; equal ones keep their order, None and NaN are last."""

    def known(value: Any) -> bool:
        return value is not None and not (isinstance(value, float) and math.isnan(value))

    texts = any(isinstance(value, str) for value in values)
    found = [i for i, value in enumerate(values) if known(value)]
    found.sort(key=lambda i: str(values[i]) if texts else float(values[i]), reverse=True)
    order = [*found, *[i for i, value in enumerate(values) if not known(value)]]
    return [order.index(i) for i in range(len(values))]


def text_of(row: dict[str, Any], key: str) -> str:
    """What a cell says."""
    value = row[key]
    if value is None:
        return "none" if key not in SHOWN else ""
    if key in ("reward", "gain") and row[f"{key}_low"] is not None:
        return interval({"mean": value, "low": row[f"{key}_low"], "high": row[f"{key}_high"]})
    if key in SHOWN:
        return f"{value:.1f}" if key == "length" else f"{value:.3f}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def render_study(record: StudyRecord) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=PackageLoader("raypo.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    plots = [
        drawing(
            drawn.front(record.trials, record.start, record.kl_bound, record.best),
            "Held-out reward against KL to the start, a point a trial. Nobody beats the joined trials at both; those "
            "right of the dashed line are beyond the bound.",
        ),
        *[
            drawing(drawn.importance(one["shares"], name), f"Share of the variation of {title(name)} (fANOVA).")
            for name, one in record.importance.items()
            if one["shares"]
        ],
    ]
    wide = drawing(
        drawn.parallel(record.trials, record.paths, record.logarithmic, record.best),
        "A line a trial, through its parameters to what came out; the thick one is the winner, the dotted ones did "
        "not train to their end.",
    )
    names = [NAMES.get(key, key.rpartition(".")[2] if key in record.paths else key) for key in columns(record)]
    return environment.get_template("study.html.j2").render(
        record=record,
        plots=plots,
        wide=wide,
        heads=list(zip(columns(record), names, strict=True)),
        rows=list(zip(record.trials, cells(record), strict=True)),
        first=columns(record).index("reward"),
        missing={title(name): one["reason"] for name, one in record.importance.items() if not one["shares"]},
    )


def title(name: str) -> str:
    """A figure as people call it."""
    return "the held-out reward" if name == "reward" else "the KL to the start"


def write_study(record: StudyRecord, path: str | Path) -> None:
    """Write the page.

    Raises:
        OutputError: the file cannot be written.
    """
    write_html(render_study(record), path)
