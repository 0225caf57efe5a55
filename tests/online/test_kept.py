"""What a folder of samples or of a comparison holds: others are refused by name, and faults of storage are told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from safetensors.torch import load_file, save_file
from tiny import run_config

from raypo.config import RunConfig, build
from raypo.errors import ConfigError, IntegrityError, OutputError
from raypo.online import draw, evaluation, kept
from raypo.online.evaluation import Policy, evaluate_policies
from raypo.stages import tables


@pytest.fixture
def model(tiny_tied_model: Path, tmp_path: Path) -> Path:
    """One that a test may change."""
    return shutil.copytree(tiny_tied_model, tmp_path / "model")


@pytest.fixture
def config(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """Eight prompts and a reward that counts ones."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    rows = [{"prompt": f"w{i} w{i + 3}"} for i in range(8)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = {"path": str(tmp_path / "prompts.jsonl"), "max_prompt_tokens": 8, "heldout_fraction": 0.5}
    rewards = [{"name": "ones", "path": "tests.rewards_of_tests:ones"}]
    made = run_config(model, tmp_path / "runs", prompts=prompts, sampling={"max_response_tokens": 8})
    return build(made.model_dump(mode="json") | {"rewards": rewards})


def test_samples_of_other_weights_under_the_same_name_are_refused(
    config: RunConfig, model: Path, tmp_path: Path
) -> None:
    """A policy that was trained on under its path is another one, whatever its time stamp."""
    out = tmp_path / "out"
    draw.open_folder(config, out, str(model), "all")
    before = (out / "sample.json").read_bytes()
    draw.open_folder(config, out, str(model), "all")
    weights = load_file(model / "model.safetensors")
    moved = {name: value + 1.0 for name, value in weights.items()}
    save_file(moved, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"holds other samples; changed: policy_weights \('[0-9a-f]{64}' -> '"):
        draw.open_folder(config, out, str(model), "all")
    with pytest.raises(ConfigError, match=r"changed: policy_weights .*, split \('all' -> 'train'\)"):
        draw.open_folder(config, out, str(model), "train")
    assert (out / "sample.json").read_bytes() == before


@pytest.mark.parametrize("name", ["sample.json", "evaluate.json"])
def test_other_versions_and_an_older_or_damaged_record_are_told(
    name: str, config: RunConfig, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def open_folder() -> None:
        if name == "sample.json":
            draw.open_folder(config, out, str(model), "all")
        else:
            evaluation.open_folder(config, [Policy("p", "p", str(model))], out)

    open_folder()
    known = json.loads((out / name).read_text())
    tables.write_json(str(out / name), known | {"versions": known["versions"] | {"torch": "2.0.0"}})
    with pytest.raises(ConfigError, match=r"changed: versions\.torch \('2\.0\.0' -> '"):
        open_folder()
    del known["versions"]
    tables.write_json(str(out / name), known)
    with pytest.raises(ConfigError, match=r"whose record does not say versions"):
        open_folder()
    for text, error in (("[]", "is no JSON object"), ("\0\0", "is not JSON")):
        (out / name).write_text(text)
        with pytest.raises(IntegrityError, match=error):
            open_folder()


def test_weights_that_are_not_known_are_not_compared(tmp_path: Path) -> None:
    """Of a hub name that is not in the cache yet."""
    kept.keep_record(tmp_path, "r.json", {"policy_weights": None}, what="other samples")
    kept.keep_record(tmp_path, "r.json", {"policy_weights": "abc"}, what="other samples")
    assert json.loads((tmp_path / "r.json").read_text()) == {"policy_weights": None}


@pytest.mark.parametrize("judge", [None, {"url": "http://localhost:9/v1", "model": "m"}])
def test_a_place_below_a_file_is_an_output_error(
    judge: dict[str, Any] | None, config: RunConfig, model: Path, tmp_path: Path
) -> None:
    """Of the owner, of the record, of the judge's answers and of the figures."""
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "out"
    judged = build(config.model_dump(mode="json") | {"evaluation": {"judge": judge}})
    for call in (
        lambda: draw.sample_policy(config, place, console=Console(quiet=True)),
        lambda: evaluate_policies(judged, [Policy("p", "p", str(model))], place, Console(quiet=True)),
        lambda: evaluation.open_folder(config, [Policy("p", "p", str(model))], place),
        lambda: draw.open_folder(config, place, str(model), "all"),
        lambda: kept.write_json(place, "evaluation.json", {}),
    ):
        with pytest.raises(OutputError, match="cannot write to"):
            call()
