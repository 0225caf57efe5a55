"""raypo.online.offline: what is known before anything starts, and what is counted after it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hf_folders import make_model
from tiny import annotated, run_config

from raypo.errors import ConfigError, DataError, IntegrityError
from raypo.models.load import load_causal_lm
from raypo.models.scorer import TokenScorer
from raypo.online.folder import RunFolder
from raypo.online.offline import (
    given_sets,
    pair_shares,
    prompt_means,
    same_sets,
    scored_sets,
    train_offline,
    trained,
)
from raypo.scoring.reference import ReferenceScorer
from raypo.stages import tables
from raypo.stages.actors import Actors, Engines
from raypo.stages.annotation import finish_annotation
from raypo.stages.cluster import objective_of
from raypo.training import checkpoint
from raypo.training.checkpoint import Checkpoint
from raypo.training.rows import training_sets
from raypo.training.step import make_optimizer, train_step


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
    """Annotated of 5 training sets; the same in another order are the same, and 4 of them, or another known dispersion,
    are not.
    """
    config = run_config(tiny_model, tmp_path)
    folder, split = RunFolder(config), pa.array(["train"] * 5)
    given = pa.table(
        {"prompt_id": [f"{i}" for i in range(5)], "split": split, "rewards": [[1.0, float(i)] for i in range(5)]}
    ).append_column("metadata", pa.array(['{"dispersion": 0.5}'] * 5))
    same_sets(given, config, folder)
    facts = {"source": tables.content_hash(given)}
    tables.commit(folder.path("train", "annotated"), annotated(5, responses=2, round_index=0), "annotated", facts)
    same_sets(given.take([4, 3, 2, 1, 0]), config, folder)
    with pytest.raises(DataError, match="its 4 sets to train are not the 5 that run 'run' has annotated"):
        same_sets(given.slice(1), config, folder)
    other = given.set_column(3, "metadata", pa.array(['{"dispersion": 0.5}'] * 4 + ['{"dispersion": 0.25}']))
    with pytest.raises(DataError, match="its 5 sets to train are not the 5"):
        same_sets(other, config, folder)


def test_a_known_dispersion_goes_from_the_file_into_the_loss_as_it_is(tiny_model: Path, tmp_path: Path) -> None:
    """Sets with d of 1/2 and 1/8 by turns: the loss of the first step is the mean of -ln sigmoid(psi beta gap).

    psi is -ln d in every row, and gap the policy's log-ratio of the better response less that of the other, under a
    policy that is not the reference. Constant psi would give another loss.
    """
    rows = [
        {"prompt": f"w{i} w{i + 1}", "responses": ["w3 w4", "w5"], "rewards": [1, 0], "dispersion": [0.5, 0.125][i % 2]}
        for i in range(8)
    ]
    (tmp_path / "sets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    policy, beta = make_model(tmp_path / "policy", tied=True, seed=1), 0.5
    config = run_config(
        tiny_model,
        tmp_path,
        prompts={"path": str(tmp_path / "sets.jsonl"), "heldout_fraction": 0.0},
        objective={"preset": "mallows-theta", "beta": beta},
        dispersion={"estimator": "given"},
        scoring={"reward_scale": "none"},
    )
    scored = scored_sets(given_sets(config)[0], Actors(Engines([], config), [], {}), config, lambda chunk: None)
    reference, other = (
        ReferenceScorer(str(path), compute_dtype="float32", tokens_per_batch=4096, chunk_tokens=1024)
        for path in (tiny_model, policy)
    )
    table, _ = finish_annotation(
        reference.annotate(scored), config, scales=None, vocabulary=reference.vocabulary_size()
    )
    known = {row["prompt"]: -math.log(row["dispersion"]) for row in rows}
    assert table["psi"].to_pylist() == [known[prompt] for prompt in table["prompt"].to_pylist()]
    by_id = dict(zip(table["prompt_id"].to_pylist(), table["psi"].to_pylist(), strict=True))
    measured = other.annotate(scored).to_pylist()
    start = {row["prompt_id"]: row["reference_logps"] for row in table.to_pylist()}
    ratios = [np.subtract(row["reference_logps"], start[row["prompt_id"]]) for row in measured]
    gaps = np.array([one[0] - one[1] for one in ratios])
    psi = np.array([by_id[row["prompt_id"]] for row in measured])
    scorer = TokenScorer(load_causal_lm(str(policy), dtype=torch.float32)).eval()
    step = train_step(
        scorer,
        make_optimizer(scorer, config.training),
        training_sets(table, objective := objective_of(config)),
        objective,
        config.training,
        progress=0.5,
        pad_token_id=0,
    )
    loss = float(np.log1p(np.exp(-psi * beta * gaps)).mean())
    assert step["loss"] == pytest.approx(loss, abs=1e-5)
    assert abs(loss - float(np.log1p(np.exp(-psi.mean() * beta * gaps)).mean())) > 1e-3
