"""What a study found: a row per trial, the winner, the Pareto front, importances; and the files that say it.

The winner is the trial that trained to its end with the highest held-out reward within the KL bound. It was chosen on
the prompts of the search and looks better there than it is; on prompts that the search never used it is measured again.
"""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from optuna.importance import FanovaImportanceEvaluator, get_param_importances

from raypo.config import RunConfig, as_yaml
from raypo.evaluation.frontier import on_frontier
from raypo.tuning.space import Space, distributions, label, trial_config
from raypo.tuning.study import StudyConfig

FEW = 4  # finished trials below which an importance would be a guess
FIGURES = ("reward", "reward_low", "reward_high", "kl", "kl_low", "kl_high", "gain", "gain_low", "gain_high", "gain_p")
MORE = ("win_rate", "length", "score")


@dataclass(frozen=True)
class Row:
    """One trial.

    Args:
        number: in the order in which trials began, from 1.
        name: of its folder.
        point: config path to value.
        state: "finished" trained to the end, "stopped" by the scheduler, "failed" by its input or by a crash.
        rungs: that it did.
        version: of the weights that it hands over; 0 is the start.
        figures: of its last rung, by `FIGURES` and `MORE`; NaN for a trial without one.
        front: whether no other finished trial has at least its reward at no more KL.
        within: whether its KL is within the bound.
        seconds: from its first to its last record.
        error: why it failed.
        crashed: whether that was no fault of its input, so that the same command tries it again.
    """

    number: int
    name: str
    point: dict[str, Any]
    state: str
    rungs: int
    version: int
    figures: dict[str, float]
    front: bool
    within: bool
    seconds: float
    error: str | None
    crashed: bool = False

    def flat(self) -> dict[str, Any]:
        """One row of a table: choices that are no scalars as JSON."""
        told = {path: label(value) for path, value in self.point.items()}
        whole = {
            "trial": self.number,
            "name": self.name,
            "state": self.state,
            "rungs": self.rungs,
            "version": self.version,
        }
        ends = {"front": self.front, "within_bound": self.within, "error": self.error, "crashed": self.crashed}
        return whole | told | self.figures | ends


@dataclass(frozen=True)
class Importance:
    """How much of a figure's variation over finished trials each parameter explains, by fANOVA; shares of 1.

    Args:
        shares: by config path; empty where nothing could be told.
        reason: why not.
    """

    shares: dict[str, float]
    reason: str = ""


def rows_of(study: StudyConfig, records: Sequence[dict[str, Any]]) -> list[Row]:
    """A row per record of `trial.read_records`."""
    found = []
    for number, one in enumerate(records, 1):
        last = one["rungs"][-1] if one["rungs"] else {}
        error = one["error"] or one["crash"]
        state = "failed" if error else "finished" if one["over"] else "stopped"
        figures = {name: float(last.get(name, math.nan)) for name in (*FIGURES, *MORE)}
        within = figures["kl"] <= study.kl_bound
        name, seconds = Path(one["folder"]).name, one["ended"] - one["began"]
        found.append(
            Row(
                number=number,
                name=name,
                point=one["point"],
                state=state,
                rungs=len(one["rungs"]),
                version=last.get("version", 0),
                figures=figures,
                front=False,
                within=within,
                seconds=seconds,
                error=error,
                crashed=one["crash"] is not None,
            )
        )
    return with_front(found)


def with_front(rows: list[Row]) -> list[Row]:
    """Rows that know whether they are on the Pareto front of the finished trials."""
    finished = [row for row in rows if row.state == "finished"]
    on = on_frontier([row.figures["kl"] for row in finished], [row.figures["reward"] for row in finished])
    front = {row.name for row, yes in zip(finished, on, strict=True) if yes}
    return [replace(row, front=row.name in front) for row in rows]


def winner(rows: Sequence[Row]) -> Row | None:
    """The finished trial with the highest reward within the bound, of equals that with less KL; None without one.

    One of whose reward nothing is known is no winner: a NaN is neither above nor below another.
    """
    fit = [row for row in rows if row.state == "finished" and row.within and math.isfinite(row.figures["reward"])]
    return max(fit, key=lambda row: (row.figures["reward"], -row.figures["kl"]), default=None)


def importances(space: Space, rows: Sequence[Row], figure: str, seed: int) -> Importance:
    """Importance of each parameter for a figure of the finished trials.

    Args:
        space: of the study.
        rows: of `rows_of`.
        figure: "reward" or "kl".
        seed: of the forest.
    """
    finished = [row for row in rows if row.state == "finished" and math.isfinite(row.figures[figure])]
    if len(finished) < FEW:
        return Importance({}, f"{len(finished)} finished trials; at least {FEW} are needed")
    if len({row.figures[figure] for row in finished}) == 1:
        return Importance({}, f"all finished trials have the same {figure}")
    known = {path: one for path, one in distributions(space).items() if not one.single()}
    if not known:
        return Importance({}, "no parameter has two values")
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental features of optuna, which a reader cannot act upon
            table = optuna.create_study(direction="maximize")
            for row in finished:
                point = {path: label(row.point[path]) for path in known}
                table.add_trial(optuna.create_trial(params=point, distributions=known, value=row.figures[figure]))
            shares = get_param_importances(table, evaluator=FanovaImportanceEvaluator(seed=seed))
    finally:
        optuna.logging.set_verbosity(level)
    return Importance({path: float(share) for path, share in shares.items()})


def best_config(study: StudyConfig, row: Row, base: RunConfig) -> RunConfig:
    """The winner's config under the base's own output, as a run of its own."""
    found = trial_config(study, row.point)
    return found.model_copy(update={"name": f"{study.name}-best", "output": base.output})


def write_tables(root: str, rows: Sequence[Row]) -> None:
    """trials.csv and trials.parquet."""
    flat = [row.flat() for row in rows]
    columns: dict[str, pa.Array] = {}
    for name in flat[0]:
        values = [one[name] for one in flat]
        kinds = {type(value) for value in values if value is not None}
        if len(kinds) > 1 and not kinds <= {int, float}:  # choices of several kinds
            values = [None if value is None else json.dumps(value) for value in values]
        columns[name] = pa.array([float(v) for v in values] if kinds == {int, float} else values)
    table = pa.table(columns)
    pq.write_table(table, Path(root, "trials.parquet"))
    pacsv.write_csv(
        pa.table({n: c.cast(pa.string()) if pa.types.is_null(c.type) else c for n, c in columns.items()}),
        Path(root, "trials.csv"),
    )


def write_best(root: str, config: RunConfig) -> Path:
    """best.yaml, which `raypo train` or `raypo run` takes as it is."""
    place = Path(root, "best.yaml")
    place.write_text(as_yaml(config), encoding="utf-8")
    return place
