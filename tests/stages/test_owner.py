"""One driver at a time in a run's folder: real processes, their real deaths, and another machine's file."""

from __future__ import annotations

import contextvars
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import run_config

from raypo.config import build
from raypo.errors import OutputError, RunError
from raypo.online.draw import sample_policy
from raypo.online.evaluation import Policy, evaluate_policies
from raypo.online.offline import train_offline
from raypo.online.run import run
from raypo.stages import owner
from raypo.stages.owner import owned

HOLD = """
import sys, time
from raypo.stages.owner import owned
with owned(sys.argv[1]):
    print("owned", flush=True)
    time.sleep(float(sys.argv[2]))
"""
TAKE = """
import os, sys, time
from raypo.errors import OutputError
from raypo.stages.owner import owned
root, start = sys.argv[1], float(sys.argv[2])
time.sleep(max(0.0, start - time.time()))
try:
    with owned(root):
        os.close(os.open(root + ".inside", os.O_CREAT | os.O_EXCL))
        time.sleep(3.0)
        os.unlink(root + ".inside")
    print("owned")
except OutputError:
    print("refused")
"""


def process(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def files(root: Path) -> list[Path]:
    return sorted(root.parent.glob(f".{root.name}.owner-*"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Of a run that has not begun."""
    return tmp_path / "runs" / "mine"


@pytest.fixture
def holder(root: Path) -> Iterator[subprocess.Popen[str]]:
    """A driver of the run, in a process of its own."""
    with process(HOLD, root, 300) as held:
        assert held.stdout is not None
        assert held.stdout.readline() == "owned\n"
        yield held
        held.kill()


def test_a_second_driver_is_refused_in_one_message_that_names_the_first(
    root: Path, holder: subprocess.Popen[str], tiny_model: Path
) -> None:
    """By both ways to run, before either has written anything; the exit code is that of what a user can mend."""
    config = run_config(tiny_model, root.parent).model_copy(update={"name": root.name})
    for verb in (run, train_offline):
        with pytest.raises(
            OutputError, match=f"owned by process {holder.pid} on .*, since 20.*last sign of life 20"
        ) as e:
            verb(config)
        assert "wait for process" in e.value.remedy
        assert e.value.exit_code == 2
    assert not root.exists()
    assert len(files(root)) == 1


def test_samples_and_a_comparison_have_one_driver_too(
    root: Path, holder: subprocess.Popen[str], tiny_tied_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two in one folder would set the other's half-made tables aside."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    rewards = [{"name": "ones", "path": "tests.rewards_of_tests:ones"}]
    lengths = {"prompts": {"max_prompt_tokens": 8}, "sampling": {"max_response_tokens": 8}}
    config = build(run_config(tiny_tied_model, root.parent, **lengths).model_dump(mode="json") | {"rewards": rewards})
    compared = [Policy("p", "p", str(tiny_tied_model))]
    for call in (lambda: sample_policy(config, root), lambda: evaluate_policies(config, compared, root)):
        with pytest.raises(OutputError, match=f"owned by process {holder.pid} ") as e:
            call()
        assert "--out" in e.value.remedy
    assert not root.exists()
    assert len(files(root)) == 1


def test_after_a_kill_the_next_driver_does_not_wait(root: Path, holder: subprocess.Popen[str]) -> None:
    """Though nobody has asked for the killed one's exit code, so that its number is still taken."""
    holder.kill()
    while owner._born(holder.pid) is not None:
        time.sleep(0.01)
    began = time.monotonic()
    with owned(str(root)):
        assert time.monotonic() - began < 1.0
        assert len(files(root)) == 1
    assert files(root) == []


def test_a_number_that_another_process_has_now_is_no_sign_of_life(root: Path, holder: subprocess.Popen[str]) -> None:
    told = json.loads(files(root)[0].read_text())
    files(root)[0].write_text(json.dumps(told | {"born": "1"}))
    with owned(str(root)):
        pass


def test_of_drivers_that_come_at_once_one_is_let_in(root: Path) -> None:
    """Six, at one time by the clock. A second one inside would fail on the file that is made there, and print nothing.

    The first holds the folder for longer than the others need to be refused.
    """
    root.parent.mkdir()
    together = [process(TAKE, root, time.time() + 4.0) for _ in range(6)]
    told = [one.communicate(timeout=120)[0].strip() for one in together]
    assert sorted(told) == ["owned"] + ["refused"] * 5
    assert files(root) == []


def elsewhere(root: Path) -> Path:
    """The file of a driver on another machine."""
    root.parent.mkdir(exist_ok=True)
    path = root.with_name(f".{root.name}.owner-0123456789ab.json")
    told = {"host": "far", "place": "far away", "pid": 7, "born": "1", "began": "2026-01-01", "seen": "2026-01-01"}
    path.write_text(json.dumps(told | {"beat": "0"}))
    return path


def test_another_machines_driver_is_dead_when_it_is_silent_for_long_enough(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, "STALE_S", 1.0)
    path, began = elsewhere(root), time.monotonic()
    with owned(str(root)):
        assert time.monotonic() - began >= 1.0
        assert not path.exists()


def test_another_machines_driver_that_renews_its_file_owns_the_folder(root: Path) -> None:
    """Its clock says last January: only that the file changes counts."""
    path = elsewhere(root)
    renewed = threading.Timer(1.0, lambda: path.write_text(path.read_text().replace('"0"', '"1"')))
    renewed.start()
    with pytest.raises(OutputError, match="process 7 on far"), owned(str(root)):
        pass
    renewed.join()
    assert files(root) == [path]


def test_a_file_is_renewed_and_a_driver_without_its_file_ends(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a call that would last a minute; the signal's handler is the older one again."""
    monkeypatch.setattr(owner, "RENEW_S", 0.1)
    before, began = signal.getsignal(owner.LOST_SIGNAL), time.monotonic()

    def drive() -> None:
        with owned(str(root)):
            first = files(root)[0].read_bytes()
            time.sleep(0.5)
            assert files(root)[0].read_bytes() != first
            files(root)[0].unlink()
            time.sleep(60.0)

    with pytest.raises(RunError, match="another driver has taken over"):
        drive()
    assert time.monotonic() - began < 30.0
    assert signal.getsignal(owner.LOST_SIGNAL) == before
    assert files(root) == []


def test_a_drivers_file_within_another_folder_is_known_as_one(root: Path) -> None:
    """`raypo evaluate` keeps its figures in the run's folder: its claim is not copied to the run's mirror."""
    with owned(str(root)):
        assert [owner.is_no_claim(path.name) for path in files(root)] == [False]
    assert owner.is_no_claim(".doctor-1")
    assert owner.is_no_claim("the.owner-s.json")


def test_a_block_within_a_block_is_the_same_driver_and_another_thread_is_not(root: Path) -> None:
    with owned(str(root)):
        with owned(str(root)):
            assert len(files(root)) == 1
        assert len(files(root)) == 1
        with pytest.raises(OutputError, match=f"process {os.getpid()} "):
            contextvars.Context().run(lambda: owned(str(root)).__enter__())
    assert not root.parent.exists()  # made for the file alone


def test_a_place_that_cannot_be_written_is_told(root: Path) -> None:
    root.parent.write_text("a file")
    with pytest.raises(OutputError, match="cannot write to"), owned(str(root)):
        pass


def test_a_run_that_has_not_ended_needs_an_owner_where_nobody_can_write() -> None:
    """The kernel's own folder takes no file, even from root."""
    with pytest.raises(OutputError, match="cannot write"), owned("/sys/raypo/run"):
        pytest.fail("it began without an owner")


def test_what_a_kill_left_half_written_is_removed_and_a_living_drivers_is_not(root: Path) -> None:
    """Number 1 runs, and began when it began; a number that is too large for a process does not."""
    told = {"place": owner._place()}
    dead = root.with_name(f".{root.name}.owner-dead.tmp")
    living = root.with_name(f".{root.name}.owner-living.tmp")
    root.parent.mkdir(exist_ok=True)
    dead.write_text(json.dumps(told | {"pid": 2**22 + 1, "born": "5"}))
    living.write_text(json.dumps(told | {"pid": os.getpid(), "born": owner._born(os.getpid())}))
    with owned(str(root)):
        assert (dead.exists(), living.exists()) == (False, True)
