"""`raypo evaluate` on the real parts: Ray, vLLM, rewards and a judge; and what is refused before anything starts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
import yaml
from hf_folders import make_model
from safetensors.torch import load_file, save_file
from tiny import annotated, prompt_table

from raypo.config import RunConfig, load
from raypo.errors import ConfigError, DataError, ModelError, RewardError
from raypo.online.comparison_prompts import commit_prompts, prompts_of_sets, read_prompts
from raypo.online.evaluation import (
    Policy,
    config_of_run,
    evaluate_policies,
    missing,
    places,
    policies_of,
    policies_of_run,
)
from raypo.online.folder import RunFolder
from raypo.records import PROMPTS
from raypo.stages import tables

REWARDS = """
def ones(prompts, responses, metadata):
    return [float(response.count("1")) for response in responses]
"""


@pytest.fixture(scope="module")
def judge() -> Iterator[str]:
    """A judge that always takes the first place."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps({"choices": [{"message": {"content": "[[A]]"}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_address[1]}/v1/chat/completions"
    listening.shutdown()
    listening.server_close()


def moved_model(source: Path, folder: Path, *, seed: int, by: float) -> Path:
    """The model with seeded noise on its weights."""
    folder.mkdir()
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    rng = torch.Generator().manual_seed(seed)
    weights = load_file(source / "model.safetensors")
    noisy = {name: w + by * torch.randn(w.shape, generator=rng) for name, w in weights.items()}
    save_file(noisy, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, judge: str) -> Path:
    """A folder with a start, three policies, prompts, a reward and a config."""
    folder = tmp_path_factory.mktemp("evaluate")
    start = make_model(folder / "start", tied=True)
    for name, seed, by in (("same", 0, 0.0), ("one", 1, 0.02), ("two", 2, 0.02)):
        moved_model(start, folder / name, seed=seed, by=by)
    rows = [{"prompt": f"w{i} w{i + 3} w{i + 7}"} for i in range(40)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "judges.py").write_text(REWARDS)
    config = {
        "policy": {"path": str(start), "compute_dtype": "float32", "export_dtype": "float32"},
        "prompts": {"path": str(folder / "prompts.jsonl"), "heldout_fraction": 0.5, "max_prompt_tokens": 16},
        "sampling": {"max_response_tokens": 12, "batch_prompts": 8},
        "rewards": [{"name": "ones", "path": "judges:ones"}],
        "engine": {"backend": "cpu", "max_model_tokens": 64},
        "evaluation": {
            "num_prompts": 12,
            "num_responses": 4,
            "bootstrap_samples": 200,
            "judge": {"url": judge, "model": "first", "attempts": 1},
        },
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    return folder


def prepared(config: RunConfig, out: Path) -> pa.Table:
    """The held-out prompts as a comparison takes them."""
    return commit_prompts(config, out, read_prompts(config, out))


def raypo(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in the folder, with this checkout's package."""
    paths = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "raypo.cli", *arguments],
        cwd=place,
        env=os.environ | {"PYTHONPATH": paths, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.chaos
def test_policies_are_compared_on_the_same_prompts_with_the_same_seeds(place: Path) -> None:
    """`same` has the start's weights: the same responses, gain 0, KL 0. Two seeds of `noise` are put together."""
    command = ["evaluate", "run.yaml", "--policy", "same=same", "--policy", "noise=one", "--policy", "noise=two"]
    done = raypo(place, *command, "--out", "out")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((place / "out" / "evaluation.json").read_text())
    same, noise = told["policies"]["same"], told["policies"]["noise"]
    assert (same["reward_gain"]["mean"], same["reward_win_rate"]["mean"]) == (0.0, 0.5)
    assert same["kl_per_response"]["mean"] == pytest.approx(0.0, abs=1e-5)
    assert same["chosen_shift"]["mean"] == pytest.approx(0.0, abs=1e-4)
    assert noise["kl_per_response"]["mean"] > 0.01
    assert noise["reward"]["n"] == told["prompts"] == 12
    assert set(told["seeds"]) == {"noise"}
    assert told["seeds"]["noise"]["seeds"] == 2
    assert len(told["pairs"]) == 5  # six but for the two seeds of noise
    assert "same against noise" in told["equal_kl"]
    assert told["judged"]["noise.2"]["position_bias"]["mean"] == 0.5  # it always takes the first place
    assert told["judged"]["noise.2"]["win_rate"]["mean"] == 0.5
    assert "noise.2" in done.stdout
    again = raypo(place, *command, "--out", "out")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "sampled and measured" not in again.stdout  # everything is committed
    twice = json.loads((place / "out" / "evaluation.json").read_text())
    assert json.dumps(twice | {"wall_seconds": 0}) == json.dumps(told | {"wall_seconds": 0})  # as text: NaN is itself
    other = raypo(place, *command, "--policy", "more=one", "--out", "out")
    assert other.returncode == 2
    assert "holds another comparison; changed: policies.more" in other.stderr


def test_a_torn_table_is_made_again_and_what_was_measured_with_it(tmp_path: Path) -> None:
    """Of a policy: its own tables. Of the start: everyone's. A manifest that is cut off is torn too."""
    everyone = [Policy(name, name, "x") for name in ("start", "a", "b")]

    def commit_all() -> None:
        for one in everyone:
            for table in places(one, tmp_path):
                tables.commit(table, prompt_table("p", "q"), "prompts")

    assert missing(everyone, tmp_path) == everyone
    commit_all()
    assert missing(everyone, tmp_path) == []
    for torn, left in (("a/moved", everyone[1:2]), ("b/scored", everyone[2:]), ("start/measured", everyone)):
        for file in ("*.parquet", "_manifest.json"):
            commit_all()
            for path in (tmp_path / "policies" / torn).rglob(file):
                path.write_bytes(path.read_bytes()[:-9])
            assert missing(everyone, tmp_path) == left
            whole = [one for one in everyone if all(tables.read(table) for table in places(one, tmp_path))]
            assert whole == [one for one in everyone if one not in left]
            assert missing(everyone, tmp_path) == left  # also if the command was killed before it drew them


def test_torn_prompts_are_prepared_again(place: Path, tmp_path: Path) -> None:
    config = load(place / "run.yaml", [])
    found = prepared(config, tmp_path)
    for path in (tmp_path / "prompts").rglob("*.parquet"):
        path.write_bytes(path.read_bytes()[:-9])
    assert prepared(config, tmp_path).equals(found)


def test_a_policy_given_again_is_another_seed() -> None:
    assert policies_of(["a=x", "a=y", "b:v1=x=z", "b:v1=w", "b:v2=w"]) == [
        Policy("a", "a", "x"),
        Policy("a.2", "a", "y"),
        Policy("b-v1", "b", "x=z", "v1"),
        Policy("b-v1.2", "b", "w", "v1"),
        Policy("b-v2", "b", "w", "v2"),
    ]


def test_an_offline_run_has_the_one_version_that_it_trained(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It evaluates no version while it trains; a checkpoint without its manifest is not one yet."""
    monkeypatch.syspath_prepend(str(place))
    made = load(place / "run.yaml", ["name=given", f"output={tmp_path}"])
    folder = RunFolder(made)
    record = {"kind": "offline", "config": json.loads(made.model_dump_json()), "pins": {}, "earlier_pins": []}
    tables.write_json(folder.path("run.json"), record)
    config = config_of_run(Path(folder.root))
    Path(folder.model(1)).mkdir(parents=True)
    with pytest.raises(DataError, match="no trained version"):
        policies_of_run(config)
    tables.write_json(str(Path(folder.checkpoint(1)) / "manifest.json"), {})
    assert policies_of_run(config) == [Policy("given-v1", "given", folder.model(1), "v1")]

    sets = annotated(5, responses=2, round_index=0)
    texts = pa.array(["b", "b", "a", "c", "a"])
    place_of_sets = folder.path("heldout", "annotated")
    tables.commit(place_of_sets, sets.set_column(sets.column_names.index("prompt"), "prompt", texts), "annotated")
    found = prepared(config, tmp_path / "out")
    assert sorted(found["prompt"].to_pylist()) == ["a", "b", "c"]
    assert found.schema.names == PROMPTS.names
    assert prepared(config, tmp_path / "out").equals(found)
    moved = shutil.copytree(config.policy.path, tmp_path / "moved")
    elsewhere = config.policy.model_copy(update={"path": str(moved)})
    with pytest.raises(ConfigError, match=r"as another policy reads them; changed: policy\.path"):
        evaluate_policies(
            config.model_copy(update={"policy": elsewhere}), [Policy("p", "p", str(moved))], tmp_path / "other"
        )
    nowhere = config.prompts.model_copy(update={"path": "/nowhere/prompts.jsonl"})
    with pytest.raises(DataError, match="nowhere"):
        evaluate_policies(
            config.model_copy(update={"prompts": nowhere}), [Policy("p", "p", str(moved))], tmp_path / "other"
        )
    assert not (tmp_path / "other").exists()
    others = config.prompts.model_copy(update={"path": "/nowhere/others.jsonl"})
    assert prompts_of_sets(config.model_copy(update={"prompts": others})) is None


@pytest.mark.parametrize("text", ["a", "=x", "a=", "start=x", "a b=x", "../a=x", "a:=x"])
def test_a_policy_without_a_name_or_a_folder_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="METHOD=FOLDER"):
        policies_of([text])


def test_what_cannot_be_compared_is_refused_before_anything_starts(
    place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No such folder; another shape; no reward with a weight; a judge without its token."""
    monkeypatch.syspath_prepend(str(place))
    good = load(place / "run.yaml", [])
    with pytest.raises(ModelError, match="nowhere"):
        evaluate_policies(good, [Policy("a", "a", str(place / "nowhere"))], tmp_path / "out")
    shaped = json.loads((place / "one" / "config.json").read_text()) | {"num_hidden_layers": 1}
    odd = moved_model(place / "start", tmp_path / "odd", seed=0, by=0.0)
    (odd / "config.json").write_text(json.dumps(shaped))
    with pytest.raises(ModelError, match="num_hidden_layers 2 -> 1"):
        evaluate_policies(good, [Policy("a", "a", str(odd))], tmp_path / "out")
    one = [Policy("a", "a", str(place / "one"))]
    with pytest.raises(ConfigError, match="no reward source with a weight"):
        evaluate_policies(load(place / "run.yaml", ["rewards.0.weight=0"]), one, tmp_path / "out")
    monkeypatch.delenv("NO_TOKEN", raising=False)
    with pytest.raises(RewardError, match="NO_TOKEN is not set"):
        evaluate_policies(load(place / "run.yaml", ["evaluation.judge.token_env=NO_TOKEN"]), one, tmp_path / "out")
    assert not (tmp_path / "out" / "evaluate.json").exists()
