"""The config tree: frozen, strict, with the nearest key for a misspelt one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from raypo.config import RunConfig, apply_overrides, as_yaml, build, load, read_yaml, refuse_online
from raypo.errors import ConfigError
from raypo.stages.cluster import Asked, objective_of

LEAST = {"policy": {"path": "p"}, "prompts": {"path": "q"}}
JOBS = [
    path
    for path in sorted((Path(__file__).parents[1] / "jobs").glob("*.yaml"))
    if "space" not in yaml.safe_load(path.read_text(encoding="utf-8"))  # studies: tests/tuning
]
GIVEN = ["policy.path=p", "prompts.path=q"]


@pytest.mark.parametrize(
    ("tree", "told"),
    [
        ({"polcy": {}}, "unknown key 'polcy'; did you mean 'policy'"),
        ({"policy": {"path": "p", "lora_rnk": 2}}, "unknown key 'policy.lora_rnk'; did you mean 'lora_rank'"),
        ({"rewards": [{"type": "http", "name": "a", "ulr": "x"}]}, "unknown key 'rewards.0.ulr'; did you mean 'url'"),
        ({"rewards": [{"type": "htp"}]}, "rewards.0: no reward source of type 'htp'; one of function, model, http"),
        ({"rewards": [3]}, "rewards.0 = 3: a section with keys"),
        ({"rewards": 3}, "rewards = 3: a list is expected"),
        ({"training": None}, "training = None: a section with keys"),
        ({"training": {"workers": 0}}, "training.workers = 0"),
        ({"training": {"schedule": "cosin"}}, "training.schedule = 'cosin'"),
        ({"policy": {}}, "policy.path must be given"),
        ({"policy": {"path": "p", "trust_remote_code": True}}, "trust_remote_code"),
    ],
)
def test_a_fault_is_named_with_its_place(tree: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told.replace("[", r"\[")):
        build(LEAST | tree)


REFUSED = [
    ({"rewards": [{"name": "a", "path": "m:f"}, {"name": "a", "path": "m:g"}]}, "share the name 'a'"),
    ({"rewards": [{"type": "http", "name": "a", "url": "judge:80"}]}, "http://"),
    ({"scoring": {"truncated": "penalty", "truncation_penalty": 0}}, "`keep` under another name"),
    ({"scoring": {"truncation_penalty": 2}}, "scoring.truncated = keep: nothing would read it"),
    ({"policy": {"path": "p", "lora_rank": 4}}, "only with policy.adapter = lora"),
    ({"online": {"data": "accumulate", "reference": "previous"}}, "against older references"),
    ({"online": {"ema_decay": 0.5}}, "only with online.reference = ema"),
    ({"online": {"reference": "ema", "ema_decay": 1.0}}, "always the initial policy"),
    ({"online": {"reference": "ema", "ema_decay": 0.0}}, "always the previous policy"),
    ({"online": {"kl_bound": 2.0}, "sampling": {"temperature": 0.7}}, "an expectation under the policy"),
    ({"online": {"sync": "nccl"}}, "GPUs on both sides"),
    ({"online": {"sync": "host"}, "engine": {"tensor_parallel": 2}}, "an engine of one process"),
    ({"engine": {"backend": "cpu", "tensor_parallel": 2}}, "engine.count"),
    ({"engine": {"max_model_tokens": 100}}, "at least 1280: prompts.max_prompt_tokens 1024"),
    ({"engine": {"backend": "gpu", "kv_cache_gib": 4}}, "only with engine.backend = auto or cpu"),
    ({"prompts": {"path": "q", "heldout_fraction": 1.0}}, "no prompt would be left"),
    ({"prompts": {"path": "q", "heldout_fraction": 0.2, "heldout_path": "h"}}, "nothing would read it"),
    ({"prompts": {"path": "q", "sets_format": "pair", "numbered_prefix": "R"}}, "auto or columns"),
    ({"prompts": {"path": "q", "template_arguments": {"tokenize": True}}}, "template_arguments has tokenize"),
    ({"dispersion": {"estimator": "none", "shuffle": True}}, "dispersion.shuffle = True"),
    ({"dispersion": {"estimator": "none", "scale": 2.0}}, "dispersion.scale = 2.0"),
    ({"dispersion": {"estimator": "given", "scale": 2.0}}, "with dispersion.estimator = given: nothing would read it"),
    ({"cluster": {"placement": "shared"}}, "sharing a GPU is not built"),
    ({"cluster": {"engine_labels": {"role": "a b"}}}, "cluster.engine_labels"),
    ({"cluster": {"trainer_labels": {"": "x"}}}, "cluster.trainer_labels"),
    ({"cluster": {"scorer_labels": {"role": 3}}}, "cluster.scorer_labels"),
    ({"output": "s3://bucket/runs"}, "checkpoints cannot"),
    ({"training": {"adam_beta2": 1.0}}, "less than 1"),
    ({"training": {"learning_rate": float("inf")}}, "finite"),
]


@pytest.mark.parametrize(("tree", "why"), REFUSED, ids=[why for _, why in REFUSED])
def test_a_combination_that_means_nothing_is_refused_with_its_reason(tree: dict[str, object], why: str) -> None:
    with pytest.raises(ConfigError) as refused:
        build(LEAST | tree)
    assert why in str(refused.value)


@pytest.mark.parametrize(
    ("tree", "why"),
    [
        ({"rewards": []}, "every set is a tie"),
        ({"rewards": [{"name": "a", "path": "m:f", "weight": 0}]}, "all weights are 0"),
        ({"sampling": {"num_responses": 1}}, "no preference in it"),
        ({"prompts": {"path": "q", "heldout_fraction": 0}}, "says nothing about others"),
    ],
)
def test_given_sets_can_train_where_an_online_run_is_refused(tree: dict[str, object], why: str) -> None:
    config = build(LEAST | {"rewards": [{"name": "a", "path": "m:f"}]} | tree)
    with pytest.raises(ConfigError) as refused:
        refuse_online(config)
    assert why in str(refused.value)


def test_a_key_given_twice_is_refused_and_not_the_last_one_taken(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("policy: {path: a}\ntraining: {workers: 1}\npolicy: {path: b}\n")
    with pytest.raises(ConfigError, match="key 'policy' is given twice"):
        read_yaml(tmp_path / "run.yaml")


def test_numbers_without_a_point_are_numbers_in_a_file_too(tmp_path: Path) -> None:
    """YAML 1.1 reads 1e-1 as text, which a preset would refuse; what looks like no number stays text."""
    (tmp_path / "run.yaml").write_text("policy: {path: inf}\nprompts: {path: e1}\nobjective: {beta: 1e-1}\n")
    config = load(tmp_path / "run.yaml")
    assert config.objective.hyperparameters == {"beta": 0.1}
    assert (config.policy.path, config.prompts.path) == ("inf", "e1")


ENDLESS = {
    "cyclic list": "template_arguments: {a: &a [*a]}",
    "cyclic mapping": "template_arguments: &a {b: *a}",
    "cyclic key": "template_arguments: &a {? *a : 1}",
    "deep": "template_arguments: {a: " + "[" * 3000 + "]" * 3000 + "}",
    "deep enough": "template_arguments: {a: " + "[" * 60 + "]" * 60 + "}",
    "torn and deep": "template_arguments: {a: " + "[" * 3000,
    "doubling": "template_arguments: {a0: &a0 [1], "
    + ", ".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40))
    + "}",
    "no date": "template_arguments: {a: 2024-99-99}",
    "no truth": "template_arguments: {a: !!bool maybe}",
    "no number": "template_arguments: {a: !!int x}",
    "too many digits": "template_arguments: {a: " + "9" * 5000 + "}",
}


@pytest.mark.parametrize("case", ENDLESS)
def test_yaml_that_has_no_end_or_no_value_is_refused_in_one_message(case: str, tmp_path: Path) -> None:
    """In a file and in an override."""
    text = ENDLESS[case]
    (tmp_path / "run.yaml").write_text(f"policy: {{path: p}}\nprompts:\n  path: q\n  {text}\n")
    with pytest.raises(ConfigError, match="is not YAML"):
        load(tmp_path / "run.yaml")
    with pytest.raises(ConfigError, match="not YAML"):
        apply_overrides({}, ["prompts." + text.replace(": ", "=", 1)])


def test_a_merge_key_gives_what_its_mapping_does_not_give_itself(tmp_path: Path) -> None:
    """Also of a mapping that has merged another, and of one that lies deeper than where it is merged."""
    text = """
policy: {path: p}
prompts: {path: q, template_arguments: {first: &a {x: 1, y: 1}, in: [{deeper: &b {<<: *a, y: 2, z: 2}}]}}
training: {<<: {workers: 2, threads: 2}, threads: 3}
"""
    (tmp_path / "run.yaml").write_text(text)
    config = load(tmp_path / "run.yaml")
    assert (config.training.workers, config.training.threads) == (2, 3)
    assert config.prompts.template_arguments["in"][0]["deeper"] == {"x": 1, "y": 2, "z": 2}
    levels = "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}], k{i}: 1}}\n" for i in range(1, 30))
    (tmp_path / "many.yaml").write_text("a0: &a0 {k0: 1}\n" + levels)
    assert len(read_yaml(tmp_path / "many.yaml")["a29"]) == 30


def test_a_key_given_twice_beside_a_merge_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("training: {<<: {workers: 2}, threads: 3, threads: 4}\n")
    with pytest.raises(ConfigError, match="key 'threads' is given twice"):
        read_yaml(tmp_path / "run.yaml")


def test_overrides_reach_any_depth_and_are_yaml() -> None:
    tree = LEAST | {"rewards": [{"name": "a", "path": "m:f"}]}
    given = ["training.learning_rate=1e-6", "rewards.0.weight=0.5", "objective.beta=0.3", "online.kl_bound=null"]
    config = build(apply_overrides(tree, given))
    assert config.training.learning_rate == 1e-6
    assert config.rewards[0].weight == 0.5
    assert config.objective.hyperparameters == {"beta": 0.3}
    assert "training" not in tree, "the tree given was changed"


@pytest.mark.parametrize("override", ["training", "=3", "a..b=1", "seed=[", "rewards.4.weight=1", "policy.path.deep=1"])
def test_an_override_that_leads_nowhere_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match="override"):
        apply_overrides(LEAST | {"rewards": [{}]}, [override])


def test_the_tree_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        build(LEAST).policy.path = "other"


@pytest.mark.parametrize("text", ["a: [", "- 1", ""])
def test_a_file_that_is_no_mapping_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"run\.yaml"):
        load(tmp_path / "run.yaml")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load(tmp_path / "none.yaml")


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_every_shipped_config_resolves_and_refuses_a_misspelt_key(path: Path) -> None:
    """Its own first section with a letter dropped is refused with the right name."""
    config = load(path, GIVEN)
    assert objective_of(config).name == config.objective.preset
    section = next(key for key in yaml.safe_load(path.read_text()) if key not in ("name", "seed"))
    with pytest.raises(ConfigError, match=f"did you mean '{section}'"):
        load(path, [*GIVEN, f"{section[:-1]}=1"])


def sections(model: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Every section of the tree, those that may be absent among them: where it is, and its keys."""
    yield place, list(model.model_fields)
    for name, field in model.model_fields.items():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from sections(kind, (*place, name))


@pytest.mark.parametrize(("place", "key"), [(place, key) for place, keys in sections(RunConfig) for key in keys])
def test_every_key_is_named_when_it_is_misspelt(place: tuple[str, ...], key: str) -> None:
    """Its last letter twice: `judge.urll`, `training.workerss`."""
    tree: Any = {f"{key}{key[-1]}": 1}
    for part in reversed(place):
        tree = {part: tree}
    with pytest.raises(ConfigError) as refused:
        objective_of(build(LEAST | tree))  # whose further keys are the preset's own
    unknown = f"{key}{key[-1]}" if place == ("objective",) else f"{'.'.join([*place, key])}{key[-1]}"
    assert f" {unknown!r}; did you mean {key!r}?" in str(refused.value)


def test_defaults_fill_the_hyperparameters_that_the_preset_takes() -> None:
    """w-mpo: beta .1 and alpha 1 are the config's; given ones win."""
    assert (objective_of(build(LEAST)).beta, objective_of(build(LEAST)).alpha) == (0.1, 1.0)
    assert objective_of(build(LEAST | {"objective": {"preset": "w-mpo", "alpha": 2}})).alpha == 2


@pytest.mark.parametrize(
    ("tree", "told"),
    [
        ({"objective": {"preset": "w-mop"}}, "did you mean 'w-mpo'"),
        ({"objective": {"preset": "dpo", "alpha": 1.0}}, "no hyperparameter 'alpha'"),
        ({"objective": {"preset": "mallows-phi"}, "dispersion": {"estimator": "none"}}, "psi would be 1"),
        ({"objective": {"preset": "tdpo1"}, "online": {"reference": "previous"}}, "measured against two policies"),
        (
            {"objective": {"preset": "kto"}, "online": {"reference": "ema"}, "scoring": {"reward_scale": "none"}},
            "two po",
        ),
    ],
)
def test_an_objective_without_a_meaning_is_refused(tree: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        objective_of(build(LEAST | tree))


def test_resources_are_counted_by_the_rule() -> None:
    """2 train workers + 1 engine + 1 reference + 2 for Ray Data = 6 CPUs; on GPUs the engine takes its 4."""
    config = build(LEAST | {"training": {"workers": 2}, "engine": {"tensor_parallel": 4}})
    assert Asked.by(config, on_gpu=False) == Asked(6, 0.0)
    assert Asked.by(config, on_gpu=True) == Asked(6, 4.0)


def test_a_resolved_tree_is_read_back_as_itself() -> None:
    tree = LEAST | {"rewards": [{"name": "a", "path": "m:f"}], "objective": {"preset": "mpo", "beta": 0.3}}
    config = build(tree)
    assert build(yaml.safe_load(as_yaml(config))) == config
