"""`raypo doctor --no-sample` in this process, and the checks by themselves: no Ray is started."""

from __future__ import annotations

import json
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from hf_folders import make_model
from tiny import run_config
from transformers import AutoTokenizer

from raypo.cli import main
from raypo.config import load
from raypo.doctor import checks, data, memory, model_shape, rehearsal, surroundings
from raypo.doctor.findings import Finding, failed, ok, tried
from raypo.doctor.memory import host_memory, on_gpus, on_host
from raypo.errors import EngineError, IntegrityError, LostProcess, RaypoError, ResourceError, RunError

REWARDS = "def ones(prompts, responses, metadata):\n    return [0.0 for _ in responses]\n"


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny models: one with a chat template, and one without a template."""
    place = tmp_path_factory.mktemp("policies")
    make_model(place / "chat", tied=True, chat=True)
    make_model(place / "plain", tied=True)
    return place


@pytest.fixture
def place(tmp_path: Path, policies: Path) -> Path:
    """A run's config, prompts and rewards."""
    rows = [{"prompt": "w1 " * (index % 3 + 1)} for index in range(12)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "preflight_rewards.py").write_text(REWARDS)
    tree = {
        "policy": {"path": str(policies / "plain"), "compute_dtype": "float32", "export_dtype": "float32"},
        "prompts": {"path": "prompts.jsonl", "max_prompt_tokens": 16},
        "sampling": {"num_responses": 4, "max_response_tokens": 12},
        "rewards": [{"name": "ones", "path": "preflight_rewards:ones"}],
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree))
    return tmp_path


Doctor = Callable[..., tuple[int, str]]


@pytest.fixture
def doctor(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Doctor]:
    """`raypo doctor run.yaml --no-sample ...` here; answers exit code and standard output, spaces made one."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def call(*overrides: str) -> tuple[int, str]:
        sys.modules.pop("preflight_rewards", None)
        monkeypatch.setattr(sys, "argv", ["raypo", "doctor", "run.yaml", "--no-sample", *overrides])
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        return int(ended.value.code or 0), " ".join(told.out.split())

    yield call
    signal.signal(signal.SIGTERM, before)


def test_a_sound_config_passes_every_check(doctor: Doctor) -> None:
    """12 prompts of 1, 2 and 3 tokens and the beginning-of-sequence token that this tokenizer does not add."""
    code, out = doctor()
    assert code == 0
    assert "policy ok" in out
    assert "llama, 200 tokens, 256 positions" in out
    assert "dropped 0 too long, 0 empty; tokens 1 to 3, median 2" in out
    assert "resources ok 5 of" in out
    assert "responses skipped none was sampled" in out
    assert "fail" not in out


def test_what_fails_is_told_with_what_to_do_and_the_rest_is_still_looked_at(doctor: Doctor) -> None:
    """Two failures in one table; a run would have ended at the first."""
    code, out = doctor("rewards.0.path=preflight_rewards:two", "sampling.max_response_tokens=300")
    assert code == 2
    assert "rewards fail" in out
    assert "policy fail" in out
    assert "what to do: lower one of the two" in out
    assert "prompts ok" in out
    assert "Ray and responses skipped not tried" in out


@pytest.mark.parametrize("error", [EngineError, LostProcess, IntegrityError, RunError])
def test_what_breaks_in_a_check_is_a_failure_of_the_table(error: type[RaypoError]) -> None:
    """As of the rehearsal: what was found before it would be lost with it."""

    def check() -> Finding:
        raise error("the engine died", "an engine", "look at its log")

    found = tried("responses", check)
    assert found == [Finding("responses", "fail", "the engine died", "an engine", "look at its log")]
    assert failed(found)


def test_a_damaged_record_in_the_mirror_is_told_beside_the_rest(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "kept" / "mine").mkdir(parents=True)
    (tmp_path / "kept" / "mine" / "run.json").write_bytes(b"\0" * 40)
    code, out = doctor("name=mine", f"mirror={(tmp_path / 'kept').as_uri()}")
    assert code == 2
    assert "output fail" in out
    assert "is not JSON" in out
    assert "prompts ok" in out


def test_more_logical_cpus_than_there_are_is_a_failure_of_arithmetic(doctor: Doctor) -> None:
    """1 engine, 1 train worker, 1 reference and 2 for Ray Data: 5."""
    code, out = doctor("cluster.ray_cpus=4")
    assert code == 2
    assert "asks for 5 logical CPUs and a Ray that raypo starts here has 4" in out


def test_given_sets_are_shown_as_they_are_trained(doctor: Doctor, place: Path) -> None:
    """No reward source: a run of `raypo train`. The end of a response is shown; one of two sets is a tie."""
    rows = [
        {"prompt": "w1 w2", "responses": ["w3", "w4"], "rewards": [1.0, 0.5]},
        {"prompt": "w5", "responses": ["w6", "w7"], "rewards": [0.25, 0.25]},
    ]
    (place / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out = doctor("rewards=[]")
    assert code == 0
    assert "given rewards ok 0.25 to 1, mean 0.5; 0 of 4 responses without one; 1 of 2 sets are ties" in out
    assert "response 0 (2 tokens): w3</s>" in out
    assert "trust in given rewards ok nothing speaks against its size or order on 4 responses to 2 prompts" in out


def test_a_dispersion_that_is_to_be_given_is_looked_for_in_every_file(doctor: Doctor, place: Path) -> None:
    """In sets, in those that are held out, and in prompts alone; a run reads all rows, and the doctor the first."""
    row: dict[str, object] = {"prompt": "w1 w2", "responses": ["w3", "w4"], "rewards": [1.0, 0.5]}
    (place / "prompts.jsonl").write_text(json.dumps(row | {"dispersion": 0.5}) + "\n")
    (place / "heldout.jsonl").write_text(json.dumps(row | {"prompt": "w5", "dispersion": -1}) + "\n")
    assert doctor("rewards=[]", "dispersion.estimator=given")[0] == 0
    code, out = doctor("rewards=[]", "dispersion.estimator=given", "prompts.heldout_path=heldout.jsonl")
    assert (code, "'dispersion' int -1" in out) == (2, True)
    (place / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"w{i}"}) + "\n" for i in range(12)))
    code, out = doctor("dispersion.estimator=given")
    assert (code, "12 of 12 rows have no known dispersion" in out) == (2, True)


def test_given_rewards_that_are_doubted_are_told_before_anything_trains(doctor: Doctor, place: Path) -> None:
    """Of three responses the longest has 9 and the others 0 and 0.1, in every set.

    Skewness of (6, -3.03, -2.93) about 0.71 is below 1: nothing. Ranks follow the lengths 4, 1, 2 in all sets: 1.
    """
    rows = [
        {"prompt": f"w{i}", "responses": ["w3 w4 w5", f"w{i + 2}", f"w{i + 7} w8"], "rewards": [9.0, 0.0, 0.1]}
        for i in range(10, 14)
    ]
    (place / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out = doctor("rewards=[]")
    assert code == 0
    assert "trust in given rewards warn reward follows length (rank correlation 1.00)" in out
    assert "--audit SETS tells how often a reward is right" in out


@pytest.mark.parametrize(
    ("rewards", "file", "told"),
    [
        ("rewards=[]", "prompts.jsonl", "--audit without a reward source"),
        ("rewards.0.weight=1.0", "nowhere.jsonl", "nowhere.jsonl"),
    ],
)
def test_an_audit_that_cannot_be_done_is_a_failure_before_ray(
    doctor: Doctor, place: Path, rewards: str, file: str, told: str
) -> None:
    if rewards == "rewards=[]":
        rows = [{"prompt": "w1", "responses": ["w3", "w4"], "rewards": [1.0, 0.5]}] * 2
        (place / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out = doctor(rewards, "--audit", file)
    assert code == 2
    assert "audit fail" in out
    assert told in out
    assert "Ray and responses skipped" in out


def test_data_of_which_much_is_dropped_is_a_warning(doctor: Doctor, place: Path) -> None:
    """One of three prompts has 17 words, and at most 16 tokens are kept; as sets, and as prompts alone."""
    rows = [{"prompt": "w1 " * count, "responses": ["w3", "w4"], "rewards": [1.0, 0.5]} for count in (1, 2, 17)]
    (place / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out = doctor("rewards=[]")
    assert (code, "given sets warn" in out, "{'too_long': 1}" in out) == (0, True, True)
    code, out = doctor()
    assert (code, "prompts warn" in out, "dropped 1 too long" in out) == (0, True, True)


def test_given_rewards_that_tell_nothing_apart_fail(doctor: Doctor, place: Path) -> None:
    row = {"prompt": "w1 w2", "responses": ["w3", "w4"], "rewards": [1.0, 1.0]}
    (place / "prompts.jsonl").write_text(json.dumps(row) + "\n")
    code, out = doctor("rewards=[]")
    assert (code, "given rewards fail" in out) == (2, True)


def test_a_template_without_the_prefix_property_is_told(doctor: Doctor, place: Path, policies: Path) -> None:
    """This one opens the assistant's turn with a word, and writes another token before that word in a whole turn."""
    (place / "prompts.jsonl").write_text(
        "".join(json.dumps({"prompt": [{"role": "user", "content": f"w{i}"}]}) + "\n" for i in range(9))
    )
    code, out = doctor(f"policy.path={policies / 'chat'}")
    assert code == 0
    assert "chat template warn" in out
    assert "a rendered prompt does not begin the render of prompt and answer" in out


def test_the_prefix_property_is_tried_on_the_template(policies: Path, tmp_path: Path) -> None:
    """A template that writes the number of messages first makes other tokens of prompt and answer than of the prompt;
    one that ends turns with a special token passes.
    """
    tokenizer = AutoTokenizer.from_pretrained(policies / "plain")
    raw = pa.table({"prompt": [json.dumps([{"role": "user", "content": "w1"}])], "conversational": [True]})
    turn = "{% for m in messages %}{{ m['content'] + ' </s> ' }}{% endfor %}"
    verdicts = []
    for template in ("{{ 'w' + messages|length|string + ' ' }}" + turn, turn):
        tokenizer.chat_template = template
        verdicts.append(data.chat_template(raw, tokenizer, run_config("m", tmp_path)).verdict)
    assert verdicts == ["warn", "ok"]


@pytest.mark.parametrize(
    ("address", "mode", "verdict", "told"),
    [
        (None, "", "ok", "one of its own"),
        ("localhost", "token", "ok", "RAY_AUTH_MODE = token"),
        ("localhost", "", "ok", "where one is found"),
        ("localhost", "disabled", "warn", "RAY_AUTH_MODE = disabled"),
    ],
)
def test_a_ray_that_asks_nobody_for_a_token_is_told(
    address: str | None, mode: str, verdict: str, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        there = address and f"{address}:{listening.getsockname()[1]}"
        for name, value in (("RAY_ADDRESS", there), ("RAY_AUTH_MODE", mode)):
            monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
        found = surroundings.ray_access(run_config("m", tmp_path))
    assert (found.verdict, told in found.got) == (verdict, True)


def test_memory_of_one_machine_is_the_sum_over_its_processes(tiny_tied_model: Path, tmp_path: Path) -> None:
    """95,040 parameters, fp32: two engines of 380,160 B and 1 GiB of cache each, and what is saved 380,160 B; workers
    and references are as many as the run has; on a GPU they leave.
    """
    shape = model_shape(str(tiny_tied_model))
    config = run_config(tiny_tied_model, tmp_path, engine={"count": 2}, annotation={"replicas": 3})
    worker, _, reference = memory(config, shape)
    assert on_host(config, shape, engines=True) == {
        "2 train workers": 2 * worker.total,
        "weights while they are saved": 380_160,
        "2 engines": 2 * (380_160 + 2**30),
        "3 references": 3 * reference.total,
    }
    gpus = {"training": {"gpus_per_worker": 1}, "annotation": {"gpus": 0.5}, "engine": {"backend": "gpu"}}
    assert on_host(run_config(tiny_tied_model, tmp_path, **gpus), shape, engines=True) == {
        "weights while they are saved": 380_160
    }


def test_memory_of_a_gpu_is_that_of_what_shares_it(tiny_tied_model: Path, tmp_path: Path) -> None:
    """References of 0.3 GPUs: three share one. An engine of two GPUs has half of 380,160 B on each."""
    shape = model_shape(str(tiny_tied_model))
    changes = {
        "training": {"gpus_per_worker": 1},
        "annotation": {"gpus": 0.3},
        "engine": {"backend": "gpu", "tensor_parallel": 2},
    }
    config = run_config(tiny_tied_model, tmp_path, **changes)
    worker, _, reference = memory(config, shape)
    assert on_gpus(config, shape, engines=True) == {
        "train worker": worker.total,
        "engine's weights": 190_080,
        "references": 3 * reference.total,
    }
    assert on_gpus(run_config(tiny_tied_model, tmp_path), shape, engines=True) == {}


def test_more_memory_than_the_machine_has_is_a_warning(tiny_tied_model: Path, tmp_path: Path) -> None:
    """10 million engines' caches of 1 GiB are more than any machine has; the estimate alone ends no run."""
    assert host_memory() > 2**28
    found = surroundings.host(run_config(tiny_tied_model, tmp_path, engine={"count": 10**7}), engines=True)
    assert found.verdict == "warn"
    assert "10000000 engines" in found.got


def test_checkpoints_that_do_not_fit_on_the_disk_are_a_warning(tiny_tied_model: Path, tmp_path: Path) -> None:
    """10^12 rounds of 0.36 MiB each."""
    config = run_config(tiny_tied_model, tmp_path / "made" / "later", online={"rounds": 10**12})
    config = config.model_copy(update={"rewards": load_rewards(tmp_path)})
    assert checks.output(config).verdict == "warn"
    assert not (tmp_path / "made").exists(), "a check makes nothing"


def load_rewards(place: Path) -> Any:
    """A weighted reward, so that the run has rounds."""
    tree = {"policy": {"path": "p"}, "prompts": {"path": "q"}, "rewards": [{"name": "a", "path": "m:f"}]}
    (place / "r.yaml").write_text(yaml.safe_dump(tree))
    return load(place / "r.yaml").rewards


def drawn(reasons: list[list[str]]) -> pa.Table:
    """Responses of two tokens with these endings."""
    return pa.table({"finish_reasons": reasons, "response_token_ids": [[[1, 2] for _ in row] for row in reasons]})


@pytest.mark.parametrize(("ends", "verdict"), [(4, "ok"), (2, "ok"), (1, "warn"), (0, "warn")])
def test_a_policy_that_seldom_ends_asks_for_a_warm_up(ends: int, verdict: str, tmp_path: Path) -> None:
    """Of four responses; half is enough."""
    found = rehearsal.endings(drawn([["stop"] * ends + ["length"] * (4 - ends)]), run_config("m", tmp_path))
    assert found.verdict == verdict
    assert f"{ends} of 4 responses end by themselves, {4 - ends} are cut at 256 tokens; mean length 2" in found.got


@pytest.mark.parametrize(
    ("rewards", "verdict", "told"),
    [
        ([[1.0, 2.0], [3.0, 4.0]], "ok", "1 to 4, mean 2.5; 0 of 4 responses without one; 0 of 2 sets are ties"),
        ([[1.0, 2.0], [3.0, None]], "warn", "1 of 4 responses without one; 1 of 2 sets are ties"),
        ([[1.0, 1.0], [3.0, 3.0]], "fail", "2 of 2 sets are ties"),
        ([[None, float("nan")]], "fail", "none of 2 responses has a reward"),
    ],
)
def test_range_and_ties_of_rewards(rewards: list[list[float | None]], verdict: str, told: str, tmp_path: Path) -> None:
    found = data.reward_finding("r", rewards, run_config("m", tmp_path))
    assert (found.verdict, told in found.got) == (verdict, True)


def test_one_failure_fails_the_whole() -> None:
    assert not failed([ok("a", ""), Finding("b", "warn", "")])
    assert failed([ok("a", ""), Finding("b", "fail", "")])


def test_a_ray_that_is_not_there_is_told_in_seconds() -> None:
    """Ray itself would try for five minutes and then end the process. Port 9 of this machine has no listener."""
    from raypo.stages import cluster

    with pytest.raises(ResourceError, match="cannot be joined"):
        cluster.join("127.0.0.1:9")
    with pytest.raises(ResourceError, match="Ray Client"):
        cluster.join("ray://head:10001")
