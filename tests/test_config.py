"""The config tree: frozen, strict, with the nearest key for a misspelt one."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from raypo.config import apply_overrides, as_yaml, build, load
from raypo.errors import ConfigError
from raypo.stages.cluster import Asked, objective_of

LEAST = {"policy": {"path": "p"}, "prompts": {"path": "q"}}
JOBS = sorted((Path(__file__).parents[1] / "jobs").glob("*.yaml"))
GIVEN = ["policy.path=p", "prompts.path=q"]


@pytest.mark.parametrize(
    ("tree", "told"),
    [
        ({"polcy": {}}, "unknown key 'polcy'; did you mean 'policy'"),
        ({"policy": {"path": "p", "lora_rnk": 2}}, "unknown key 'policy.lora_rnk'; did you mean 'lora_rank'"),
        ({"rewards": [{"type": "http", "name": "a", "ulr": "x"}]}, "did you mean 'url'"),
        ({"training": {"workers": 0}}, "training.workers = 0"),
        ({"training": {"schedule": "cosin"}}, "training.schedule = 'cosin'"),
        ({"policy": {}}, "policy.path must be given"),
        ({"policy": {"path": "p", "trust_remote_code": True}}, "trust_remote_code"),
    ],
)
def test_a_fault_is_named_with_its_place(tree: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told.replace("[", r"\[")):
        build(LEAST | tree)


def test_overrides_reach_any_depth_and_are_yaml() -> None:
    tree = LEAST | {"rewards": [{"name": "a", "path": "m:f"}]}
    given = ["training.learning_rate=1e-6", "rewards.0.weight=0.5", "objective.beta=0.3", "online.kl_bound=null"]
    config = build(apply_overrides(tree, given))
    assert config.training.learning_rate == 1e-6
    assert config.rewards[0].weight == 0.5
    assert config.objective.hyperparameters == {"beta": 0.3}
    assert "training" not in tree, "the tree given was changed"


@pytest.mark.parametrize("override", ["training", "=3", "rewards.4.weight=1", "policy.path.deep=1"])
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
