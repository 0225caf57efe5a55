"""Where the long-lived actors go: on a real cluster of three Ray nodes with labels, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import ray
from tiny import run_config

from raypo.errors import ResourceError
from raypo.online import run as online
from raypo.stages import actors, cluster

TESTS = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"}
DRIVER = """
import json, logging, ray
from ray._private.state import actors as states
from ray.cluster_utils import Cluster
from raypo.errors import ResourceError
from raypo.online.coordinator import Coordinator
from raypo.online.run import coordinator_options
from raypo.stages import actors, cluster
from tiny import run_config

nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
# more room for trainers: without labels the actors would be packed there
for role, cpus in (("trainer", 8), ("sampler", 4)):
    nodes.add_node(num_cpus=cpus, labels={"raypo-role": role})
nodes.wait_for_nodes()
ray.init(address=nodes.address, logging_level=logging.ERROR, log_to_driver=False)
roles = {node["NodeID"]: node["Labels"].get("raypo-role", "head") for node in ray.nodes()}
labels = {"engine_labels": {"raypo-role": "sampler"}, "scorer_labels": {"raypo-role": "sampler"}}
config = run_config("m", "out", engine={"count": 2, "backend": "cpu"}, annotation={"replicas": 2}, cluster=labels)
cluster.check_resources(config)
made = actors.create(config, {}, {})
engines = ray.get([actor.version.remote() for actor in made.engines.actors])
ray.get([actor.__ray_ready__.remote() for actor in made.references])
places = [
    roles[states(actor._actor_id.hex())["Address"]["NodeID"]] for actor in [*made.engines.actors, *made.references]
]
coordinators = [ray.remote(Coordinator).options(**coordinator_options(config)).remote(config, made) for _ in range(6)]
ray.get([actor.status.remote(0) for actor in coordinators])
heads = [roles[states(actor._actor_id.hex())["Address"]["NodeID"]] for actor in coordinators]
try:
    cluster.check_resources(run_config("m", "out", cluster={"trainer_labels": {"raypo-role": "trainr"}}))
except ResourceError as error:
    refused = str(error)
print(json.dumps({"places": places, "engines": engines, "heads": heads, "refused": refused}))
made.shutdown()
ray.shutdown()
nodes.shutdown()
"""


@pytest.mark.chaos
def test_actors_go_to_the_nodes_whose_labels_the_run_names() -> None:
    """Two engines and two references on the sampler node, though the trainer node has twice its CPUs.

    An engine that holds no weights answers -1. Coordinators go to the driver's node; Ray left alone spreads actors
    without CPUs over all nodes, so six would not all be there. A label that no node has is refused with those that are.
    """
    command = [sys.executable, "-c", DRIVER]
    done = subprocess.run(command, cwd=TESTS, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["places"] == ["sampler"] * 4
    assert found["engines"] == [-1, -1]
    assert found["heads"] == ["head"] * 6
    assert "raypo-role=trainer" in found["refused"]
    assert "trainr" in found["refused"]


@pytest.mark.parametrize("labels", [{}, {"raypo-role": "trainer"}])
def test_train_workers_are_asked_for_with_their_labels(labels: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What Ray Train is given; it refuses an empty selector, so no labels are None."""
    given: dict[str, Any] = {}

    class Trainer:
        """Keeps what it is made with."""

        def __init__(self, loop: Any, **options: Any) -> None:
            given.update(options)

        def fit(self) -> None:
            """Nothing to do."""

    monkeypatch.setattr(online, "TorchTrainer", Trainer)
    config = run_config("m", "out", cluster={"trainer_labels": labels})
    online.fit_workers(config, online.RunFolder(config), None, None)
    assert given["scaling_config"].label_selector == (labels or None)


@pytest.mark.slow
def test_a_placement_group_that_cannot_be_had_is_an_error_in_time_and_leaves_nothing(ray_cluster: None) -> None:
    """Nine engines of one CPU on eight CPUs, half a second of patience; the group is given back."""
    config = run_config("m", "out", engine={"count": 9, "backend": "cpu", "start_timeout_s": 0.5})
    with pytest.raises(ResourceError, match=r"no place for 9 engines of .* within 0.5 s; free: CPU (8|7\.9), GPU 0"):
        actors.create(config, {}, {})
    states = {group["state"] for group in ray.util.placement_group_table().values()}
    assert states <= {"REMOVED"}
    with pytest.raises(ResourceError, match=r"asks for 14 CPUs and 8 are free"):
        cluster.check_resources(config)


@pytest.mark.slow
def test_train_workers_without_a_place_are_told_with_asked_and_free_in_the_time_that_was_given(
    ray_cluster: None, tmp_path: Path
) -> None:
    """Nine workers of one CPU on eight CPUs, by Ray Train itself, whose four attempts wait 20 s together."""
    config = run_config("m", tmp_path, training={"workers": 9, "start_timeout_s": 20.0})
    began = time.monotonic()
    told = r"no place for 9 train workers of {'CPU': 1.0} within 20 s; free: CPU (8|7\.9), "  # Ray's own hold 0.1
    with pytest.raises(ResourceError, match=told):
        online.fit_workers(config, online.RunFolder(config), None, None)
    assert time.monotonic() - began < 4 * 20.0  # four whole waits, beside what Ray takes to start
