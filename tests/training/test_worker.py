"""raypo.training.worker under a real Ray Train worker group."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file
from tiny import DyingSync, StoredTables, annotated, run_config, run_ranks, w_mpo

from raypo.errors import IntegrityError, ModelError, RunError
from raypo.stages import tables
from raypo.training import checkpoint, refused, worker
from raypo.training.checkpoint import folder_of
from raypo.training.rounds import RoundTask
from raypo.training.rows import read_tables
from raypo.training.tracking import read_metrics
from raypo.training.worker import Learner, train


def meet_a_users_error(rank: int, world_size: int, place: str) -> None:
    """Train a policy that is no model."""
    tables = StoredTables(Path(place) / f"rank-{rank}", 1)
    setup = {"config": run_config(Path(place) / "no-model", place), "objective": w_mpo(), "run_dir": place}
    train(setup | {"tables": tables, "sync": None})


@pytest.mark.slow
def test_a_users_error_in_the_workers_ends_them_and_is_left_for_the_driver(tmp_path: Path) -> None:
    """Raised, it would make Ray Train start a new group that meets it again. It is told once."""
    for name in ("no-model", "rank-0", "rank-1"):
        (tmp_path / name).mkdir()
    run_ranks(meet_a_users_error, 2, str(tmp_path))
    error = refused.taken(str(tmp_path))
    assert isinstance(error, ModelError)
    assert "no-model" in error.got
    assert refused.taken(str(tmp_path)) is None


@pytest.mark.parametrize("left", [b"\0" * 40, b"[]", b'{"kind": "NoError"}', b'{"kind": "DataError"}', b'{"got": "x"}'])
def test_what_the_workers_left_and_nobody_can_read_is_told_once(left: bytes, tmp_path: Path) -> None:
    """A power loss between the rename and the data; an earlier attempt's is no matter of this one."""
    place = tmp_path / refused.FILE
    place.write_bytes(left)
    with pytest.raises(RunError, match="cannot be read"):
        refused.taken(str(tmp_path))
    assert refused.taken(str(tmp_path)) is None
    place.write_bytes(left)
    refused.forget(str(tmp_path))
    assert refused.taken(str(tmp_path)) is None


def test_rows_that_were_damaged_after_the_driver_read_them_are_not_trained_on(tmp_path: Path) -> None:
    """One bit of the file, seeded, 200 times: never other rows. Nor is a half file or none taken."""
    folder, table = tmp_path / "annotated", annotated(6, responses=3, round_index=0)
    made = tables.commit(str(folder), table, "annotated")
    path = folder / next(iter(made.files))
    whole, draw = path.read_bytes(), random.Random(0)
    rows = read_tables([str(path)])
    torn = 0
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            assert read_tables([str(path)]).equals(rows)
        except IntegrityError:
            torn += 1
    assert torn > 100
    path.write_bytes(whole[:-9])
    with pytest.raises(IntegrityError, match="run the same command again"):
        read_tables([str(path)])
    path.unlink()
    with pytest.raises(IntegrityError, match="the rows that were committed"):
        read_tables([str(path)])


def test_only_the_first_round_decides_whether_rewards_are_ordinal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later one may hold nothing but scores of 0 and 1 by chance."""
    asked: list[bool] = []
    monkeypatch.setattr(worker, "training_sets", lambda *_, first_round: asked.append(first_round) or [])
    learner = object.__new__(Learner)  # what its models would be is not asked
    learner._config, learner._objective = run_config("unused", tmp_path), w_mpo()
    source = StoredTables(tmp_path, 2)
    for version in (0, 1):
        task = source.next(version)
        assert isinstance(task, RoundTask)
        with pytest.raises(RunError, match="no trainable set"):
            learner.round(task)
    assert asked == [True, False]


@pytest.mark.chaos
def test_a_worker_group_that_loses_a_rank_ends_with_the_weights_of_an_uninterrupted_run(
    ray_cluster: None, runs: Any, tiny_model: Path, tmp_path: Path
) -> None:
    """Rank 1 is killed when version 2 is durable and unsent: the group restarts there, and trains the last round."""
    from ray import cloudpickle
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    cloudpickle.register_pickle_by_value(tiny)  # Ray's processes cannot import from the folder of the tests
    expected, _ = runs
    trainer = TorchTrainer(
        train,
        train_loop_config={
            "config": run_config(tiny_model, tmp_path, online={"reference": "ema", "ema_decay": 0.75}),
            "objective": w_mpo(),
            "run_dir": str(tmp_path),
            "tables": StoredTables(tmp_path, 3),
            "sync": DyingSync(tmp_path),
        },
        scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
        torch_config=TorchConfig(backend="gloo"),
        run_config=RunConfig(
            storage_path=str(tmp_path / "ray"),
            failure_config=FailureConfig(max_failures=1),
        ),
    )
    trainer.fit()
    assert (tmp_path / "died").exists()
    for version in (1, 2, 3):
        ours, theirs = checkpoint.read(tmp_path, version), checkpoint.read(expected / "full" / "whole", version)
        assert ours is not None
        assert theirs is not None
        assert ours.weights == theirs.weights
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == list(range(1, 13))
    assert not (tmp_path / "sent-2.safetensors").exists()
    for version in (1, 3):
        sent = load_file(tmp_path / f"sent-{version}.safetensors")
        exported = load_file(folder_of(tmp_path, version) / "model" / "model.safetensors")
        assert set(sent) == set(exported)
        assert all(torch.equal(tensor, exported[name]) for name, tensor in sent.items())
