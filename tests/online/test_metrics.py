"""The figures for Prometheus: named alike in code and dashboard, and scraped from a real Ray as they were set."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from tiny import run_config

from raypo.online import metrics
from raypo.online.coordinator import Coordinator
from raypo.online.metrics import FIGURES, Metrics

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "cluster/components/monitoring/dashboard.json").read_text(encoding="utf-8"))
TARGETS = [target for panel in DASHBOARD["panels"] for target in panel["targets"]]


class Recorded:
    """Stands where Ray's gauge does; keeps what it is set to."""

    values: dict[tuple[str, ...], float]

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        self.name, self.keys = name, tag_keys

    def set(self, value: float, tags: dict[str, str]) -> None:
        """Keep the last value by name and tags."""
        assert tuple(tags) == self.keys
        Recorded.values[(self.name, *tags.values())] = value


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, ...], float]:
    """What the gauges hold."""
    Recorded.values = {}
    monkeypatch.setattr(metrics, "Gauge", Recorded)
    return Recorded.values


def test_the_dashboard_draws_every_figure_and_no_other() -> None:
    """Ray puts `ray_` before each name. Ray's own figures begin with `ray_node`."""
    drawn = {name for target in TARGETS for name in re.findall(r"\bray_\w+", target["expr"])}
    assert {name for name in drawn if not name.startswith("ray_node")} == {f"ray_{name}" for name in FIGURES}
    [run] = [one for one in DASHBOARD["templating"]["list"] if one["name"] == "run"]
    assert re.fullmatch(r"label_values\(ray_(\w+), run\)", run["definition"])[1] in FIGURES


def test_the_dashboard_names_only_tags_that_the_figures_have() -> None:
    for target in TARGETS:
        name = re.match(r"ray_(raypo_\w+)", target["expr"])
        if name:
            assert 'run=~"$run"' in target["expr"]
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) == {"run", *FIGURES[name[1]].tags}


def test_panels_do_not_lie_on_each_other() -> None:
    """Each cell of Grafana's 24 columns belongs to one panel at most."""
    cells: list[tuple[int, int]] = []
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells += [(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def test_when_a_stage_is_over_nothing_of_it_waits_or_flows(recorded: dict[tuple[str, ...], float]) -> None:
    """A gauge keeps its last value: left alone, a stage of an hour ago would still draw its tokens per second."""
    run = Metrics("r")
    run.under_way("sample", tokens_per_s=100.0, waiting=3)
    assert recorded[("raypo_tokens_per_second", "r", "sample")] == 100
    run.under_way("score", waiting=7)
    run.finished("score", 2.5)
    assert recorded == {
        ("raypo_tokens_per_second", "r", "sample"): 0,
        ("raypo_rows_waiting", "r", "sample"): 0,
        ("raypo_tokens_per_second", "r", "score"): 0,
        ("raypo_rows_waiting", "r", "score"): 0,
        ("raypo_stage_seconds", "r", "score"): 2.5,
    }


def test_the_lag_is_that_of_the_engine_that_is_furthest_behind(recorded: dict[tuple[str, ...], float]) -> None:
    """Durable version 3; engines hold 3 and 1: two behind. One that restarted holds none (-1): four behind."""
    for held, lag in (([3, 1], 2), ([3, -1], 4), ([3, 3], 0), ([], 0)):
        Metrics("r").engines(3, held)
        assert recorded[("raypo_weight_version_lag", "r")] == lag
    assert recorded[("raypo_weight_version", "r")] == 3


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_what_is_not_known_changes_nothing(value: float | None, recorded: dict[tuple[str, ...], float]) -> None:
    """A round in which nothing could be scored has the mean reward NaN."""
    run = Metrics("r")
    run.set("raypo_loss", 0.5)
    run.set("raypo_loss", value)
    assert recorded == {("raypo_loss", "r"): 0.5}


def test_a_figure_that_does_not_exist_and_a_tag_that_it_has_not_are_refused() -> None:
    with pytest.raises(KeyError):
        Metrics("r").set("raypo_lost", 1.0)
    with pytest.raises(ValueError, match="stage"):
        Metrics("r").set("raypo_tokens_per_second", 1.0)


def test_a_copy_in_another_process_makes_gauges_of_its_own() -> None:
    """A train worker gets its table source, with the metrics in it, by pickle."""
    run = Metrics("r")
    run.set("raypo_loss", 0.5)
    copy = pickle.loads(pickle.dumps(run))
    copy.set("raypo_loss", 0.25)


class Engines:
    """Two engines, one of which missed the last sync."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def versions(self) -> list[int]:
        """Held before they are brought up."""
        return [1, 0]

    def bring_up(self, folder: str, version: int) -> int:
        """Keeps the lag that was told while it runs; one engine was behind."""
        self.seen.append(Recorded.values[("raypo_weight_version_lag", "run")])
        return 1


def test_the_coordinator_tells_what_it_knows(recorded: dict[tuple[str, ...], float], tmp_path: Path) -> None:
    """4 of 10 prompts are sampled; a round of 4 s with a sync of 2 s; an engine one version behind, then none."""
    engines = Engines()
    coordinator = Coordinator(run_config("m", tmp_path), SimpleNamespace(engines=engines))
    advance = coordinator._events.progress("sample", 10)
    advance(pa.table({"response_token_ids": [[[1, 2], [3]]] * 4}))
    assert recorded[("raypo_rows_waiting", "run", "sample")] == 6
    assert recorded[("raypo_tokens_per_second", "run", "sample")] > 0
    coordinator.note({"stage": "train", "step": "1/2", "loss": 0.5, "tokens_per_s": 10.0})
    assert recorded[("raypo_tokens_per_second", "run", "sample")] == 0
    assert (recorded[("raypo_loss", "run")], recorded[("raypo_tokens_per_second", "run", "train")]) == (0.5, 10)
    coordinator.trained({"text": "", "round": 0, "seconds": 4.0, "save_seconds": 1.0, "sync_seconds": 2.0})
    assert recorded[("raypo_tokens_per_second", "run", "train")] == 0
    assert (recorded[("raypo_stage_seconds", "run", "train")], recorded[("raypo_sync_seconds", "run")]) == (4, 2)
    coordinator._bring_up(1)
    assert engines.seen == [1]
    assert recorded[("raypo_weight_version_lag", "run")] == 0


DRIVER = """
import json, logging, socket, time, urllib.request, ray
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False,
         _metrics_export_port=port, _system_config={"metrics_report_interval_ms": 500})

@ray.remote
class Coordinator:
    def tell(self):
        from raypo.online.metrics import Metrics
        run = Metrics("live")
        run.under_way("sample", tokens_per_s=123.5, waiting=9)
        run.training({"loss": 0.625})
        run.evaluated({"reward": {"mean": -1.5}, "kl_per_response": {"mean": 0.25}})
        run.engines(4, [4, 3])
        run.set("raypo_sync_seconds", 2.0)
        run.set("raypo_stage_seconds", 8.0, stage="sample")

actor = Coordinator.remote()
ray.get(actor.tell.remote())
deadline = time.monotonic() + 60
while True:
    lines = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode().splitlines()
    found = [line for line in lines if line.startswith("ray_raypo_")]
    if len({line.split("{")[0] for line in found}) >= 9 or time.monotonic() > deadline:
        break
    time.sleep(0.5)
print(json.dumps(found))
ray.shutdown()
"""


def scraped(lines: list[str]) -> dict[tuple[str, str], float]:
    """Values by name and by the figure's own tag, from Prometheus' text format."""
    found: dict[tuple[str, str], float] = {}
    for line in lines:
        name, rest = line.split("{", 1)
        labels: Any = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        assert labels["run"] == "live"
        found[(name.removeprefix("ray_"), labels.get("stage") or labels.get("prompts", ""))] = float(line.split()[-1])
    return found


@pytest.mark.slow
def test_a_real_ray_exports_every_figure_as_it_was_set() -> None:
    """Set in an actor, read over HTTP from the node's metrics port, as Prometheus does."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", DRIVER]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = scraped(json.loads(done.stdout.splitlines()[-1]))
    assert {name for name, _ in found} == set(FIGURES)
    # training began after sampling: of the sampling nothing flows
    assert found[("raypo_tokens_per_second", "sample")] == found[("raypo_rows_waiting", "sample")] == 0
    assert found[("raypo_loss", "")] == 0.625
    assert found[("raypo_reward", "heldout")] == -1.5
    assert found[("raypo_kl_nats", "")] == 0.25
    assert (found[("raypo_weight_version", "")], found[("raypo_weight_version_lag", "")]) == (4, 1)
    assert (found[("raypo_sync_seconds", "")], found[("raypo_stage_seconds", "sample")]) == (2, 8)
