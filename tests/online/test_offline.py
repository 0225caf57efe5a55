"""raypo.online.offline: what is known before anything starts, and what is counted after it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tiny import annotated, run_config

from raypo.errors import ConfigError, DataError, IntegrityError
from raypo.online.folder import RunFolder
from raypo.online.offline import pair_shares, prompt_means, same_sets, train_offline, trained
from raypo.stages import tables
from raypo.training import checkpoint
from raypo.training.checkpoint import Checkpoint


def test_a_reference_that_would_never_move_is_refused_before_the_name_is_taken(
    tiny_model: Path, tmp_path: Path
) -> None:
    """40 sets of 4 a step, a tenth or so of them held out: at most 10 steps, and the default is to move every 512."""
    rows = [{"prompt": f"q{i}", "responses": ["a", "b"], "rewards": [1, 0]} for i in range(40)]
    (tmp_path / "sets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = {"path": str(tmp_path / "sets.jsonl"), "max_prompt_tokens": 16}
    sampling = {"max_response_tokens": 16}
    config = run_config(
        tiny_model, tmp_path / "runs", prompts=prompts, sampling=sampling, objective={"preset": "tr-dpo"}
    )
    with pytest.raises(ConfigError, match=r"reference_steps = 512 in a job of about \d+ optimizer steps"):
        train_offline(config)
    assert not (tmp_path / "runs" / config.name).exists()


def test_the_last_loss_is_the_checkpoints_own_when_the_metrics_are_lost(tmp_path: Path) -> None:
    """Metrics are not synced step by step; the checkpoint is."""
    folder = RunFolder(run_config("unused", tmp_path))
    with pytest.raises(IntegrityError, match=r"version-0001 was made and is gone"):
        trained(folder)
    state = checkpoint.folder_of(folder.root, 1) / "state"
    state.mkdir(parents=True)
    (state / ".metadata").touch()
    checkpoint.commit(folder.root, Checkpoint(1, 1.0, 12, facts={"metrics": {"loss": 0.25, "step_s": 1.0}}))
    assert trained(folder) == {"loss": 0.25, "steps": 12}


def test_sets_of_one_prompt_count_as_one() -> None:
    """Log-ratios 1, 0 where rewards are 1, 0: right, 1; the other way: 0; a tie of rewards: none.

    Prompt a has 1 and 0, so 0.5; b has 1 beside a tie, so 1; c has only a tie.
    """
    zero = [[0.0, 0.0]] * 5
    shares = pair_shares(
        [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]], zero, [[1, 0]] * 3 + [[1, 1]] * 2
    )
    assert shares[:3].tolist() == [1.0, 0.0, 1.0]
    found = prompt_means(["a", "a", "b", "b", "c"], shares)
    assert found[:2].tolist() == [0.5, 1.0]
    assert math.isnan(found[2])
    assert prompt_means([], np.array([])).tolist() == []


def test_a_run_does_not_go_on_over_other_sets(tiny_model: Path, tmp_path: Path) -> None:
    """Annotated of 5 training sets; the same in another order are the same, and 4 of them are not."""
    config = run_config(tiny_model, tmp_path)
    folder, split = RunFolder(config), pa.array(["train"] * 5)
    given = pa.table(
        {"prompt_id": [f"{i}" for i in range(5)], "split": split, "rewards": [[1.0, float(i)] for i in range(5)]}
    )
    same_sets(given, config, folder)
    facts = {"source": tables.content_hash(given)}
    tables.commit(folder.path("train", "annotated"), annotated(5, responses=2, round_index=0), "annotated", facts)
    same_sets(given.take([4, 3, 2, 1, 0]), config, folder)
    with pytest.raises(DataError, match="its 4 sets to train are not the 5 that run 'run' has annotated"):
        same_sets(given.slice(1), config, folder)
