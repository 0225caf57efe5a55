"""raypo.training.tracking: one line per step, whatever happened before."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tiny import run_config

from raypo.errors import ConfigError
from raypo.training import tracking
from raypo.training.tracking import Tracker, read_metrics


def test_steps_after_the_last_checkpoint_and_a_torn_line_are_dropped(tmp_path: Path) -> None:
    """Steps 1 to 3 were told, and half of 4; the newest checkpoint is of step 2: 3 is done, and told, again."""
    first = Tracker(run_config("m", tmp_path), tmp_path, 0)
    for step in (1, 2, 3):
        first.step({"step": step, "loss": step / 2})
    first.close()
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 4, "lo')
    again = Tracker(run_config("m", tmp_path), tmp_path, 2)
    again.step({"step": 3, "loss": 7.0})
    again.close()
    told = read_metrics(tmp_path / "metrics.jsonl")
    assert told == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 1.0}, {"step": 3, "loss": 7.0}]


def test_what_a_power_loss_made_of_a_metrics_file_is_dropped(tmp_path: Path) -> None:
    """Zeros, half a character, a number, a list, an object that is of no step: steps 1 and 2 are left."""
    lines = [b'{"step": 1, "loss": 0.5}', b"\0" * 9, b"\xe2\x82", b"3", b"[1]", b'{"loss": 1.0}', b'{"step": "2"}']
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\n".join([*lines, b'{"step": 2, "loss": 0.25}', b'{"step": 3, "lo']))
    assert read_metrics(path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]
    Tracker(run_config("m", tmp_path), tmp_path, 1).close()
    assert path.read_text() == '{"step": 1, "loss": 0.5}\n'


def test_numbers_reach_tensorboard_under_their_names(tmp_path: Path) -> None:
    tracker = Tracker(run_config("m", tmp_path), tmp_path, 0)
    tracker.step({"step": 1, "rewards/margins": 0.25})
    tracker.close()
    events = [path.read_bytes() for path in (tmp_path / "tensorboard").iterdir()]
    assert any(b"rewards/margins" in event for event in events)


def test_tensorboard_can_be_left_out(tmp_path: Path) -> None:
    tracker = Tracker(run_config("m", tmp_path, tracking={"tensorboard": False}), tmp_path, 0)
    tracker.step({"step": 1, "loss": 0.25})
    tracker.close()
    assert not (tmp_path / "tensorboard").exists()
    assert json.loads((tmp_path / "metrics.jsonl").read_text(encoding="utf-8")) == {"step": 1, "loss": 0.25}


@pytest.mark.parametrize(("field", "package"), [("mlflow_uri", "mlflow"), ("wandb_project", "wandb")])
def test_a_tracker_that_is_not_installed_is_refused_with_the_remedy(field: str, package: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is installed here")
    with pytest.raises(ConfigError, match=rf"tracking\.{field} is set and {package} is not installed(.|\n)*install"):
        Tracker(run_config("m", tmp_path, tracking={field: "x"}), tmp_path, 0)


CLIENT = """
import http.client, json, os, types

def send(**what):
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ["TRACKER_PORT"]), timeout=5)
    connection.request("POST", "/", json.dumps(what))
    if connection.getresponse().status != 200:
        raise RuntimeError("no right: Bearer hf_LOSTlostLOSTlostLOSTlost")

# of both packages
set_tracking_uri = lambda uri: None
log = log_metrics = lambda numbers, step: send(step=step, numbers=numbers)
end_run = finish = lambda: send(ended=True)

def start_run(run_id, run_name):
    send(started=run_name)
    return types.SimpleNamespace(info=types.SimpleNamespace(run_id=run_id or "one"))

def init(project, name, dir, id, resume):
    send(started=name)
    return types.SimpleNamespace(id=id or "one")
"""


@pytest.mark.parametrize(("field", "package"), [("mlflow_uri", "mlflow"), ("wandb_project", "wandb")])
def test_a_tracking_server_that_is_away_is_warned_about_once_and_the_run_goes_on(
    field: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A package of that name which asks a real server: nobody listens, then it refuses, then it takes what comes."""
    asked: list[dict[str, Any]] = []
    status = [401]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.extend([told] if status[0] == 200 else [])
            self.send_response(status[0])
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    (tmp_path / f"{package}.py").write_text(CLIENT)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr(tracking, "PAUSE_S", 0.0)
    monkeypatch.setattr(tracking, "PATIENCE", 0.0)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    monkeypatch.setenv("TRACKER_PORT", "9")
    tracker = Tracker(run_config("m", tmp_path, tracking={field: "x"}), tmp_path, 0)
    tracker.step({"step": 1, "loss": 1.0})
    monkeypatch.setenv("TRACKER_PORT", str(server.server_address[1]))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    tracker.step({"step": 2, "loss": 1.0})
    status[0] = 200
    tracker.step({"step": 3, "loss": 1.0})
    monkeypatch.setattr(tracking, "PAUSE_S", 60.0)
    status[0] = 401
    tracker.step({"step": 4, "loss": 1.0})
    status[0] = 200
    tracker.step({"step": 5, "loss": 1.0})  # it is left alone
    tracker.close()
    server.shutdown()
    server.server_close()
    sys.modules.pop(package)
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5]
    assert asked == [{"started": "run"}, {"step": 3, "numbers": {"loss": 1.0}}, {"ended": True}]
    assert json.loads((tmp_path / "trackers.json").read_text()) == {package: "one"}
    told = [one.getMessage() for one in caplog.records if one.name == tracking.__name__]
    assert len(told) == 1
    assert f"{package} takes no metrics" in told[0]


def test_a_metrics_file_that_cannot_be_written_ends_the_run(tmp_path: Path) -> None:
    tracker = Tracker(run_config("m", tmp_path), tmp_path, 0)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(IsADirectoryError):
        tracker.step({"step": 1, "loss": 1.0})


@pytest.mark.trackers
def test_mlflow_has_the_steps_and_a_run_that_goes_on_is_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="needs the dependency group trackers")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    config = run_config("m", tmp_path, tracking={"mlflow_uri": (tmp_path / "store").as_uri()})
    for step in (1, 2):
        tracker = Tracker(config, tmp_path, step - 1)
        tracker.step({"step": step, "loss": step / 2})
        tracker.close()
    found = mlflow.MlflowClient().search_runs(["0"])
    assert [one.info.run_name for one in found] == [config.name]
    told = mlflow.MlflowClient().get_metric_history(found[0].info.run_id, "loss")
    assert [(one.step, one.value) for one in told] == [(1, 0.5), (2, 1.0)]


@pytest.mark.trackers
def test_wandb_writes_offline_runs_under_one_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="needs the dependency group trackers")
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = run_config("m", tmp_path, tracking={"wandb_project": "raypo"})
    for step in (1, 2):
        tracker = Tracker(config, tmp_path, step - 1)
        tracker.step({"step": step, "loss": step / 2})
        tracker.close()
    known = json.loads((tmp_path / "trackers.json").read_text(encoding="utf-8"))["wandb"]
    written = list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert written
    assert {path.stem for path in written} == {f"run-{known}"}
    assert b"loss" in written[0].read_bytes()
