"""raypo.training.checkpoint: what is complete, what is torn, what is kept; and that a resumed run is the same run."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import (
    StoredTables,
    causal_lm,
    learn_in_two_goes,
    run_config,
    run_ranks,
    training_config,
    trajectory,
)
from transformers import AutoModelForCausalLM

from raypo.errors import IntegrityError, OutputError
from raypo.models.export import export_weights, save_model
from raypo.models.load import load_tokenizer
from raypo.models.scorer import TokenScorer
from raypo.training import checkpoint
from raypo.training.checkpoint import Checkpoint, folder_of
from raypo.training.step import make_optimizer
from raypo.training.tracking import read_metrics


def saved(run_dir: Path, version: int, tokenizer_of: Path) -> Checkpoint:
    """A complete checkpoint of a fresh model that has done one step."""
    scorer, config = TokenScorer(causal_lm(seed=version)), training_config()
    optimizer = make_optimizer(scorer, config)
    trajectory(scorer, config, 1, optimizer=optimizer)
    checkpoint.save_state(run_dir, version, scorer, optimizer)
    weights = dict(export_weights(scorer, torch.float32))
    save_model(folder_of(run_dir, version) / "model", weights, scorer, load_tokenizer(str(tokenizer_of)), None)
    return checkpoint.commit(run_dir, Checkpoint(version, progress=version / 4, step=version))


def test_model_and_optimizer_come_back_bitwise(tiny_model: Path, tmp_path: Path) -> None:
    config = training_config()
    straight = TokenScorer(causal_lm())
    expected = trajectory(straight, config, 4)
    stopped = TokenScorer(causal_lm())
    optimizer = make_optimizer(stopped, config)
    trajectory(stopped, config, 4, optimizer=optimizer, last=2)
    checkpoint.save_state(tmp_path, 1, stopped, optimizer)

    again = TokenScorer(causal_lm(seed=99))
    fresh = make_optimizer(again, config)
    checkpoint.load_state(tmp_path, 1, again, fresh)
    rest = trajectory(again, config, 4, optimizer=fresh, first=2)
    assert [one["loss"] for one in rest] == [one["loss"] for one in expected[2:]]
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), again.parameters(), strict=True))


def test_the_manifest_lists_every_file_and_the_hash_of_the_weights(tiny_model: Path, tmp_path: Path) -> None:
    import hashlib

    found = saved(tmp_path, 1, tiny_model)
    place = folder_of(tmp_path, 1)
    assert checkpoint.newest(tmp_path) == found
    assert set(found.files) == {str(p.relative_to(place)) for p in place.rglob("*") if p.is_file()} - {"manifest.json"}
    whole = (place / "model" / "model.safetensors").read_bytes()
    assert found.weights == hashlib.sha256(whole).hexdigest()


def test_a_run_without_checkpoints_has_no_newest(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) is None


def test_a_version_without_a_manifest_is_passed_over_and_cleared(tiny_model: Path, tmp_path: Path) -> None:
    first = saved(tmp_path, 1, tiny_model)
    saved(tmp_path, 2, tiny_model)
    (folder_of(tmp_path, 2) / "manifest.json").unlink()
    assert checkpoint.newest(tmp_path) == first
    checkpoint.clear(tmp_path, 2)
    checkpoint.clear(tmp_path, 1)
    assert not folder_of(tmp_path, 2).exists()
    assert checkpoint.newest(tmp_path) == first


@pytest.mark.parametrize("fault", ["cut", "gone", "manifest"])
def test_a_torn_checkpoint_is_an_error_that_says_what_to_do(fault: str, tiny_model: Path, tmp_path: Path) -> None:
    saved(tmp_path, 1, tiny_model)
    weights = folder_of(tmp_path, 1) / "model" / "model.safetensors"
    match fault:
        case "cut":
            weights.write_bytes(weights.read_bytes()[:-1])
        case "gone":
            weights.unlink()
        case "manifest":
            (folder_of(tmp_path, 1) / "manifest.json").write_text('{"version": 1', encoding="utf-8")
    with pytest.raises(IntegrityError, match=r"what to do: delete .*version-0001"):
        checkpoint.newest(tmp_path)


def test_old_states_are_dropped_and_their_models_stay(tiny_model: Path, tmp_path: Path) -> None:
    for version in (1, 2, 3):
        saved(tmp_path, version, tiny_model)
    checkpoint.drop_states(tmp_path, older_than=2)
    assert [(folder_of(tmp_path, v) / "state").exists() for v in (1, 2, 3)] == [False, True, True]
    old = checkpoint.read(tmp_path, 1)
    assert old is not None
    assert "model/model.safetensors" in old.files
    assert AutoModelForCausalLM.from_pretrained(folder_of(tmp_path, 1) / "model").config.vocab_size == 64


def test_pruning_keeps_the_named_versions_and_the_newest(tiny_model: Path, tmp_path: Path) -> None:
    for version in (1, 2, 3):
        saved(tmp_path, version, tiny_model)
    checkpoint.prune(tmp_path, keep={1})
    assert [folder_of(tmp_path, v).exists() for v in (1, 2, 3)] == [True, False, True]


# ---- the learner of a worker, on two gloo ranks


@pytest.mark.parametrize("name", ["full", "lora", "moving", "masks", "anchor"])
def test_an_interrupted_run_ends_bitwise_where_the_uninterrupted_one_does(name: str, runs: Any) -> None:
    """The second try starts at version 1; the third too, since version 2 was torn away before its manifest."""
    output, answers = runs
    assert all(found[name] == [0, 0, 1, 1] for found in answers)
    whole, broken = output / name / "whole", output / name / "broken"
    for version in (1, 2, 3):
        first, second = checkpoint.read(whole, version), checkpoint.read(broken, version)
        assert first is not None
        assert second is not None
        assert (first.weights, first.step, first.progress) == (second.weights, second.step, second.progress)
    assert first.weights != checkpoint.read(whole, 1).weights  # type: ignore[union-attr]


def test_every_step_is_told_once_even_when_it_was_done_twice(runs: Any) -> None:
    """5 trainable sets in steps of 4: 2 steps an epoch, 2 epochs, 3 rounds: 12 steps."""
    output, _ = runs
    whole, broken = (read_metrics(output / "full" / kind / "metrics.jsonl") for kind in ("whole", "broken"))
    assert [line["step"] for line in broken] == list(range(1, 13))
    assert [line["round"] for line in broken] == [0] * 4 + [1] * 4 + [2] * 4
    timeless = [{k: v for k, v in line.items() if k not in ("time", "seconds", "tokens_per_s")} for line in whole]
    assert timeless == [{k: v for k, v in line.items() if k in timeless[0]} for line in broken]
    assert [line["sets"] for line in whole] == [4, 1] * 6


def test_a_version_says_what_made_it(runs: Any) -> None:
    output, _ = runs
    manifest = json.loads((folder_of(output / "full" / "whole", 3) / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["step"], manifest["progress"], manifest["world_size"]) == (12, 1.0, 2)
    assert manifest["facts"]["environment"]["threads"] == 1
    assert manifest["facts"]["environment"]["torch"].startswith("2.13")
    assert 0.9 < manifest["facts"]["changed_fraction"] <= 1.0
    assert "w-mpo" in manifest["facts"]["objective"]


def test_only_the_last_two_versions_can_be_resumed(runs: Any) -> None:
    output, _ = runs
    states = [(folder_of(output / "full" / "whole", v) / "state").is_dir() for v in (1, 2, 3)]
    assert states == [False, True, True]


def test_the_moving_average_reference_is_three_quarters_old(runs: Any, tiny_model: Path) -> None:
    """Decay 0.75: reference 1 = 0.75 start + 0.25 version 1; reference 2 = 0.75 reference 1 + 0.25 version 2."""
    output, _ = runs
    older = load_file(tiny_model / "model.safetensors")
    for version in (1, 2):
        place = folder_of(output / "full" / "whole", version)
        new = load_file(place / "model" / "model.safetensors")
        older = {name: 0.75 * tensor + 0.25 * new[name] for name, tensor in older.items()}
        stored = load_file(place / "reference" / "model.safetensors")
        assert all(torch.allclose(stored[name], tensor, atol=1e-6) for name, tensor in older.items())


def test_the_adapter_folder_gives_the_merged_model(runs: Any, tiny_model: Path) -> None:
    from peft import PeftModel

    output, _ = runs
    place = folder_of(output / "lora" / "whole", 3)
    merged = AutoModelForCausalLM.from_pretrained(place / "model")
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), place / "adapter")
    ids = torch.arange(3, 13)[None]
    with torch.no_grad():
        assert torch.allclose(merged(ids).logits, adapted(ids).logits, atol=1e-4)


# ---- inside a round


def test_a_round_that_dies_between_two_steps_goes_on_there_and_ends_bitwise_the_same(
    tiny_model: Path, tmp_path: Path
) -> None:
    """4 steps a round, a checkpoint every 2. It dies when 3 steps are done: the next try begins with step 3 (the log's
    first line), having found the state after step 2. In round 1 it dies after step 5, before any checkpoint there: its
    only step is step 5. A moving reference and a running anchor are part of the state.
    """
    training = {"checkpoint_steps": 2}
    configs = {
        "moving": run_config(
            tiny_model, tmp_path, objective={"preset": "tr-dpo"}, training=training | {"reference_steps": 3}
        ),
        "anchor": run_config(tiny_model, tmp_path, objective={"preset": "bco"}, training=training),
    }
    for name in configs:
        for kind in ("whole", "broken"):
            (tmp_path / name / kind).mkdir(parents=True)
    answers = run_ranks(learn_in_two_goes, 2, configs, StoredTables(tmp_path, 2))
    for name in configs:
        whole, broken = tmp_path / name / "whole", tmp_path / name / "broken"
        assert [found[name] for found in answers] == [[1, 3, 5]] * 2
        for version in (1, 2):
            first, second = checkpoint.read(whole, version), checkpoint.read(broken, version)
            assert (first.weights, first.step) == (second.weights, second.step)
            assert first.step == 4 * version
        assert not list((broken / "checkpoints").glob("*.step-*"))
        lines = read_metrics(broken / "metrics.jsonl")
        assert [line["step"] for line in lines if line["round"] == 1] == [5, 6, 7, 8]


def test_a_checkpoint_inside_a_round_that_is_torn_or_replaced_is_not_taken(tiny_model: Path, tmp_path: Path) -> None:
    """Steps 2 and 4 inside version 1: the newest is taken; torn, the one before; and the version removes both."""
    scorer, config = TokenScorer(causal_lm()), training_config()
    optimizer = make_optimizer(scorer, config)
    for step in (2, 4):
        checkpoint.save_state(tmp_path, 1, scorer, optimizer, step=step)
        checkpoint.commit(tmp_path, Checkpoint(1, 0.0, step, facts={"cursor": {}}), inside=True)
    assert checkpoint.newest(tmp_path) is None
    assert checkpoint.newest_inside(tmp_path, 1).step == 4
    assert checkpoint.newest_inside(tmp_path, 2) is None
    flip(next((folder_of(tmp_path, 1, 4) / "state").glob("*.distcp")))
    assert checkpoint.newest_inside(tmp_path, 1).step == 2
    checkpoint.drop_inside(tmp_path, 1)
    assert checkpoint.newest_inside(tmp_path, 1) is None


@pytest.mark.parametrize("inside", [False, True])
def test_a_version_whose_state_was_taken_away_is_not_committed(inside: bool, tiny_model: Path, tmp_path: Path) -> None:
    """Another process begins to save the same version, and so clears it, between the save and the manifest."""
    saved(tmp_path, 1, tiny_model)
    scorer = TokenScorer(causal_lm())
    step = 8 if inside else None
    checkpoint.save_state(tmp_path, 2, scorer, make_optimizer(scorer, training_config()), step=step)
    (folder_of(tmp_path, 2, step) / "state" / ".metadata").unlink()
    with pytest.raises(IntegrityError, match="was saved and is gone"):
        checkpoint.commit(tmp_path, Checkpoint(2, 0.5, 8), inside=inside)
    assert checkpoint.resumable(tmp_path).version == 1


class Code:
    """Pickled, it is a command that makes a file."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.made}",)


@pytest.mark.parametrize("place", ["metadata", "value"])
def test_code_in_a_state_is_refused_and_not_run(place: str, tmp_path: Path) -> None:
    """In what DCP says of the state, and in an optimizer's setting: DCP itself would run both."""
    scorer, made = TokenScorer(causal_lm()), tmp_path / "made"
    optimizer = make_optimizer(scorer, training_config())
    trajectory(scorer, training_config(), 1, optimizer=optimizer)
    if place == "value":
        optimizer.param_groups[0]["maximize"] = Code(made)
    checkpoint.save_state(tmp_path, 1, scorer, optimizer)
    if place == "metadata":
        (folder_of(tmp_path, 1) / "state" / ".metadata").write_bytes(pickle.dumps(Code(made)))
    again = TokenScorer(causal_lm())
    with pytest.raises(IntegrityError, match="none that raypo wrote"):
        checkpoint.load_state(tmp_path, 1, again, make_optimizer(again, training_config()))
    assert not made.exists()


def test_storage_that_does_not_answer_is_told_and_nothing_is_set_aside(tiny_model: Path, tmp_path: Path) -> None:
    """A link to this process's memory, of which the first byte cannot be read: EIO, as of a disk that went away."""
    saved(tmp_path, 1, tiny_model)
    file = folder_of(tmp_path, 1) / "state" / "shard"
    file.touch()
    checkpoint.commit(tmp_path, Checkpoint(1, 0.5, 1))
    file.unlink()
    file.symlink_to("/proc/self/mem")
    with pytest.raises(OutputError, match="Input/output error"):
        checkpoint.resumable(tmp_path)
    file.unlink()
    file.touch()
    assert checkpoint.resumable(tmp_path).version == 1


def flip(path: Path) -> None:
    """Change one bit in the middle of a file: its size stays."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("what", ["model/model.safetensors", "state", "manifest.json"])
def test_a_torn_version_is_set_aside_and_the_one_before_is_resumed(what: str, tiny_model: Path, tmp_path: Path) -> None:
    """One bit of version 2 is wrong, or half of its manifest is missing: version 1 is the newest whole one."""
    first = saved(tmp_path, 1, tiny_model)
    saved(tmp_path, 2, tiny_model)
    assert checkpoint.resumable(tmp_path).version == 2
    place = folder_of(tmp_path, 2)
    if what == "manifest.json":
        (place / what).write_text('{"version": 2', encoding="utf-8")
    else:
        flip(next((place / "state").glob("*.distcp")) if what == "state" else place / what)
    assert checkpoint.resumable(tmp_path) == first
    assert checkpoint.newest(tmp_path) == first
    checkpoint.clear(tmp_path, 2)
    assert not place.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"files": []},
        {"files": {}},
        {"files": {"state/.metadata": "9"}},
        {"facts": [3]},
        {"contents": []},
        {"step": "2"},
    ],
)
def test_a_manifest_that_is_none_of_a_checkpoint_is_set_aside(
    changes: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    """Of a version and inside a round: with no seal to break, and with one number of its facts that is another."""
    first = saved(tmp_path, 1, tiny_model)
    saved(tmp_path, 2, tiny_model)
    place = folder_of(tmp_path, 2)
    tree = json.loads((place / "manifest.json").read_text())
    assert checkpoint.read_folder(place).step == 2
    (place / "manifest.json").write_text(json.dumps({k: v for k, v in tree.items() if k != "seal"} | changes))
    assert checkpoint.resumable(tmp_path) == first
    saved(tmp_path, 2, tiny_model)
    (place / "manifest.json").write_text(json.dumps(tree | {"progress": 0.75}))
    assert checkpoint.resumable(tmp_path) == first
    scorer = TokenScorer(causal_lm())
    for step in (2, 4):
        checkpoint.save_state(tmp_path, 2, scorer, make_optimizer(scorer, training_config()), step=step)
        checkpoint.commit(tmp_path, Checkpoint(2, 0.0, step, facts={"cursor": {}}), inside=True)
    inside = folder_of(tmp_path, 2, 4) / "manifest.json"
    inside.write_text(json.dumps(json.loads(inside.read_text()) | changes))
    assert checkpoint.newest_inside(tmp_path, 2).step == 2


def test_a_version_without_state_cannot_be_resumed_and_says_so(tiny_model: Path, tmp_path: Path) -> None:
    """Version 1's state was dropped when version 3 came, and 2 and 3 are torn."""
    for version in (1, 2, 3):
        saved(tmp_path, version, tiny_model)
    checkpoint.drop_states(tmp_path, older_than=2)
    for version in (2, 3):
        flip(folder_of(tmp_path, version) / "model" / "model.safetensors")
    with pytest.raises(IntegrityError, match=r"no state to resume from"):
        checkpoint.resumable(tmp_path)
