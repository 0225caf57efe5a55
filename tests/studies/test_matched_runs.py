"""The online study's analysis on written runs, without Ray: paths by arithmetic, verdicts from numbers."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raypo.config import build
from raypo.errors import ConfigError, DataError
from raypo.online.folder import RunFolder
from raypo.records import SCORED
from raypo.stages import tables
from raypo.stages.cluster import objective_of
from raypo.studies import matched, online
from raypo.studies.catalogue import entry
from raypo.studies.matched import Run
from raypo.studies.result import Setting
from raypo.studies.write import told, write

PROMPTS = 24


def path(condition: str, seed: int, slope: float, kl: tuple[float, ...] = (0.0, 1.0, 4.0), other: float = 0.0) -> Run:
    """A run whose mean reward is slope * sqrt(KL) over a start of 0, its prompts spread around it."""
    rng = np.random.default_rng(seed)
    spread = 0.02 * rng.normal(size=(len(kl), PROMPTS))
    noise = spread - spread.mean(1, keepdims=True)
    grown = np.sqrt(np.array(kl))[:, None]
    return Run(condition, seed, np.array(kl), slope * grown + noise, other * grown + noise, "quality")


def test_runs_are_compared_where_the_one_that_moved_less_ended() -> None:
    """To 4 nats and to 1: at 1 nat, 0.5 against 0.3. In the root of KL both paths are straight: at 2.25 it is 1.5."""
    far, near = path("w-mpo", 0, 0.5), path("dpo", 0, 0.3, (0.0, 1.0))
    kl, gain = matched.differences(far, near)
    assert (kl, gain.shape) == (1.0, (PROMPTS,))
    assert gain.mean() == pytest.approx(0.2)
    kl, gain = matched.differences(far, path("dpo", 0, 0.3, (0.0, 2.25)))
    assert (kl, gain.mean()) == (2.25, pytest.approx(0.3))
    assert matched.differences(path("w-mpo", 0, 0.5, other=0.1), path("dpo", 0, 0.3, other=0.3), second=True)[
        1
    ].mean() == pytest.approx(-0.4)


def test_a_run_whose_kl_is_no_number_has_no_place_of_comparison() -> None:
    broken = path("mpo", 3, 0.5, (0.0, float("nan"), 4.0))
    for pair in ((broken, path("dpo", 3, 0.3)), (path("dpo", 3, 0.3), broken)):
        with pytest.raises(DataError, match="mpo of seed 3 has a KL of nan at version 1"):
            matched.differences(*pair)


def test_a_version_that_a_run_left_again_decides_nothing() -> None:
    """KL 0, 4, 1 with rewards 0, 9, 2: the run ends at 1 nat with 2. The other goes on: 0, 1, 4 with 0, 1, 3.

    At 1 nat, where the first ended, 2 - 1 = 1; at the largest KL of both, 4, it were 9 - 3.
    """

    def run(kl: tuple[float, ...], rewards: tuple[float, ...]) -> Run:
        return Run("a", 0, np.array(kl), np.array(rewards)[:, None])

    back, on = run((0, 4, 1), (0, 9, 2)), run((0, 1, 4), (0, 1, 3))
    assert [(kl, gain.tolist()) for kl, gain in (matched.differences(back, on), matched.differences(on, back))] == [
        (1.0, [1.0]),
        (1.0, [-1.0]),
    ]
    # an estimate below 0 is the start's own KL
    kl, gain = matched.differences(run((0, -0.1), (0, 2)), on)
    assert (kl, gain.tolist()) == (0.0, [2.0])


def runs_of(effects: dict[str, float], seeds: int = 5) -> list[Run]:
    """DPO of slope 0.3, and conditions that grow so much faster."""
    return [path(name, seed, 0.3 + more, other=0.1) for name, more in effects.items() for seed in range(seeds)]


def test_a_claim_that_is_true_by_construction_holds_and_its_opposite_fails() -> None:
    better = runs_of({"dpo": 0.0, "mallows-theta": 0.2, "w-mpo": 0.3})
    found = online.concluded(better, {})
    assert found.verdict == "holds"
    gains = {row.condition: row for row in found.rows if row.measure == matched.GAIN}
    assert gains["w-mpo, 4.00 nats"].effect == pytest.approx(0.6)  # 0.3 more in each root nat, at 4 nats
    assert (gains["w-mpo, 4.00 nats"].n, gains["w-mpo, 4.00 nats"].seeds) == (PROMPTS, 5)
    assert "w-mpo, 4.00 nats +0.600" in found.finding
    assert "confirmed" in found.finding
    worse = online.concluded(runs_of({"dpo": 0.0, "mallows-theta": -0.2, "w-mpo": -0.3}), {})
    assert worse.verdict == "fails"
    assert "the opposite" in worse.finding
    assert "confirmed" not in worse.finding
    assert "more reward than DPO at the same KL is refuted for mallows-theta and w-mpo; the reward" in worse.finding
    assert online.concluded(runs_of({"dpo": 0.0, "mallows-theta": 0.2, "w-mpo": -0.3}), {}).verdict == "mixed"


def test_a_gain_is_tested_against_what_matters_as_well() -> None:
    """Of all prompts and seeds 0.1, which is just what matters: p is 1 above, and 0 against 0 and -0.1."""
    row = matched._combined("mpo", matched.GAIN, [(1.0, np.full(PROMPTS, matched.MATTERS))] * 3, tested=True)
    assert (row.p, row.p_up, row.p_down) == (0.0, 1.0, 0.0)


def test_what_is_not_claimed_decides_nothing() -> None:
    """And is told in words, as the reward is that nobody trained on: of all runs the same, so their difference is 0."""
    found = online.concluded(runs_of({"dpo": 0.0, "w-mpo": 0.3, "simpo": -0.3}), {})
    assert (
        "That a condition has more reward than DPO at the same KL is confirmed for w-mpo; simpo against DPO is worse; "
        "the reward that was never trained on, against DPO's, is not told apart with w-mpo and simpo."
    ) in found.finding
    assert online.concluded(runs_of({"dpo": 0.0, "w-mpo": 0.3, "simpo": -0.3}), {}).verdict == "holds"


def test_two_seeds_that_disagree_are_undecided() -> None:
    runs = [path("dpo", 0, 0.3), path("dpo", 1, 0.3), path("w-mpo", 0, 0.5), path("w-mpo", 1, 0.2)]
    found = online.concluded(runs, {})
    assert found.verdict == "undecided"
    (gain,) = (row for row in found.rows if row.measure == matched.GAIN)
    assert gain.low < 0 < gain.effect < gain.high
    assert gain.power < 0.5


def write_run(folder: RunFolder, means: list[float], kl: list[float]) -> None:
    """Evaluations of as many versions; every prompt has two responses, 0.1 above and below its mean."""
    for version, (mean, far) in enumerate(zip(means, kl, strict=True)):
        rows = []
        for prompt in range(4):
            middle = mean + 0.2 * (prompt % 2)
            rewards = [middle - 0.1, middle + 0.1]
            given: dict[str, Any] = dict.fromkeys(SCORED.names)
            given |= {"prompt_id": f"{prompt:04d}", "rewards": rewards, "usable": [True, True]}
            given["reward_values"] = [{"name": "quality", "values": [1.0, 3.0]}, {"name": "panel", "values": rewards}]
            rows.append(given)
        facts = {"version": version, "evaluation": {"kl_per_response": {"mean": far}}}
        tables.commit(folder.evaluation(version), pa.Table.from_pylist(rows, schema=SCORED), "scored", facts)


def test_a_run_is_read_in_spreads_of_its_start(tmp_path: Path) -> None:
    """Start: responses -0.1, 0.1, 0.1, 0.3 twice: mean 0.1, spread sqrt(0.02). One version later 0.1 higher."""
    config = build({"output": str(tmp_path), "policy": {"path": "p"}, "prompts": {"path": "q"}})
    folder = RunFolder(config)
    write_run(folder, [0.0, 0.1], [1e-9, 0.5])
    run = matched.read("dpo", 3, folder, "quality")
    assert run.kl.tolist() == [0.0, 0.5]
    assert run.rewards[0].tolist() == pytest.approx([0, 2 * 0.1 / 0.02**0.5] * 2)
    assert (run.rewards[1] - run.rewards[0]).tolist() == pytest.approx([0.1 / 0.02**0.5] * 4)
    assert run.other is not None
    assert run.other[0].tolist() == [2.0] * 4  # spread 1
    assert matched.read("dpo", 3, folder, None).other is None
    assert run.prompts == ("0000", "0001", "0002", "0003")
    with pytest.raises(DataError, match="0 evaluated versions"):
        matched.read("dpo", 3, RunFolder(config.model_copy(update={"name": "none"})), None)


def test_runs_on_other_prompts_are_not_paired(tmp_path: Path) -> None:
    runs = [replace(run, prompts=("a", "b")) for run in runs_of({"dpo": 0.0, "w-mpo": 0.3}, seeds=2)]
    assert len(matched.rows_of(runs)) == 6
    with pytest.raises(DataError, match=r"w-mpo of seed 1 was evaluated on other prompts than dpo of seed 0"):
        matched.rows_of([*runs[:3], replace(runs[3], prompts=("b", "a"))])


def test_a_folder_holds_one_study(tmp_path: Path) -> None:
    """Seeds 0 and 1 of the quickstart both have a run (dpo, 1) of one config, with another model and other prompts."""
    zero, one = (Setting(True, seed=seed, place=tmp_path / "a") for seed in (0, 1))
    online.same_study(zero)
    online.same_study(zero)
    online.same_study(replace(zero, quick=False, options={"seeds": "5", "conditions": "mpo"}))
    with pytest.raises(ConfigError, match=r"holds a study with seed: 0\n  expected: seed: 1\n.*another --out"):
        online.same_study(one)
    given = {"config": "x.yaml"}
    with pytest.raises(ConfigError, match=r"base: the quickstart's, seed: 0\n  expected: base: a given config"):
        online.same_study(replace(zero, options=given))
    # a given config's model and prompts are the same for every seed
    for seed in (0, 1):
        online.same_study(Setting(True, seed=seed, options=given, place=tmp_path / "b"))


@pytest.mark.parametrize(("model", "base"), [(True, online.QUICKSTART), (False, online.GIVEN)])
def test_a_folder_without_a_record_is_told_by_its_runs(tmp_path: Path, model: bool, base: str) -> None:
    """Runs of seeds 3 and 4: a study of seed 3 goes on."""
    for name in ("dpo-seed3", "mpo-seed3", "dpo-seed4", *(["../policy"] if model else [])):
        (tmp_path / "runs" / name).mkdir(parents=True)
    other = Setting(True, seed=4, place=tmp_path, options={} if model else {"config": "x.yaml"})
    if model:
        with pytest.raises(ConfigError, match="seed: 3"):
            online.same_study(other)
    online.same_study(replace(other, seed=3))
    assert json.loads((tmp_path / online.RECORD).read_text())["base"] == base


def test_the_files_hold_every_run(tmp_path: Path) -> None:
    found = online.concluded(runs_of({"dpo": 0.0, "w-mpo": 0.3}, seeds=2), {"seeds": [0, 1]})
    run = {"command": "raypo study online", "environment": {}, "seconds": 1.0, "seed": 0, "quick": True}
    paths = write(tmp_path, told("online", entry("online"), found, run), found)
    assert {path.name for path in paths} == {"result.json", "table.csv", "frontier.svg", "effects.svg", "page.html"}
    stored = json.loads((tmp_path / "result.json").read_text())
    assert [(one["condition"], one["seed"]) for one in stored["settings"]["runs"]] == [
        ("dpo", 0), ("dpo", 1), ("w-mpo", 0), ("w-mpo", 1)
    ]  # fmt: skip
    assert stored["settings"]["runs"][2]["kl"] == [0.0, 1.0, 4.0]


def test_conditions_and_seeds(tmp_path: Path) -> None:
    full = Setting(False, place=tmp_path)
    assert online.matrix(full) == (list(online.CONDITIONS), [0, 1, 2, 3, 4])
    assert online.matrix(replace(full, quick=True, seed=7)) == (["dpo", "mallows-mpo"], [7, 8])
    chosen = replace(full, options={"conditions": "simpo,mpo", "seeds": "3"})
    assert online.matrix(chosen) == (["dpo", "simpo", "mpo"], [0, 1, 2])
    for wrong in (
        {"conditions": "dpo"},
        {"conditions": "mpo,ppo"},
        {"seeds": "1"},
        {"seeds": "many"},
        {"seeds": "\u00b2"},
    ):
        with pytest.raises(ConfigError, match=r"conditions=|seeds="):
            online.matrix(replace(full, options=wrong))


@pytest.mark.parametrize("condition", online.CONDITIONS)
def test_every_condition_is_a_run_of_the_quickstart_with_another_objective(condition: str, tmp_path: Path) -> None:
    setting = Setting(True, place=tmp_path, most=8)
    tree = online.base(setting)
    config = online.config_of(tree, condition, 3, tmp_path / "runs")
    assert (config.name, config.seed, config.online.rounds, config.evaluation.num_prompts) == (
        f"{condition}-seed3",
        3,
        3,
        8,
    )
    objective = objective_of(config)
    assert objective.name == condition
    assert config.objective.hyperparameters["beta"] == (2.0 if condition == "simpo" else 1.0)
    assert (config.dispersion.estimator == "none") == (condition not in online.DISPERSED)
    assert online.second_of(config) == "quality"
    other = online.config_of(tree, "dpo", 3, tmp_path / "runs")
    changed = {"name", "objective", "dispersion"}
    assert config.model_dump(exclude=changed) == other.model_dump(exclude=changed)


def test_a_given_config_is_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project's own recipe, with a model and prompts given as overrides."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    stories = Path(__file__).parents[2] / "jobs" / "stories.yaml"
    given = {"config": str(stories), "policy.path": "m", "prompts.path": "p", "seeds": "2"}
    config = online.config_of(online.base(Setting(False, options=given)), "mallows-mpo", 1, tmp_path)
    assert (config.policy.path, config.prompts.path, config.training.learning_rate) == ("m", "p", 6e-5)
    assert config.dispersion.estimator == "reference_entropy"  # its own is none
    assert online.second_of(config) == "distinct_words"
    # all of the base's section on dispersion stays, where there is an estimator
    shuffled = online.base(Setting(False, options=given | {"dispersion.shuffle": "true", "dispersion.scale": "0.29"}))
    told = online.config_of(shuffled, "mallows-mpo", 1, tmp_path).dispersion
    assert (told.estimator, told.shuffle, told.scale) == ("reference_entropy", True, 0.29)
    assert not online.config_of(shuffled, "mpo", 1, tmp_path).dispersion.shuffle
    assert str(stories.parent) in sys.path
    # with --quick as many rounds and prompts as the quickstart's at most, and as overrides say
    quick = online.base(Setting(True, options=given | {"online.rounds": "9", "evaluation.num_prompts": "32"}))
    sizes = online.config_of(quick, "dpo", 1, tmp_path)
    assert (sizes.online.rounds, sizes.online.prompts_per_round, sizes.evaluation.num_prompts) == (9, 192, 32)
    assert online.limited({"online": {"rounds": 5, "prompts_per_round": 20}, "evaluation": "all"}, ()) == {
        "online": {"rounds": 3, "prompts_per_round": 20},
        "evaluation": "all",  # no section: for the config to refuse
    }
    assert online.limited({}, ("online",)) == {"evaluation": {"num_prompts": 64}}
    with pytest.raises(ConfigError, match=r"no option 'policy\.path'"):
        online.base(Setting(False, options={"policy.path": "m"}))
