"""The main job on the real parts: Ray Data, vLLM, FSDP2 on two gloo workers, hot sync; and what bad input gets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from hf_folders import make_model
from transformers import AutoModelForCausalLM

from raypo.config import build, load
from raypo.errors import UserError
from raypo.online.folder import RunFolder
from raypo.online.run import run
from raypo.stages import tables

REWARDS = '''
"""Reward functions of the test."""

def ones(prompts, responses, metadata):
    return [float(response.count("1")) for response in responses]

def brevity(prompts, responses, metadata):
    return [-float(len(response)) for response in responses]

def same(prompts, responses, metadata):
    return [1.0] * len(responses)

def nan(prompts, responses, metadata):
    return [float("nan")] * len(responses)

def broken(prompts, responses, metadata):
    raise KeyError("no such thing")
'''


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, prompts, rewards and a run's config."""
    folder = tmp_path_factory.mktemp("run")
    make_model(folder / "policy", tied=True)
    rows = [{"prompt": f"w{i} w{i + 3} w{i + 7}", "number": i} for i in range(40)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "run_rewards.py").write_text(REWARDS)
    config = {
        "name": "tiny",
        "output": str(folder / "runs"),
        "policy": {"path": str(folder / "policy"), "compute_dtype": "float32", "export_dtype": "float32"},
        "prompts": {"path": str(folder / "prompts.jsonl"), "heldout_fraction": 0.25, "max_prompt_tokens": 16},
        "sampling": {"num_responses": 4, "max_response_tokens": 12, "batch_prompts": 8},
        "rewards": [
            {"name": "ones", "path": "run_rewards:ones"},
            {"name": "brevity", "path": "run_rewards:brevity", "weight": 0.0},
        ],
        "objective": {"preset": "mallows-mpo"},
        "training": {"workers": 2, "learning_rate": 1e-3, "sets_per_step": 8},
        "online": {"rounds": 2, "prompts_per_round": 16},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    return folder


def raypo(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, started in the run's folder."""
    environment = os.environ | {"PYTHONPATH": str(place)}
    command = [sys.executable, "-m", "raypo.cli", *arguments]
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=400, check=False)


@pytest.mark.slow
def test_a_run_goes_from_prompts_to_a_policy_and_conserves_rows(place: Path) -> None:
    """Two rounds; then the same command again, and one with another config."""
    # relative to where the command stands, as in README's example; the workers stand elsewhere
    relative = ["output=runs", "policy.path=policy", "prompts.path=prompts.jsonl"]
    done = raypo(place, "run", "run.yaml", *relative)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    summary = json.loads((place / "runs/tiny/summary.json").read_text())
    assert (summary["rounds"], summary["weight_versions"], summary["engine_starts"]) == (2, [0, 1, 2], 1)
    assert summary["kl_per_response"]["mean"] > 0
    # the engine's log-probs at every version are those of the exported folder: what is evaluated is what is exported
    assert max(summary["engine_gap_per_token"]) < 1e-4
    assert all(share > 0.5 for share in summary["changed_fraction"])
    folder = RunFolder(build(yaml.safe_load((place / "run.yaml").read_text())))
    for index in range(2):
        check_round(folder, index)
    model = AutoModelForCausalLM.from_pretrained(summary["model"])
    assert sum(p.numel() for p in model.parameters()) == 95_040  # 200 x 64 + 2 layers of 41,088 + norm 64
    page = (place / "runs/tiny/report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "<script" not in page
    again = raypo(place, "run", "run.yaml", *relative)
    assert (again.returncode, "is finished" in again.stdout) == (0, True)
    other = raypo(place, "run", "run.yaml", "output=runs", "training.learning_rate=2e-3")
    assert other.returncode == 2
    assert "training.learning_rate (0.001 -> 0.002)" in other.stderr


def check_round(folder: RunFolder, index: int) -> None:
    """In = kept + dropped, per stage; ties never train; each row names the version that drew it."""
    sampled, scored, annotated = (tables.read(folder.stage(index, name)) for name in ("sampled", "scored", "annotated"))
    ids = sampled[0]["prompt_id"].to_pylist()
    assert len(ids) == 16
    assert scored[0]["prompt_id"].to_pylist() == annotated[0]["prompt_id"].to_pylist() == ids
    assert set(sampled[0]["weight_version"].to_pylist()) == {index}
    facts = scored[1].facts
    usable = sum(sum(row) for row in scored[0]["usable"].to_pylist())
    assert facts["responses"] == 64 == usable + sum(facts["unusable"].values())
    facts = annotated[1].facts
    assert facts["sets"] == 16 == facts["trainable"] + sum(facts["untrainable"].values())
    for row in annotated[0].to_pylist():
        kept = [reward for reward, ok in zip(row["rewards"], row["usable"], strict=True) if ok]
        assert row["trainable"] == (len(kept) > 1 and max(kept) > min(kept))


def write(place: Path, name: str, text: str) -> str:
    (place / name).write_text(text)
    return str(place / name)


EARLY: dict[str, tuple[Any, str]] = {
    "empty prompt file": (lambda p: [f"prompts.path={write(p, 'empty.jsonl', '')}"], "empty"),
    "missing column": (lambda p: ["prompts.column=question"], "question"),
    "wrong type": (lambda p: [f"prompts.path={write(p, 'typed.jsonl', json.dumps({'prompt': 3}))}"], "prompt"),
    "not JSON": (lambda p: [f"prompts.path={write(p, 'torn.jsonl', '{')}"], "1"),
    "no such file": (lambda p: [f"prompts.path={p / 'none.jsonl'}"], "none.jsonl"),
    "no model folder": (lambda p: [f"policy.path={p / 'none'}"], "none"),
    "one response per prompt": (lambda p: ["sampling.num_responses=1"], "no preference"),
    "unknown preset": (lambda p: ["objective.preset=w-mop"], "w-mpo"),
    "misspelt key": (lambda p: ["training.learning_rat=1"], "learning_rate"),
    "no reward": (lambda p: ["rewards=[]"], "reward"),
    "reward not importable": (lambda p: ["rewards.0.path=nowhere:f"], "nowhere"),
    "prompts longer than the limit": (lambda p: ["prompts.max_prompt_tokens=1"], "prompt"),
    "unwritable output": (lambda p: [f"output={write(p, 'file', '')}"], "cannot write"),
    "shared placement": (lambda p: ["cluster.placement=shared"], "split"),
}


@pytest.mark.parametrize("case", EARLY)
def test_bad_input_ends_in_one_message_before_anything_starts(
    case: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error for the user with what was got, and nothing that looks like a run's result."""
    monkeypatch.syspath_prepend(str(place))
    make, told = EARLY[case]
    name, began = case.replace(" ", "-"), ray.is_initialized()
    with pytest.raises(UserError) as caught:
        run(load(place / "run.yaml", [f"name={name}", *make(place)]))
    assert told in str(caught.value)
    assert ray.is_initialized() == began
    assert not (place / "runs" / name / "summary.json").exists()
    assert not (place / "runs" / name / "prompts" / tables.MANIFEST).exists()


def test_the_command_line_tells_a_failure_in_one_message(place: Path) -> None:
    """Exit code 2, the message on standard error, no traceback."""
    done = raypo(place, "run", "run.yaml", "training.learning_rat=1")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean 'learning_rate'" in done.stderr
    assert "Traceback" not in done.stderr


LATE = {"same": "online.min_trainable_fraction", "nan": "could not be scored", "broken": "raised on every one of"}


@pytest.mark.chaos
@pytest.mark.parametrize("function", list(LATE))
def test_a_reward_from_which_nothing_can_be_learned_ends_the_run(function: str, place: Path) -> None:
    """All rewards equal, none a number, or a function that raises: exit code 2, and no weight version is made."""
    done = raypo(place, "run", "run.yaml", f"name=late-{function}", f"rewards.0.path=run_rewards:{function}")
    assert done.returncode == 2, done.stdout + done.stderr
    assert LATE[function] in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not (place / "runs" / f"late-{function}" / "checkpoints").exists()


@pytest.mark.slow
def test_too_few_logical_cpus_are_refused_with_asked_and_free(place: Path) -> None:
    """2 train workers, 1 engine, 1 reference and 2 for Ray Data: 6 asked, 3 free."""
    done = raypo(place, "run", "run.yaml", "name=small", "cluster.ray_cpus=3")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "asks for 6 CPUs and 3 are free" in done.stderr
