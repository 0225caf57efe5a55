"""A study and its space: what is refused, and what a point becomes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from raypo.errors import ConfigError
from raypo.tuning import space
from raypo.tuning.study import Range, StudyConfig, anchored, base_of, build, evaluation_of, load

BASE: dict[str, Any] = {
    "policy": {"path": "policy"},
    "prompts": {"path": "sets.jsonl"},
    "rewards": [{"name": "ones", "path": "rewards:ones"}],
    "objective": {"preset": "dpo"},
}


def study(**changes: Any) -> StudyConfig:
    given = {"base": BASE, "space": {"objective.beta": [0.1, 0.5]}, "trials": 4, "kl_bound": 5.0}
    return build(given | changes)


def test_a_study_in_an_object_store_is_refused() -> None:
    """Its checkpoints would stay in a local folder s3:/...; a password in the address is not told."""
    with pytest.raises(ConfigError, match="a folder") as caught:
        study(output="s3://user:secret@bucket/studies")
    assert "secret" not in str(caught.value)


def test_a_point_becomes_a_config_whose_name_is_the_points() -> None:
    """The same values in another order are the same trial; another value is another."""
    one = study(space={"objective.beta": [0.1, 0.5], "training.learning_rate": {"low": 1e-6, "high": 1e-3}})
    config = space.trial_config(one, {"objective.beta": 0.5, "training.learning_rate": 1e-5})
    assert (config.objective.hyperparameters["beta"], config.training.learning_rate) == (0.5, 1e-5)
    assert config.output == "studies/study/trials"
    again = space.trial_config(one, {"training.learning_rate": 1e-5, "objective.beta": 0.5})
    other = space.trial_config(one, {"training.learning_rate": 2e-5, "objective.beta": 0.5})
    assert config.name == again.name != other.name


def test_paths_that_exist_are_absolute_in_every_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Tune's trials stand in other folders. A name that is no file here, as of a model on the hub, stays."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("policy\U0001f600", "judge"):  # JSON writes the one behind as two halves of a pair, which YAML keeps
        (tmp_path / name).mkdir()
    for name in ("sets.jsonl", "judge.txt"):
        (tmp_path / name).touch()
    rewards = [*BASE["rewards"], {"name": "model", "type": "model", "path": "judge"}]
    given = {
        "policy": {"path": "policy\U0001f600"},
        "prompts": {"path": "sets.jsonl", "heldout_path": "someone/sets"},
        "rewards": rewards,
        "evaluation": {"judge": {"url": "http://localhost:9/v1", "model": "m", "template": "judge.txt"}},
    }
    rewards = [*rewards, {"name": "home", "type": "model", "path": "~/judge"}]
    found = anchored(study(base=BASE | given, rewards=rewards, output="~/studies"))
    monkeypatch.chdir("/")
    trial = space.trial_config(found, {"objective.beta": 0.5})
    assert trial.policy.path == str(tmp_path / "policy\U0001f600")
    assert (trial.prompts.path, trial.prompts.heldout_path) == (str(tmp_path / "sets.jsonl"), "someone/sets")
    assert trial.evaluation.judge is not None
    assert trial.evaluation.judge.template == str(tmp_path / "judge.txt")
    judge = str(tmp_path / "judge")
    assert [one.path for one in trial.rewards] == ["rewards:ones", judge]  # type: ignore[union-attr]
    assert [one.path for one in found.rewards] == ["rewards:ones", judge, judge]  # type: ignore[union-attr]
    assert trial.output == str(tmp_path / "studies" / "study" / "trials")
    assert anchored(found) == found


def test_a_choice_reaches_its_trial_as_it_is() -> None:
    """Signs beyond 16 bits, and one that YAML does not print; what a key leads into stays as the study has it."""
    text, judge = "\U0001f600\x7f", {"url": "http://localhost:9/v1", "model": "m"}
    point = {"evaluation.judge": judge, "evaluation.judge.model": text}
    trial = space.trial_config(study(), point)
    assert trial.evaluation.judge is not None
    assert (trial.evaluation.judge.model, judge["model"]) == (text, "m")


def test_an_online_trial_is_bound_by_the_studys_kl() -> None:
    config = space.trial_config(
        study(form="online", space={"sampling.num_responses": [2, 4]}), {"sampling.num_responses": 4}
    )
    assert (config.online.kl_bound, config.sampling.num_responses) == (5.0, 4)


def test_ranges_choices_and_mappings_are_what_search_libraries_take() -> None:
    parts = {
        "training.learning_rate": Range(low=1e-6, high=1e-3, log=True),
        "online.epochs_per_round": Range(low=1, high=4),
        "objective.prior": [None, {"kind": "linear"}],
    }
    assert space.distributions(parts) == {
        "training.learning_rate": FloatDistribution(1e-6, 1e-3, log=True),
        "online.epochs_per_round": IntDistribution(1, 4),
        "objective.prior": CategoricalDistribution([None, '{"kind": "linear"}']),
    }
    drawn = {
        "training.learning_rate": 1.23456e-5,
        "online.epochs_per_round": 2,
        "objective.prior": '{"kind": "linear"}',
    }
    assert space.point_of(parts, drawn) == {
        "training.learning_rate": 1.235e-5,  # four digits
        "online.epochs_per_round": 2,
        "objective.prior": {"kind": "linear"},
    }


def test_rounding_never_leaves_the_range() -> None:
    """0.99996 rounds to 1.000, above a bound of 0.99998."""
    parts = {"objective.beta": Range(low=0.1, high=0.99998)}
    assert space.point_of(parts, {"objective.beta": 0.99996}) == {"objective.beta": 0.99998}


def test_a_grid_has_its_points() -> None:
    """1e-6, 1e-5, 1e-4, 1e-3 and 1, 2, 4 (three of 1 to 4 by logarithm: 1, 2, 4): 12 points with the choice of one."""
    parts = {
        "training.learning_rate": Range(low=1e-6, high=1e-3, log=True, points=4),
        "online.epochs_per_round": Range(low=1, high=4, log=True, points=3),
        "objective.preset": ["dpo"],
    }
    assert space.grid_values(parts["training.learning_rate"]) == [1e-6, 1e-5, 1e-4, 1e-3]
    assert space.grid_values(parts["online.epochs_per_round"]) == [1, 2, 4]
    assert space.size(parts) == 12


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"space": {"prompts.path": ["a", "b"]}}, "prompts.path"),
        ({"space": {"sampling.temperature": [0.5, 1.0]}}, "sampling.temperature"),
        ({"space": {"training.workers": [1, 2]}}, "training.workers"),
        ({"space": {"training": [{"workers": 2}]}}, "training.workers"),
        ({"space": {"objective.betta": [0.1]}}, "betta"),
        ({"space": {"objective.beta": [0.1, -1.0]}}, "beta"),
        ({"space": {"objective.preset": ["dpo", "dpoo"]}}, "dpoo"),
        ({"space": {"training.learning_rate": [1e-4, 0.0]}}, "learning_rate"),
        ({"space": {"objective.preset": ["dpo", "kto"], "scoring.reward_scale": ["none"]}}, "labels beside others"),
        ({"algorithm": "grid", "trials": None, "space": {"objective.beta": {"low": 0.1, "high": 1.0}}}, "points"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused_before_anything_starts(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        space.check(study(**changes))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"trails": 3}, "did you mean 'trials'"),
        ({"kl_bound": None}, "kl_bound"),
        ({"trials": None}, "trials"),
        ({"algorithm": "grid"}, "trials"),
        ({"space": {}}, "space"),
        ({"space": {"objective.beta": {"low": 1.0, "high": 0.1}}}, "low must be below high"),
        ({"space": {"objective.beta": {"low": 0.0, "high": 0.1, "log": True}}}, "above 0"),
        (
            {"space": {"objective.beta": {"low": 0.1, "high": "big"}}},
            r"^space.objective.beta.high = 'big': not a finite number\n  what to do",
        ),
        ({"space": {"objective.beta": {"low": True, "high": 2}}}, r"^space.objective.beta.low = True: not a finite"),
        ({"space": {"objective.beta": {"low": 0.1, "high": float("inf")}}}, "objective.beta.high = inf: not a finite"),
        ({"space": {"objective.beta": {"low": 0.1}}}, r"^space.objective.beta.high must be given\n  what to do"),
        (
            {"space": {"objective.beta": {"low": 0.1, "high": 1, "logg": True}}},
            "unknown key 'space.objective.beta.logg' of a study; did you mean 'log'",
        ),
        ({"space": {"objective.beta": 0.5}}, r"^space.objective.beta = 0.5: neither a range \{low, high\} nor a list"),
        ({"space": {"objective.beta": []}}, r"^space.objective.beta = \[\]: List should have at least 1 item"),
    ],
)
def test_a_study_with_a_fault_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        study(**changes)


def test_a_bound_that_yaml_reads_as_text_is_a_number() -> None:
    """YAML 1.1 reads 1e-6, without a point, as text; 2 and 4 stay whole, and so is what is drawn between them."""
    one = study(space={"training.learning_rate": {"low": "1e-6", "high": 1e-3}}).space["training.learning_rate"]
    assert isinstance(one, Range)
    assert (one.low, one.high, one.whole) == (1e-6, 1e-3, False)
    other = study(space={"online.epochs_per_round": {"low": 2, "high": 4}}).space["online.epochs_per_round"]
    assert isinstance(other, Range)
    assert other.whole


@pytest.mark.parametrize(
    ("form", "path", "why"),
    [
        ("offline", "sampling.num_responses", "given sets have the responses that they have"),
        ("offline", "online.rounds", "a round is a rung"),
        ("offline", "online.min_trainable_fraction", "an offline study has no rounds"),
        ("online", "sampling.temperature", "held-out responses of all trials are drawn alike"),
        ("online", "policy.path", "trials share a start"),
        ("online", "training.workers", "what a trial takes of the cluster"),
        ("online", "online.kl_bound", "all trials are held to the study's kl_bound"),
        ("online", "name", "it changes no policy"),
    ],
)
def test_a_path_that_is_not_searched_is_refused_with_the_reason_and_with_those_that_are(
    form: str, path: str, why: str
) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        space.check(study(form=form, space={path: [1, 2]}))
    assert f"in an {form} study a path below objective, training, dispersion, scoring.reward_scale" in str(caught.value)


@pytest.mark.parametrize(
    ("base", "told"),
    [
        ({"rewards": []}, "no reward source"),
        ({"sampling": {"temperature": 0.7}}, "temperature"),
        ({"training": {"learning_rat": 1}}, "learning_rate"),
    ],
)
def test_a_base_that_cannot_measure_trials_is_refused(base: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        base_of(study(base=BASE | base))


def test_given_rewards_train_and_the_studys_rewards_judge() -> None:
    """The base has none, so trials train on the sets' own; held-out responses are judged by the study's."""
    one = study(base=BASE | {"rewards": []}, rewards=[{"name": "judge", "path": "rewards:ones"}])
    base = base_of(one)
    assert base.rewards == ()
    assert [source.name for source in evaluation_of(one, base).rewards] == ["judge"]
    assert evaluation_of(one, base).online.kl_bound == 5.0


STUDIES = [
    path
    for path in sorted((Path(__file__).parents[2] / "jobs").glob("*.yaml"))
    if "space" in yaml.safe_load(path.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_every_shipped_study_has_a_space_that_can_be_searched(path: Path) -> None:
    one = load(path, ["base.policy.path=p", "base.prompts.path=q"])
    space.check(one)
    assert base_of(one).policy.path == "p"
    with pytest.raises(ConfigError, match="did you mean 'trials'"):
        load(path, ["trals=3"])


def test_a_base_beside_the_study_is_read(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))
    given = {"base": "base.yaml", "space": {"objective.beta": [0.1]}, "trials": 1, "kl_bound": 1.0}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(given))
    assert load(tmp_path / "study.yaml").base == BASE
