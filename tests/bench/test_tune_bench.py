"""The benchmark of a study: it times what it says, and refuses sides that did not do the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from raypo.bench.tune import bench_tune, same_weights, timed
from raypo.errors import ConfigError, RunError


def test_an_online_study_is_refused(tmp_path: Path) -> None:
    given = {"base": {}, "form": "online", "space": {"objective.beta": [0.1]}, "trials": 1, "kl_bound": 1.0}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(given))
    with pytest.raises(ConfigError, match="online"):
        bench_tune(tmp_path / "study.yaml", [], tmp_path / "out.json")


def test_a_command_that_fails_is_told_with_its_message(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"none\.yaml"):
        timed(["train", str(tmp_path / "none.yaml")], tmp_path / "study.yaml")


def test_other_weights_are_refused(tmp_path: Path) -> None:
    for name, data in (("one", b"a"), ("two", b"b")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(data)
    same_weights(tmp_path / "one", tmp_path / "one")
    with pytest.raises(RunError, match="differ"):
        same_weights(tmp_path / "one", tmp_path / "two")
