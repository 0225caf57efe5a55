"""From records to rows, a winner, a front, importances and tables."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.tune.experiment import Trial

from raypo.errors import EngineError
from raypo.stages import tables
from raypo.tuning.results import FIGURES, MORE, importances, rows_of, winner, write_tables
from raypo.tuning.search import Told
from raypo.tuning.space import trial_config
from raypo.tuning.study import StudyConfig, build
from raypo.tuning.telling import warnings_of
from raypo.tuning.trial import CRASH, RECORD, TOLD, read_records, told, worth, write_crash


def study(**space: Any) -> StudyConfig:
    base = {"policy": {"path": "p"}, "prompts": {"path": "s"}}
    return build({"base": base, "space": space or {"objective.beta": [0.1, 0.5]}, "trials": 4, "kl_bound": 4.0})


def record(number: int, reward: float, kl: float, *, over: bool = True, error: str | None = None, **point: Any) -> dict:
    last = dict.fromkeys((*FIGURES, *MORE), 0.0) | {"rung": 2, "version": 2, "reward": reward, "kl": kl}
    return {
        "began": float(number), "ended": number + 2.5, "point": point or {"objective.beta": 0.1}, "over": over,
        "error": error, "rungs": [] if error else [last | {"rung": 1}, last], "folder": f"/x/trial-{number}",
        "crash": None,
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


def test_a_trial_of_unknown_reward_is_told_of_and_never_the_winner(capsys: pytest.CaptureFixture[str]) -> None:
    """A NaN that comes first would stay the greatest. A fault of the input has a reason; such a rung has none."""
    nothing = record(1, math.nan, 1.0)
    best = winner(rows_of(study(), [nothing, *RECORDS]))
    assert best is not None
    assert best.figures["reward"] == 2.0
    assert winner(rows_of(study(), [nothing])) is None
    trial = Trial("stub", config={"objective.beta": 0.1}, stub=True)
    told_of = Told(study(), 3)
    result = {"reward": math.nan, "kl": 1.0, "rung": 1}
    told_of.on_trial_result(1, [], trial, result)
    told_of.on_trial_result(1, [], trial, result | {"reason": "no rows"})
    told_of.on_trial_result(1, [], trial, result | {"reward": 0.5})
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "trial with objective.beta=0.1: rung 1/3: held-out reward of no response is known, KL 1.00 nats",
        "trial with objective.beta=0.1: cannot be trained: no rows",
        "trial with objective.beta=0.1: rung 1/3: held-out reward 0.500, KL 1.00 nats",
    ]


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


def placed(root: Path, betas: list[float]) -> tuple[StudyConfig, list[Path]]:
    """A study below a folder, and the folders of its trials."""
    one = study(**{"objective.beta": betas}).model_copy(update={"output": str(root)})
    names = [trial_config(one, {"objective.beta": beta}).name for beta in betas]
    return one, [root / "study" / "trials" / name for name in names]


def test_a_crashed_trial_is_failed_with_its_message_whatever_it_had_done(tmp_path: Path) -> None:
    """Of four: one over; one that crashed after a rung; one in its first, without a record; one stopped by ASHA."""
    betas = [0.1, 0.2, 0.3, 0.4]
    one, folders = placed(tmp_path, betas)
    for number in (0, 1, 3):
        made = record(number, 1.0, 1.0, over=number == 0, **{"objective.beta": betas[number]})
        tables.write_json(
            str(folders[number] / RECORD), {k: v for k, v in made.items() if k not in ("folder", "crash")}
        )
    for number in (0, 1, 2):
        write_crash(one, {"objective.beta": betas[number]}, EngineError("the node died"))
    rows = {row.point["objective.beta"]: row for row in rows_of(one, read_records(str(tmp_path / "study")))}
    assert {beta: row.state for beta, row in rows.items()} == {
        0.1: "finished", 0.2: "failed", 0.3: "failed", 0.4: "stopped"
    }  # fmt: skip
    assert [(rows[beta].error, rows[beta].crashed, rows[beta].rungs) for beta in betas] == [
        (None, False, 2), ("the node died", True, 2), ("the node died", True, 0), (None, False, 2)
    ]  # fmt: skip
    assert np.isnan(rows[0.3].figures["reward"])
    warned = warnings_of(list(rows.values()), rows[0.1], None)
    assert warned[0] == "2 of 4 trials crashed, and the same command tries them again: the node died"
    flat = rows[0.2].flat()
    assert (flat["state"], flat["crashed"], flat["error"]) == ("failed", True, "the node died")


def test_a_fault_of_the_input_is_no_crash(tmp_path: Path) -> None:
    """The trial said itself why it cannot train; that its process died as well does not make it worth another try."""
    one, folders = placed(tmp_path, [0.1])
    made = record(1, 0.0, 0.0, error="none of 8 sets can train", **{"objective.beta": 0.1})
    tables.write_json(str(folders[0] / RECORD), made)
    write_crash(one, {"objective.beta": 0.1}, EngineError("died"))
    (row,) = rows_of(one, read_records(str(tmp_path / "study")))
    assert (row.state, row.crashed, row.error) == ("failed", False, "none of 8 sets can train")
    assert warnings_of([row], None, None)[0] == "1 of 1 trials failed: none of 8 sets can train"


def test_a_folder_that_only_began_is_no_trial(tmp_path: Path) -> None:
    one, folders = placed(tmp_path, [0.1])
    folders[0].mkdir(parents=True)
    (folders[0] / "lock").touch()
    assert read_records(str(tmp_path / "study")) == []
    write_crash(one, {"objective.beta": 0.1}, EngineError("died"))
    assert (folders[0] / CRASH).exists()
    assert len(read_records(str(tmp_path / "study"))) == 1


def test_an_error_is_told_without_rays_wrapping() -> None:
    """What Tune has is Ray's text of the stack; a reader is told what was raised, in a line of bounded length."""
    wrapped = RayTaskError("step", "Traceback\n  File x\nOSError: full", OSError("no space left"))
    assert told(wrapped) == "OSError: no space left"
    assert told(RayTaskError("step", "Traceback", EngineError("engine 0 died", "an answer"))) == (
        "engine 0 died expected: an answer"
    )
    assert "died" in told(ActorDiedError())
    assert len(told(ValueError("x" * 5000))) == TOLD
    assert "hunter2" not in told(OSError("cannot reach s3://me:hunter2@bucket"))
