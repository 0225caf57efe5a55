"""Studies on the real parts: Ray Tune, vLLM, training; what is stopped, what is resumed, what is left behind."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.csv as pacsv
import pytest
import ray
import yaml
from hf_folders import make_model
from ray.util import placement_group_table

from raypo.errors import ConfigError, DataError, IntegrityError, ModelError, ResourceError
from raypo.stages import tables
from raypo.training.tracking import read_metrics
from raypo.tuning.online import STOPPED
from raypo.tuning.results import winner
from raypo.tuning.run import tune_study
from raypo.tuning.search import concurrency, restored
from raypo.tuning.space import trial_config
from raypo.tuning.study import StudyConfig, build
from raypo.tuning.trial import Trial

RATE = "training.learning_rate"
STEPS = 8  # of a trial: 25 to 32 of 40 sets train, in 4 steps of 8, twice


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and sets of two responses of even words and two of odd ones."""
    folder, draw = tmp_path_factory.mktemp("study"), random.Random(0)
    make_model(folder / "policy", tied=True)
    rows = []
    for i in range(40):
        words = [[f"w{2 * draw.randrange(98) + odd}" for _ in range(6)] for odd in (0, 0, 1, 1)]
        texts = [" ".join(one) for one in words]
        rows.append({"prompt": f"w{i} w{i + 3} w{i + 7}", "responses": texts, "rewards": [1.0, 1.0, 0.0, 0.0]})
    (folder / "sets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_lengths_that_the_model_cannot_hold_are_told_before_anything_starts(place: Path) -> None:
    """256 positions; 250 + 8 tokens. No engine has to start for that."""
    prompts = {"path": str(place / "sets.jsonl"), "heldout_fraction": 0.4, "max_prompt_tokens": 250}
    with pytest.raises(ModelError, match="has 256 positions and the run asks for sequences of 258 tokens"):
        tune_study(build(study_of(place, "long", base={"prompts": prompts})))
    assert not (place / "studies" / "long").exists()


def test_a_dispersion_that_one_trial_is_to_be_given_is_told_before_anything_starts(place: Path) -> None:
    """The base estimates it, and one of two choices of the space does not; the sets have no such column."""
    estimators = {"dispersion.estimator": ["reference_entropy", "given"]}
    objective = {"preset": "mallows-theta"}
    study = build(study_of(place, "known", base={"objective": objective}, space=estimators))
    with pytest.raises(DataError, match="40 of 40 rows have no known dispersion"):
        tune_study(study)
    assert not (place / "studies" / "known").exists()


def study_of(place: Path, name: str, **changes: Any) -> dict[str, Any]:
    base = {
        "output": str(place / "runs"),
        "policy": {"path": str(place / "policy"), "compute_dtype": "float32", "export_dtype": "float32"},
        "prompts": {"path": str(place / "sets.jsonl"), "heldout_fraction": 0.4, "max_prompt_tokens": 16},
        "sampling": {"max_response_tokens": 8, "num_responses": 4},
        "objective": {"preset": "dpo"},
        "training": {"sets_per_step": 8, "schedule": "constant", "workers": 1} | changes.pop("training", {}),
        "online": {"epochs_per_round": 2, "rounds": 2},
        "evaluation": {"num_prompts": 8},
    }
    return {
        "name": name,
        "output": str(place / "studies"),
        "base": base | changes.pop("base", {}),
        "rewards": [{"name": "even", "path": "tests.tuning.words:even"}],
        "space": {RATE: [1e-2, 1e-9]},  # the second leaves the policy where it is
        "algorithm": "grid",
        "rungs": 2,
        "concurrency": 1,
        "kl_bound": 50.0,
        **changes,
    }


def trial(study: dict[str, Any], rate: float) -> tuple[dict[str, Any], Path]:
    """The record and the folder of a learning rate's trial."""
    for path in Path(study["output"], study["name"], "trials").glob("*/trial.json"):
        record = json.loads(path.read_text())
        if record["point"][RATE] == rate:
            return record, path.parent
    raise AssertionError(f"no trial with {rate}")


def wait(what: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def nothing_is_left() -> bool:
    """No placement group of the session is held, and all its CPUs are free."""
    held = [one for one in placement_group_table().values() if one["state"] != "REMOVED"]
    return not held and ray.available_resources()["CPU"] == ray.cluster_resources()["CPU"]


@pytest.mark.chaos
@pytest.mark.parametrize("workers", [1, 2])
def test_asha_stops_a_slow_trial_before_its_next_step_and_frees_what_it_held(
    place: Path, ray_cluster: None, workers: int
) -> None:
    """The second trial, whose policy does not move, does the steps of its first rung alone: half of all."""
    given = study_of(place, f"asha-{workers}", training={"workers": workers})
    summary = tune_study(build(given))
    states = {row[RATE]: (row["state"], row["rungs"]) for row in summary["trials"]}
    assert states == {1e-2: ("finished", 2), 1e-9: ("stopped", 1)}
    steps = {rate: len(read_metrics(trial(given, rate)[1] / "metrics.jsonl")) for rate in (1e-2, 1e-9)}
    assert (steps[1e-9], steps[1e-2]) == (STEPS // 2, STEPS)
    assert summary["best"][RATE] == 1e-2
    assert summary["best"]["gain_low"] > 0
    assert wait(nothing_is_left, 30.0)
    assert "<script" not in Path(given["output"], given["name"], "study.html").read_text()


@pytest.mark.chaos
def test_the_reference_reads_the_sets_once_and_a_trial_that_cannot_train_fails_alone(
    place: Path, ray_cluster: None
) -> None:
    """Rewards are 0 or 1, so no set spans more than 100; the trials of either spread share what the reference said."""
    spread = "scoring.min_reward_spread"
    given = study_of(place, "spread", rungs=1, space={spread: [100.0, 0.0]}, concurrency=2)
    summary = tune_study(build(given))
    assert {row[spread]: row["state"] for row in summary["trials"]} == {100.0: "failed", 0.0: "finished"}
    failed = next(row for row in summary["trials"] if row["state"] == "failed")
    assert failed["error"].startswith("none of ")
    assert failed["reward"] is None
    assert summary["warnings"][0].startswith("1 of 2 trials failed: none of ")
    names = sorted(path.name.split("-")[0] for path in Path(given["output"], "spread", "tables").iterdir())
    assert names == ["plain", "plain", "reference"]


@pytest.mark.chaos
def test_the_same_command_tries_a_crashed_trial_again_and_only_that(place: Path, ray_cluster: None) -> None:
    """A folder stands where the second trial's metrics go, at first: it never ends a rung, and the study ends without.

    Then the folder is gone. The first trial is not stepped again; the third time there is nothing to do.
    """
    given = study_of(place, "crashed", scheduler="none", space={RATE: [1e-2, 3e-3]})
    study = build(given)
    blocked = Path(trial_config(study, {RATE: 3e-3}).output, trial_config(study, {RATE: 3e-3}).name, "metrics.jsonl")
    blocked.mkdir(parents=True)
    first = tune_study(study)
    states = {row[RATE]: (row["state"], row["crashed"], row["rungs"]) for row in first["trials"]}
    assert states == {1e-2: ("finished", False, 2), 3e-3: ("failed", True, 0)}
    assert first["warnings"][0].startswith("1 of 2 trials crashed, and the same command tries them again: IsADirectory")
    assert "the same command tries it again: IsADirectory" in Path(given["output"], "crashed/study.html").read_text()
    _, done = trial(given, 1e-2)
    before = (done / "trial.json").stat().st_mtime_ns
    blocked.rmdir()
    second = tune_study(study)
    states = {row[RATE]: (row["state"], row["crashed"], row["rungs"]) for row in second["trials"]}
    assert states == {1e-2: ("finished", False, 2), 3e-3: ("finished", False, 2)}
    assert not any("crashed" in text for text in second["warnings"])
    assert (done / "trial.json").stat().st_mtime_ns == before
    assert tune_study(study) == tables.read_json(str(Path(given["output"], "crashed", "summary.json")))


def test_no_more_trials_at_once_than_the_cluster_holds(place: Path, ray_cluster: None) -> None:
    """8 CPUs less 2 for Ray Data: six trials of 1, two of 3, none of 7. Where one of Ray's holds 0.1: five, one."""
    study = build(study_of(place, "many", concurrency=100))
    free = ray.available_resources()["CPU"]
    assert free in (8.0, 7.9)
    assert concurrency(study, {"CPU": 1.0}) == (6 if free == 8.0 else 5)
    assert concurrency(study, {"CPU": 3.0, "GPU": 0.0}) == (2 if free == 8.0 else 1)
    with pytest.raises(ResourceError, match="7"):
        concurrency(study, {"CPU": 7.0})


@pytest.mark.chaos
def test_an_online_trial_that_is_stopped_ends_its_run(place: Path, ray_cluster: None) -> None:
    """A round is a rung; the run that goes on makes two versions, the other one."""
    rewards = [{"name": "even", "path": "tests.tuning.words:even"}]
    given = study_of(place, "online", form="online", rewards=[], base={"rewards": rewards})
    summary = tune_study(build(given))
    states = {row[RATE]: (row["state"], row["rungs"]) for row in summary["trials"]}
    assert states == {1e-2: ("finished", 2), 1e-9: ("stopped", 1)}
    stopped = tables.read_json(str(trial(given, 1e-9)[1] / "stop.json"))
    assert stopped == {"reason": STOPPED, "version": 1}
    assert wait(nothing_is_left, 30.0)
    best = yaml.safe_load(Path(given["output"], "online", "best.yaml").read_text())
    assert best["online"]["kl_bound"] == 50.0
    assert Path(summary["best_model"], "model.safetensors").exists()


def raypo(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "raypo.cli", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.chaos
@pytest.mark.timeout(1500)
def test_a_killed_study_goes_on_and_its_winner_can_be_trained_again(place: Path) -> None:
    """Killed when one trial is over and the next has a rung: neither is repeated; `raypo train` repeats the winner."""
    given = study_of(place, "killed", scheduler="none", space={RATE: [1e-2, 3e-3, 1e-3]}, keep="all")
    (place / "killed.yaml").write_text(yaml.safe_dump(given))
    first = raypo("tune", str(place / "killed.yaml"))
    evaluations = Path(given["output"], "killed", "trials")

    def rungs() -> int:
        return sum(1 for _ in evaluations.glob("*/evaluations/version-*/_manifest.json"))

    assert wait(lambda: rungs() >= 3 or first.poll() is not None, 240.0)
    os.kill(first.pid, signal.SIGKILL)
    told = first.communicate()[0]
    assert rungs() >= 3, told
    before = {path: path.stat().st_mtime_ns for path in evaluations.glob("*/evaluations/*/_manifest.json")}
    _, over = trial(given, 1e-2)
    weights = (over / "checkpoints/version-0002/manifest.json").stat().st_mtime_ns
    again = raypo("tune", str(place / "killed.yaml"))
    told = again.communicate(timeout=600)[0]
    assert again.returncode == 0, told
    assert "Traceback" not in told
    assert {path: path.stat().st_mtime_ns for path in before} == before
    # the steps of a finished trial were not done again
    assert len(read_metrics(over / "metrics.jsonl")) == STEPS
    assert (over / "checkpoints/version-0002/model/model.safetensors").stat().st_mtime_ns <= weights + 10**9
    rows = pacsv.read_csv(Path(given["output"], "killed", "trials.csv")).to_pylist()
    assert [(row[RATE], row["state"], row["rungs"]) for row in sorted(rows, key=lambda row: -row[RATE])] == [
        (1e-2, "finished", 2),
        (3e-3, "finished", 2),
        (1e-3, "finished", 2),
    ]
    third = raypo("tune", str(place / "killed.yaml"))
    assert "is finished" in third.communicate(timeout=120)[0]
    summary = tables.read_json(str(Path(given["output"], "killed", "summary.json")))
    same_weights_by_train(place, Path(given["output"], "killed", "best.yaml"), Path(summary["best_model"]))


def same_weights_by_train(place: Path, best: Path, model: Path) -> None:
    """`raypo train` takes best.yaml as it is and makes the trial's own weights, though that trained in two rungs."""
    done = raypo("train", str(best))
    told = done.communicate(timeout=600)[0]
    assert done.returncode == 0, told
    trained = place / "runs/killed-best/checkpoints/version-0001/model/model.safetensors"
    assert trained.read_bytes() == (model / "model.safetensors").read_bytes()


def test_a_torn_record_of_tune_is_told_with_what_to_do(tmp_path: Path, ray_cluster: None) -> None:
    (tmp_path / "tuner.pkl").write_bytes(b"torn")
    with pytest.raises(IntegrityError, match="trials keep their own"):
        restored(str(tmp_path), Trial, {})


def test_what_cannot_be_tuned_is_refused_before_anything_starts(place: Path) -> None:
    def tuned(**changes: Any) -> StudyConfig:
        return build(study_of(place, "refused", **changes))

    with pytest.raises(ConfigError, match="no reward source"):
        tune_study(tuned(rewards=[]))
    none = {"path": str(place / "sets.jsonl"), "heldout_fraction": 0.0, "max_prompt_tokens": 16}
    with pytest.raises(DataError, match="held out"):
        tune_study(tuned(base={"prompts": none}))
    assert not Path(place, "studies", "refused").exists()
    assert winner([]) is None
