"""A run that is killed at every stage, in every part, ends as the run that was never stopped: on the real parts.

Tiny model, two rounds of 16 sets of 4 responses, steps of 4 sets, a checkpoint every 2 steps; fp32, one thread, two
gloo ranks, vLLM on the CPU. One run per kind of fault.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hf_folders import make_place

from raypo.bench import chaos
from raypo.bench.chaos import Kill
from raypo.stages import tables
from raypo.training.tracking import read_metrics

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1500)]

REWARDS = """
def ones(prompts, responses, metadata):
    return [float(response.count("1")) for response in responses]
"""
SECONDS = 1200.0
ROUND = "rounds/round-{:04d}/{}/" + tables.MANIFEST
EQUAL = {
    "differ": [],
    "rows_lost": 0,
    "rows_repeated": 0,
    "steps_lost": 0,
    "steps_repeated": 0,
    "weights_equal": True,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, prompts, a reward and a run's config."""
    folder = make_place(tmp_path_factory.mktemp("chaos"), 32, REWARDS, "chaos_rewards")
    config = {
        "output": str(folder / "runs"),
        "policy": {"path": str(folder / "policy"), "compute_dtype": "float32", "export_dtype": "float32"},
        "prompts": {"path": str(folder / "prompts.jsonl"), "heldout_fraction": 0.25, "max_prompt_tokens": 16},
        "sampling": {"num_responses": 4, "max_response_tokens": 12, "batch_prompts": 8},
        "rewards": [{"name": "ones", "path": "chaos_rewards:ones"}],
        "objective": {"preset": "mallows-mpo"},
        "training": {"workers": 2, "learning_rate": 1e-3, "sets_per_step": 4, "checkpoint_steps": 2},
        "online": {"rounds": 2, "prompts_per_round": 16},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    return folder


def command(name: str) -> list[str]:
    return [sys.executable, "-m", "raypo.cli", "run", "run.yaml", f"name={name}"]


def environment(place: Path) -> dict[str, str]:
    """Of a driver and its workers: they find raypo and the reward."""
    return {"PYTHONPATH": os.pathsep.join([os.getcwd(), str(place)]), "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}


def endured(place: Path, name: str, *plan: Kill) -> chaos.Record:
    """A run through a plan of kills; its folder is runs/name."""
    with pytest.MonkeyPatch.context() as patch:
        for key, value in environment(place).items():
            patch.setenv(key, value)
        return chaos.endure(command(name), place / "runs" / name, plan, cwd=place, timeout_s=SECONDS)


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    """The run that nobody stops: 3 evaluations, 2 rounds of 3 tables, the prompts: 10 tables."""
    record = endured(place, "whole")
    assert (record.exits, record.orphans) == ([0], [])
    return place / "runs" / "whole"


def equal_to(whole: Path, other: Path) -> None:
    """Every table and every weight bitwise, every step once."""
    found = chaos.compare(whole, other)
    assert found["tables"] == 10
    assert {name: found[name] for name in EQUAL} == EQUAL
    assert [line["step"] for line in read_metrics(other / "metrics.jsonl")] == list(range(1, 9))
    summaries = [json.loads((run / "summary.json").read_text()) for run in (whole, other)]
    for name in ("rounds", "weight_versions", "reward_after", "kl_per_response", "scales", "sets_trained"):
        assert summaries[0][name] == summaries[1][name]


def test_the_noise_floor_two_runs_that_nobody_stops_are_bitwise_equal(whole: Path, place: Path) -> None:
    endured(place, "again")
    equal_to(whole, place / "runs" / "again")


def test_a_driver_killed_in_every_stage_and_terminated_in_one_loses_nothing(whole: Path, place: Path) -> None:
    """Six kills, five by SIGKILL; the codes of the starts are -9, and 143 = 128 + 15 for SIGTERM, then 0.

    The stages: sample, score or annotate, train, save, sync or evaluate, sample again.
    """
    plan = [
        Kill(f"evaluations/version-0000/{tables.MANIFEST}", 0.1, "driver"),
        Kill(ROUND.format(0, "sampled"), 0.02, "driver"),
        Kill(ROUND.format(0, "annotated"), 0.1, "driver"),
        Kill("checkpoints/version-0001/state", 0.0, "driver"),
        Kill("checkpoints/version-0001/manifest.json", 0.05, "driver"),
        Kill(ROUND.format(1, "sampled"), 0.05, "driver-term"),
    ]
    record = endured(place, "driver", *plan)
    assert record.missed == []
    assert record.exits == [-signal.SIGKILL] * 5 + [143, 0]
    assert (record.orphans, record.rewritten) == ([], [])
    equal_to(whole, place / "runs" / "driver")


def test_train_worker_engine_and_scorer_killed_in_one_run_come_back_with_the_current_weights(
    whole: Path, place: Path
) -> None:
    """The driver never ends: one start, code 0. The second engine dies when new weights are about to come to it."""
    plan = [
        Kill(f"evaluations/version-0000/{tables.MANIFEST}", 0.0, "engine"),
        Kill("checkpoints/version-0001/state", 0.0, "trainer"),
        Kill(ROUND.format(1, "sampled"), 0.0, "scorer"),
        Kill("checkpoints/version-0002/state", 0.0, "engine"),
    ]
    record = endured(place, "actors", *plan)
    assert record.missed == []
    assert (record.exits, record.orphans, record.rewritten) == ([0], [], [])
    equal_to(whole, place / "runs" / "actors")


def test_torn_outputs_are_made_again(whole: Path, place: Path) -> None:
    """Killed while version 2 is evaluated; then one bit of version 2 and one row of round 1's scores are wrong."""
    record = endured_until(place, "torn", "checkpoints/version-0002/manifest.json")
    run = place / "runs" / "torn"
    flip(run / "checkpoints/version-0002/model/model.safetensors")
    flip(next((run / "rounds/round-0001/scored").glob("attempt-*/*.parquet")))
    assert record == -signal.SIGKILL
    assert endured(place, "torn").exits == [0]
    equal_to(whole, run)
    assert list((run / "rounds/round-0001/scored").glob(f"{tables.TORN}-*"))


def test_a_run_goes_on_with_fewer_ranks_when_it_is_asked_to(whole: Path, place: Path) -> None:
    """Killed inside round 1 with 2 ranks, continued by 1: refused by name, then every row and step once.

    Sums over one rank round otherwise than over two, so what comes after the kill is close and not bitwise.
    """
    assert endured_until(place, "ranks", "checkpoints/version-0001.step-000002/manifest.json") == -signal.SIGKILL
    one_rank = [*command("ranks"), "training.workers=1"]
    refused = ended(place, one_rank)
    assert refused.returncode == 2
    assert "training.workers (2 -> 1)" in " ".join(refused.stderr.split()), refused.stdout + refused.stderr
    done = ended(place, [*one_rank, "--accept-pins"])
    assert done.returncode == 0, done.stdout + done.stderr
    run = place / "runs" / "ranks"
    found = chaos.compare(whole, run)
    counts = ("tables", "rows_lost", "rows_repeated", "steps_lost", "steps_repeated")
    assert [found[name] for name in counts] == [10, 0, 0, 0, 0]
    before = {f"rounds/round-0000/{stage}" for stage in ("sampled", "scored", "annotated")}
    assert not before & set(found["differ"])
    losses = [[line["loss"] for line in read_metrics(one / "metrics.jsonl")][:4] for one in (whole, run)]
    assert losses[0][:2] == losses[1][:2]
    assert losses[0][2:] == pytest.approx(losses[1][2:], rel=1e-3)
    record = json.loads((run / "run.json").read_text())
    assert [record["earlier_pins"][0]["world_size"], record["pins"]["world_size"]] == [2, 1]


def ended(place: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """A command, to its end."""
    given = os.environ | environment(place)
    return subprocess.run(arguments, cwd=place, env=given, capture_output=True, text=True, timeout=SECONDS, check=False)


def endured_until(place: Path, name: str, sign: str) -> int:
    """A run that is killed when a sign is there, and not started again; returns the exit code."""
    given = os.environ | environment(place)
    with subprocess.Popen(command(name), cwd=place, env=given, stdout=subprocess.DEVNULL) as driver:
        wait_for(place / "runs" / name / sign)
        driver.kill()
        return driver.wait()


def wait_for(sign: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while not sign.exists():
        assert time.monotonic() < deadline, sign
        time.sleep(0.02)


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


# ---- a cluster that outlives the driver

RAYS_OWN = (
    "_AutoscalingCoordinatorActor",
    "_UsageCollectionActor",
    "_StatsActor",
    "PlacementGroupCleaner",
    "DatasetManager",
)
"""Actors that Ray keeps for itself; the cleaner stops when it can."""


@pytest.fixture
def cluster(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head with CPUs for Ray Data and for what must not move, and one node for the workers of the run."""
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()
    for name, value in environment(place).items():  # nodes hand theirs to the workers
        monkeypatch.setenv(name, value)
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 3, "include_dashboard": False})
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def test_a_killed_driver_leaves_nothing_on_the_cluster_and_a_node_that_goes_is_outlived(
    whole: Path, place: Path, cluster: Any
) -> None:
    """The head has 3 CPUs and the run needs 6, so some of its actors are on the other node, and move when it goes."""
    import ray

    node = cluster.add_node(num_cpus=6)
    run = place / "runs" / "node"

    def start() -> subprocess.Popen[bytes]:
        joined = os.environ | {"RAY_ADDRESS": cluster.address}
        return subprocess.Popen(command("node"), cwd=place, env=joined, stdout=subprocess.DEVNULL)

    with start() as driver:
        wait_for(run / "evaluations/version-0000" / tables.MANIFEST)
        driver.kill()
    ray.init(address=cluster.address, log_to_driver=False)
    assert left_behind(30.0) == ([], [])
    with start() as driver:
        wait_for(run / ROUND.format(0, "annotated"))
        cluster.remove_node(node)
        cluster.add_node(num_cpus=6)
        assert driver.wait(SECONDS) == 0
    assert left_behind(30.0) == ([], [])
    equal_to(whole, run)


def left_behind(within_s: float) -> tuple[list[str], list[str]]:
    """Actors and placement groups that are neither gone nor Ray's own, after so many seconds at most."""
    from ray._private.state import actors
    from ray.util import placement_group_table

    deadline = time.monotonic() + within_s
    while True:
        living = [
            one["ActorClassName"]
            for one in actors().values()
            if one["State"] not in ("DEAD", "DEPENDENCIES_UNREADY") and one["ActorClassName"] not in RAYS_OWN
        ]
        groups = [one["state"] for one in placement_group_table().values() if one["state"] != "REMOVED"]
        if (not living and not groups) or time.monotonic() > deadline:
            return living, groups
        time.sleep(0.5)
