"""The demonstration run: its prompts, its config, and what happens when it cannot begin."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from raypo.errors import ConfigError, OutputError, RunError
from raypo.objective import preset
from raypo.online.folder import RunFolder
from raypo.online.identity import QUICKSTART, open_folder
from raypo.quickstart import demonstration, language


def test_prompts_are_balanced_over_the_four_classes_and_none_is_in_both_files(tmp_path: Path) -> None:
    """576 / 4 = 144 of each class to train on, 96 / 4 = 24 held out."""
    demonstration.write_prompts(tmp_path, seed=5)
    train, heldout = (
        [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        for name in ("prompts.jsonl", "heldout.jsonl")
    )
    for rows, expected in ((train, 144), (heldout, 24)):
        assert set(Counter((row["token_entropy"], row["dispersion"]) for row in rows).values()) == {expected}
        for row in rows:
            prompt = language.Prompt.parse(row["prompt"])
            assert (row["token_entropy"], row["dispersion"]) == (prompt.entropy, prompt.dispersion)
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in heldout}
    assert len({row["prompt"] for row in train}) == 576


def test_the_run_is_what_the_readme_says(tmp_path: Path) -> None:
    """W-MPO with Mallows dispersion, K = 8, three rounds, two workers, fp32; only the panel's reward trains."""
    config = demonstration.make_config(tmp_path, seed=3)
    assert preset(config.objective.preset, **config.objective.hyperparameters).dispersion == "score"
    assert config.sampling.num_responses == 8
    assert (config.online.rounds, config.training.workers, config.training.threads) == (3, 2, 1)
    assert config.policy.compute_dtype == config.policy.export_dtype == "float32"
    assert [source.name for source in config.rewards if source.weight] == ["panel"]
    assert config.online.rounds * (config.online.prompts_per_round or 0) <= demonstration.TRAIN_PROMPTS
    assert config.seed == 3


def test_a_folder_that_cannot_be_made_is_refused_before_anything_starts(tmp_path: Path) -> None:
    """A file is in the way."""
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match="cannot write to"):
        demonstration.quickstart(tmp_path / "taken", 0, Console(file=io.StringIO()))


def test_the_folder_of_another_seed_is_refused_before_its_prompts_are_written_over(tmp_path: Path) -> None:
    """The remedy is one that quickstart has."""
    config = demonstration.make_config(tmp_path, seed=0)
    open_folder(RunFolder(config), config, QUICKSTART)
    with pytest.raises(ConfigError, match=r"seed \(0 -> 1\)") as caught:
        demonstration.quickstart(tmp_path, 1, Console(file=io.StringIO()))
    assert caught.value.remedy == "choose another --out, or remove the folder"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_pretraining_that_dies_is_told_with_its_last_words(tmp_path: Path) -> None:
    """The policy's place is taken by a file: the process ends with an error, and waiting ends too."""
    (tmp_path / "policy").write_text("")
    pretraining = demonstration.Pretraining(tmp_path, 0, Console(file=io.StringIO()))
    with pretraining, pytest.raises(RunError, match=r"pretraining ended with exit code 1: .*policy"):
        pretraining.wait_for_tokenizer()


def test_a_model_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    """A folder with a config.json is whole, because that file is moved there last."""
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "config.json").write_text("{}")
    with demonstration.Pretraining(tmp_path, 0, Console(file=io.StringIO())) as pretraining:
        assert not pretraining.running
        assert pretraining.failure() is None
        pretraining.wait_for_tokenizer()
    assert not (tmp_path / "pretraining.log").exists()
