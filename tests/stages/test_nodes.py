"""Whether each process of a run has a node of its own, from what nodes have left: arithmetic, no Ray."""

from __future__ import annotations

import pytest
from tiny import run_config

from raypo.errors import ResourceError
from raypo.stages.nodes import Node, Unit, check_fit, units

NO_LABELS: dict[str, str] = {}


def gpu_nodes(*gpus: float, labels: dict[str, str] = NO_LABELS) -> list[Node]:
    """Nodes of 8 CPUs each."""
    return [Node(f"node-{index}", 8, count, labels) for index, count in enumerate(gpus)]


def test_four_gpus_on_two_machines_are_not_four_on_one() -> None:
    """Four GPUs are free, two on each; an engine of four has no place, though the sums fit."""
    wanted = units(run_config("m", "out", engine={"backend": "gpu", "tensor_parallel": 4}), on_gpu=True)
    with pytest.raises(ResourceError) as refused:
        check_fit(wanted, gpu_nodes(2, 2))
    assert "each engine: 1 CPU and 4 GPU (of 1)" in str(refused.value)
    assert "node-0: 8 CPUs, 2 GPUs, node-1: 8 CPUs, 2 GPUs" in str(refused.value)
    check_fit(wanted, gpu_nodes(2, 4))


def test_small_processes_leave_room_for_large_ones() -> None:
    """An engine of 2 and two train workers of 1 on nodes of 2 and 2 GPUs: the engine first, then
    the workers on the other node; the reference, which needs no GPU, goes where least is left.
    """
    changes = {"engine": {"backend": "gpu", "tensor_parallel": 2}, "training": {"gpus_per_worker": 1}}
    wanted = units(run_config("m", "out", **changes), on_gpu=True)
    assert [unit.what for unit in wanted] == ["engine", "train worker", "train worker", "reference"]
    nodes = gpu_nodes(2, 2)
    check_fit(wanted, nodes)
    assert sorted((node.cpus, node.gpus) for node in nodes) == [(5.0, 0.0), (7.0, 0.0)]


def test_fractions_of_a_gpu_share_it_and_no_more() -> None:
    """Two references of half a GPU fit on one; three do not."""
    for replicas, fits in ((2, True), (3, False)):
        config = run_config("m", "out", annotation={"replicas": replicas, "gpus": 0.5}, training={"workers": 1})
        wanted = units(config, on_gpu=False)
        if fits:
            check_fit(wanted, gpu_nodes(1))
        else:
            with pytest.raises(ResourceError, match="reference"):
                check_fit(wanted, gpu_nodes(1))


def test_a_label_is_a_demand() -> None:
    unit = Unit("engine", 1, 0, {"role": "sampler"})
    with pytest.raises(ResourceError, match=r"no node with labels \{'role': 'sampler'\}"):
        check_fit([unit], gpu_nodes(0, labels={"role": "trainer"}))
    check_fit([unit], gpu_nodes(0, labels={"role": "sampler", "zone": "a"}))


def test_what_a_run_leaves_out_asks_for_nothing() -> None:
    """Offline there are no engines; evaluation has no train workers."""
    config = run_config("m", "out")
    assert {unit.what for unit in units(config, on_gpu=False, engines=False)} == {"train worker", "reference"}
    assert {unit.what for unit in units(config, on_gpu=False, trains=False)} == {"engine", "reference"}
