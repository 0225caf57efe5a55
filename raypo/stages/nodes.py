"""The nodes of a running Ray: whether each part of a run has a place on one, and what each of them sees."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray
from ray._private.authentication.authentication_utils import is_token_auth_enabled
from ray._private.state import available_resources_per_node
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raypo.config import ModelReward, RunConfig
from raypo.errors import ResourceError

SMALL = 1e-6  # Ray counts in ten-thousandths


@dataclass(frozen=True)
class Unit:
    """A process of a run, which needs a node of its own choosing.

    Args:
        what: for people.
        cpus: logical.
        gpus: all on one node.
        labels: that its node must have.
    """

    what: str
    cpus: float
    gpus: float
    labels: Mapping[str, str]


@dataclass
class Node:
    """What a living node has free.

    Args:
        address: of the machine.
        cpus: logical, free.
        gpus: free.
        labels: of the node.
    """

    address: str
    cpus: float
    gpus: float
    labels: Mapping[str, str]

    def takes(self, unit: Unit) -> bool:
        """Whether the unit would run here."""
        fits = unit.cpus <= self.cpus + SMALL and unit.gpus <= self.gpus + SMALL
        return fits and unit.labels.items() <= self.labels.items()


def units(config: RunConfig, *, on_gpu: bool, engines: bool = True, trains: bool = True) -> list[Unit]:
    """The processes of a run, those that need most first."""
    labels, found = config.cluster, []
    if engines:
        each = float(config.engine.tensor_parallel) if on_gpu else 0.0
        found += [Unit("engine", 1, each, labels.engine_labels)] * config.engine.count
    if trains:
        found += [
            Unit("train worker", 1, config.training.gpus_per_worker, labels.trainer_labels)
        ] * config.training.workers
    found += [Unit("reference", 1, config.annotation.gpus, labels.scorer_labels)] * config.annotation.replicas
    for source in config.rewards:
        if isinstance(source, ModelReward):
            found += [Unit(f"reward model {source.name!r}", 1, source.gpus, labels.scorer_labels)] * source.replicas
    return sorted(found, key=lambda unit: (-unit.gpus, -len(unit.labels)))


def free_nodes() -> list[Node]:
    """The living nodes of the Ray that this process has joined."""
    free = available_resources_per_node()
    return [
        Node(
            node["NodeManagerAddress"],
            free.get(node["NodeID"], {}).get("CPU", 0.0),
            free.get(node["NodeID"], {}).get("GPU", 0.0),
            node.get("Labels", {}),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def check_fit(wanted: Sequence[Unit], nodes: Sequence[Node]) -> None:
    """Refuse processes for which no node is left: sums over a cluster say nothing of four GPUs on one machine.

    Each is given the node that is left with the fewest GPUs and CPUs, those that need most first.

    Args:
        wanted: of `units`.
        nodes: of `free_nodes`; what is free is taken off them.

    Raises:
        ResourceError: naming the process, what it asks for, and what each node has left.
    """
    for unit in wanted:
        able = [node for node in nodes if node.takes(unit)]
        if not able:
            left = ", ".join(f"{node.address}: {node.cpus:g} CPUs, {node.gpus:g} GPUs" for node in nodes)
            labels = f" with labels {dict(unit.labels)}" if unit.labels else ""
            raise ResourceError(
                f"no node{labels} has a place for each {unit.what}: {unit.cpus:g} CPU and {unit.gpus:g} GPU "
                f"(of {sum(other.what == unit.what for other in wanted)}); left: {left}",
                "each process on one node",
                "ask for fewer or smaller processes, free the nodes, or start larger ones",
            )
        best = min(able, key=lambda node: (node.gpus, node.cpus))
        best.cpus -= unit.cpus
        best.gpus -= unit.gpus


def unseen(paths: Sequence[str], timeout_s: float) -> dict[str, list[str]]:
    """Which of these files and folders a node does not see, by its address; nodes that see all are left out.

    Args:
        paths: absolute, on this machine.
        timeout_s: longest wait for the answers, seconds.

    Raises:
        ResourceError: a node did not answer.
    """

    @ray.remote(num_cpus=0, max_retries=0)
    def missing(names: list[str]) -> list[str]:
        return [name for name in names if not os.path.exists(name)]

    nodes = [node for node in ray.nodes() if node["Alive"]]
    calls = [
        missing.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            list(paths)
        )
        for node in nodes
    ]
    try:
        answers = ray.get(calls, timeout=timeout_s)
    except (RayError, TimeoutError) as error:
        raise ResourceError(
            f"a node did not say within {timeout_s:g} s what it sees: {str(error).splitlines()[0]}",
            "living nodes with raypo's Python on them",
            "see the nodes' logs",
        ) from error
    return {node["NodeManagerAddress"]: answer for node, answer in zip(nodes, answers, strict=True) if answer}


def object_store() -> float:
    """Bytes of all object stores together."""
    return float(ray.cluster_resources().get("object_store_memory", 0.0))


def asks_for_a_token() -> bool:
    """Whether this Ray refuses whoever shows no token."""
    return bool(is_token_auth_enabled())
