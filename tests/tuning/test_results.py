"""From records to rows, a winner, a front, importances and tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from raypo.tuning.results import FIGURES, MORE, importances, rows_of, winner, write_tables
from raypo.tuning.study import StudyConfig, build
from raypo.tuning.telling import warnings_of
from raypo.tuning.trial import worth


def study(**space: Any) -> StudyConfig:
    base = {"policy": {"path": "p"}, "prompts": {"path": "s"}}
    return build({"base": base, "space": space or {"objective.beta": [0.1, 0.5]}, "trials": 4, "kl_bound": 4.0})


def record(number: int, reward: float, kl: float, *, over: bool = True, error: str | None = None, **point: Any) -> dict:
    last = dict.fromkeys((*FIGURES, *MORE), 0.0) | {"rung": 2, "version": 2, "reward": reward, "kl": kl}
    return {
        "began": float(number), "ended": number + 2.5, "point": point or {"objective.beta": 0.1}, "over": over,
        "error": error, "rungs": [] if error else [last | {"rung": 1}, last], "folder": f"/x/trial-{number}",
    }  # fmt: skip


RECORDS = [
    record(1, 1.0, 1.0),
    record(2, 3.0, 5.0),  # the best reward, beyond the bound of 4
    record(3, 2.0, 2.0),
    record(4, 2.5, 3.0, over=False),  # better than 3, and stopped before its end
    record(5, 2.0, 3.0),  # the reward of 3 at more KL
    record(6, 0.0, 0.0, error="no"),
]


def test_the_winner_is_the_best_finished_trial_within_the_bound() -> None:
    rows = rows_of(study(), RECORDS)
    assert [row.state for row in rows] == ["finished", "finished", "finished", "stopped", "finished", "failed"]
    best = winner(rows)
    assert best is not None
    assert (best.number, best.seconds, best.version) == (3, 2.5, 2)
    assert winner(rows[1:2]) is None
    assert "no winner" in warnings_of(rows[1:2], None, None)[-1]


def test_the_front_has_finished_trials_that_nobody_beats_at_both() -> None:
    """1 at (1, 1), 3 at (2, 2), 2 at (3, 5); 5 has the reward of 3 at more KL; 4 never finished."""
    assert [row.number for row in rows_of(study(), RECORDS) if row.front] == [1, 2, 3]


def test_a_policy_beyond_the_bound_is_worth_the_start() -> None:
    assert worth(3.0, 4.0, 1.0, kl_bound=4.0) == 3.0
    assert worth(3.0, 4.1, 1.0, kl_bound=4.0) == 1.0


def test_importance_finds_the_parameter_that_matters() -> None:
    """Reward is the logarithm of the learning rate; beta is drawn beside it and does nothing."""
    rng = np.random.default_rng(0)
    space = {"training.learning_rate": {"low": 1e-6, "high": 1e-2, "log": True}, "objective.beta": [0.1, 0.5]}
    records = []
    for number in range(24):
        rate = float(10 ** rng.uniform(-6, -2))
        point = {"training.learning_rate": rate, "objective.beta": float(rng.choice([0.1, 0.5]))}
        records.append(record(number, np.log10(rate), 1.0, **point))
    one = study(**space)
    shares = importances(one.space, rows_of(one, records), "reward", seed=0).shares
    assert shares["training.learning_rate"] > 0.9
    assert sum(shares.values()) == pytest.approx(1.0)


def test_importance_says_why_there_is_none() -> None:
    one = study()
    rows = rows_of(one, RECORDS)
    assert (
        "all finished trials have the same kl"
        in importances(one.space, rows_of(one, [record(i, float(i), 1.0) for i in range(5)]), "kl", seed=0).reason
    )
    assert importances(one.space, rows[:2], "reward", seed=0).reason == "2 finished trials; at least 4 are needed"


def test_both_tables_hold_every_trial(tmp_path: Path) -> None:
    """Choices of several kinds become JSON text; a failed trial has no figures."""
    kinds = [None, "linear", {"kind": "linear"}, 0.5, 1, 2]
    one = study(**{"objective.prior": kinds})
    records = [record_ | {"point": {"objective.prior": kind}} for record_, kind in zip(RECORDS, kinds, strict=True)]
    write_tables(str(tmp_path), rows_of(one, records))
    stored, read = pq.read_table(tmp_path / "trials.parquet"), pacsv.read_csv(tmp_path / "trials.csv")
    assert stored.num_rows == read.num_rows == 6
    assert stored.column_names == read.column_names
    assert stored["reward"].to_pylist()[:5] == [1.0, 3.0, 2.0, 2.5, 2.0]
    assert np.isnan(stored["reward"].to_pylist()[5])
    assert stored["objective.prior"].to_pylist()[:2] == [None, '"linear"']
