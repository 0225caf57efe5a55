"""The comparison that judges a killed run, and the plans and processes of kills; without a run."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import psutil
import pytest
from tiny import prompt_table

from raypo.bench import chaos
from raypo.bench.chaos import Kill
from raypo.errors import OutputError, RunError
from raypo.stages import tables

SAMPLED, SCORED = "rounds/round-0000/sampled", "rounds/round-0000/scored"


def make_run(folder: Path, sampled: list[str], *, steps: tuple[int, ...] = (1, 2), weights: str = "w") -> Path:
    """A run's folder: one table or none, metrics, one version."""
    tables.commit(str(folder / "prompts"), prompt_table("a", "b"), "prompts")
    if sampled:
        tables.commit(str(folder / SAMPLED), prompt_table(*sampled), "prompts")
    (folder / "metrics.jsonl").write_text("".join(json.dumps({"step": step}) + "\n" for step in steps))
    place = folder / "checkpoints/version-0001"
    place.mkdir(parents=True)
    (place / "manifest.json").write_text(json.dumps({"weights": weights}))
    return folder


def test_a_run_and_its_equal_have_nothing_lost_and_nothing_repeated(tmp_path: Path) -> None:
    whole, other = make_run(tmp_path / "whole", ["a", "b"]), make_run(tmp_path / "other", ["b", "a"])
    assert chaos.compare(whole, other) == {
        "tables": 2,
        "differ": [],
        "rows_lost": 0,
        "rows_repeated": 0,
        "steps_lost": 0,
        "steps_repeated": 0,
        "weights": 1,
        "weights_equal": True,
    }


def test_what_a_broken_resume_would_do_is_counted(tmp_path: Path) -> None:
    """Of rows a, b, c the other has a twice, and no b and c: 2 lost, 1 repeated. Of steps 1, 2, 3 it has 1, 1, 3."""
    whole = make_run(tmp_path / "whole", ["a", "b", "c"], steps=(1, 2, 3))
    other = make_run(tmp_path / "other", ["a", "a"], steps=(1, 1, 3), weights="v")
    found = chaos.compare(whole, other)
    assert (found["rows_lost"], found["rows_repeated"]) == (2, 1)
    assert (found["steps_lost"], found["steps_repeated"]) == (1, 1)
    assert (found["differ"], found["weights_equal"]) == ([SAMPLED], False)
    assert chaos.compare(whole, make_run(tmp_path / "empty", [], steps=(1, 2, 3)))["rows_lost"] == 3


def test_runs_without_weights_are_not_equal(tmp_path: Path) -> None:
    for name in ("whole", "other"):
        (make_run(tmp_path / name, ["a"]) / "checkpoints/version-0001/manifest.json").unlink()
    assert not chaos.compare(tmp_path / "whole", tmp_path / "other")["weights_equal"]


def test_a_plan_is_seeded_and_in_the_order_of_the_run() -> None:
    """Two rounds: the prompts, and 6 signs a round, 13 in all."""
    order = chaos.signs(2)
    assert len(order) == 13
    plan = chaos.random_plan(20, 2, seed=5)
    assert plan == chaos.random_plan(20, 2, seed=5) != chaos.random_plan(20, 2, seed=6)
    places = [order.index(kill.sign) for kill in plan]
    assert places == sorted(places)
    assert {kill.victim for kill in plan} == {"driver", "driver-term", "trainer", "engine", "scorer"}
    assert all(0 <= kill.delay_s <= 1 for kill in plan)


DRIVER = """
import pathlib, subprocess, sys, time
run = pathlib.Path("run")
run.mkdir(exist_ok=True)
if (run / "second").exists():
    print("went on")
    sys.exit(int(sys.argv[1]))
(run / "first").touch()
if sys.argv[2] == "leaves":
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
(run / "second").touch()
time.sleep(600)
"""


def command(code: int, leaves: str = "") -> list[str]:
    return [sys.executable, "-c", DRIVER, str(code), leaves]


def test_a_driver_is_killed_at_a_sign_and_started_again(tmp_path: Path) -> None:
    """Its second start ends by itself; a kill whose moment never came is told."""
    plan = [Kill("second", 0.0, "driver"), Kill("third", 0.0, "driver")]
    record = chaos.endure(command(0), tmp_path / "run", plan, cwd=tmp_path, timeout_s=60)
    assert (record.exits, record.kills, record.missed) == ([-9, 0], plan[:1], plan[1:])
    assert (record.orphans, record.output) == ([], "went on\n")


def test_a_process_that_outlives_its_driver_is_found_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chaos, "ORPHAN_WAIT_S", 0.5)
    plan = [Kill("second", 0.0, "driver")]
    record = chaos.endure(command(0, "leaves"), tmp_path / "run", plan, cwd=tmp_path, timeout_s=60)
    assert len(record.orphans) == 1
    assert "time.sleep(600)" in record.orphans[0]


def test_the_agents_of_a_killed_ray_are_no_orphans_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are known by the title that Ray gives them, and are left to end by themselves; any other process is told."""
    monkeypatch.setattr(chaos, "ORPHAN_WAIT_S", 0.5)
    mark, env = uuid.uuid4().hex, dict(os.environ)
    titles = [f"{name:<120}" for name in (*chaos.RAYS_OWN, "ray::EngineActor.generate")]
    started = [subprocess.Popen([one, "600"], executable="/bin/sleep", env=env | {chaos.MARK: mark}) for one in titles]
    try:
        assert [told.split()[0] for told in chaos.outlived(mark)] == ["ray::EngineActor.generate"]
        assert [process.poll() for process in started[:2]] == [None, None]
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_chaos_run_that_is_ended_ends_its_driver_and_what_that_started(number: int, tmp_path: Path) -> None:
    """The driver has left a process in a session of its own, as Ray does."""
    code = (
        "import signal; from pathlib import Path; from raypo.bench import chaos\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # nohup has it ignored
        "plan = [chaos.Kill('third', 0.0, 'driver')]\n"
        f"chaos.endure({command(0, 'leaves')!r}, Path('run'), plan, cwd=Path('.'), timeout_s=600)\n"
    )
    mark = {"CHAOS_TEST": uuid.uuid4().hex}
    chaotic = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=os.environ | mark)

    def ours() -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                alive = process.status() != psutil.STATUS_ZOMBIE
                found += [process] if alive and mark.items() <= process.environ().items() else []
        return found

    deadline = time.monotonic() + 120
    while not (tmp_path / "run/second").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    assert len(ours()) == 3
    chaotic.send_signal(number)
    ended = chaotic.wait(60)
    left = ours()
    for process in left:
        process.kill()
    assert left == []
    assert ended == 128 + number


def test_a_driver_that_fails_of_its_own_or_does_not_end_is_an_error(tmp_path: Path) -> None:
    plan = [Kill("second", 0.0, "driver")]
    with pytest.raises(RunError, match="ended with 3"):
        chaos.endure(command(3), tmp_path / "run", plan, cwd=tmp_path, timeout_s=60)
    for path in (tmp_path / "run").iterdir():
        path.unlink()
    began = time.monotonic()
    with pytest.raises(RunError, match="did not end within"):
        chaos.endure(command(0), tmp_path / "run", [], cwd=tmp_path, timeout_s=0.5)
    assert time.monotonic() - began < 30


def chaos_job() -> Any:
    """jobs/chaos.py, as a module."""
    spec = importlib.util.spec_from_file_location("chaos_job", Path(__file__).parents[2] / "jobs/chaos.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_place_that_cannot_take_the_figures_is_told_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that is not there yet is made; below a file there can be none."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    job = chaos_job()
    job.write(tmp_path / "missing" / "dir" / "x.json", {"kills": 3})
    assert json.loads((tmp_path / "missing/dir/x.json").read_text()) == {"kills": 3}
    (tmp_path / "run.yaml").write_text(
        f"output: {tmp_path / 'runs'}\npolicy: {{path: p}}\nprompts: {{path: q.jsonl}}\n"
        "rewards: [{name: ones, path: 'some:ones'}]\n"
    )
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write .*x\.json"):
        job.main([str(tmp_path / "run.yaml"), "--out", str(tmp_path / "file" / "x.json")])
    assert not (tmp_path / "runs").exists()
