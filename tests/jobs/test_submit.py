"""`ray job submit` against a real head with dashboard and token: followed, stopped, submitted again, resumed.

The run keeps a copy in an S3 server of this process, and its folder is deleted between the two: as on a machine whose
disk went with it.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml
from hf_folders import make_place

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
REWARDS = '''
"""The reward of the test, which waits after the start's evaluation for as long as the file `hold` lies beside it."""

import time
from pathlib import Path

HERE = Path(__file__).parent
EVALUATED = HERE / "runs/submitted/evaluations/version-0000/_manifest.json"

def ones(prompts, responses, metadata):
    while (HERE / "hold").exists() and EVALUATED.exists():
        time.sleep(0.1)
    return [float(response.count("1")) for response in responses]
'''


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    opened = [socket.socket() for _ in range(count)]
    for one in opened:
        one.bind(("127.0.0.1", 0))
    found = [one.getsockname()[1] for one in opened]
    for one in opened:
        one.close()
    return found


def wait_for(what: str, seen: Callable[[], bool], seconds: float) -> None:
    """Look four times a second."""
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline, f"{what} did not come within {seconds} s"
        time.sleep(0.25)


@dataclass(frozen=True)
class Head:
    """A Ray head and how to speak to it.

    Args:
        address: of its dashboard.
        gcs: host and port that drivers join.
        environment: with the token.
    """

    address: str
    gcs: str
    environment: dict[str, str]

    def job(self, *arguments: str, token: bool = True) -> subprocess.CompletedProcess[str]:
        """`ray job ...`, to its end."""
        return subprocess.run(self.command(*arguments), **self.how(token), timeout=300, check=False)

    def follow(self, *arguments: str) -> subprocess.Popen[str]:
        """`ray job ...`, under way."""
        return subprocess.Popen(self.command(*arguments), **self.how(True))

    def command(self, verb: str, *arguments: str) -> list[str]:
        """Of Ray's own command line."""
        ray = [sys.executable, "-m", "ray.scripts.scripts"]
        return [*ray, "job", verb, "--address", self.address, *arguments]

    def how(self, token: bool) -> dict[str, object]:
        """From the repository's root; standard error goes with standard output."""
        names = () if token else ("RAY_AUTH_TOKEN_PATH",)
        environment = {name: value for name, value in self.environment.items() if name not in names}
        return {
            "cwd": ROOT,
            "env": environment | ({} if token else {"HOME": self.environment["RAY_TMPDIR"]}),
            "stdout": subprocess.PIPE,
            "stderr": subprocess.STDOUT,
            "text": True,
        }

    def stop(self, submission: str) -> None:
        """What `ray job stop` asks for, without the seconds that Ray's command line takes to start."""
        token = Path(self.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
        url = f"{self.address}/api/jobs/{submission}/stop"
        httpx.post(url, headers={"Authorization": f"Bearer {token}"}, timeout=60).raise_for_status()

    def status(self, submission: str) -> str:
        """What Ray says of a job."""
        return self.job("status", submission).stdout.lower()


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """`ray start --head` with a dashboard and a token made for this test; ended by its process group alone."""
    place = Path(tempfile.mkdtemp(prefix="rj"))  # short: a socket's path has at most 107 characters
    token = place / "token"
    token.write_text(secrets.token_hex(32))
    gcs, dashboard, client, agent = free_ports(4)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_ADDRESS")} | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_TMPDIR": str(place),
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    }
    ports = [f"--port={gcs}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
    ports += [f"--dashboard-agent-listen-port={agent}", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"]
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=8", *ports]
    start += [f"--temp-dir={place}", "--disable-usage-stats", "--object-store-memory=200000000"]
    with (place / "head.log").open("w") as log:
        process = subprocess.Popen(start, env=environment, stdout=log, stderr=log, start_new_session=True)
        found = Head(f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{gcs}", environment)
        try:
            wait_for("the head", lambda: found.job("list").returncode == 0, 120)
            yield found
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # Ray's reaper ends what the head started
            process.wait(30)
            shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="module")
def store() -> Iterator[dict[str, str]]:
    """An S3 server with a bucket; the environment that names it."""
    server = pytest.importorskip("moto.server", reason="moto is not installed: `uv sync` installs the group dev")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    httpx.put(f"http://{host}:{port}/job-bucket").raise_for_status()
    keys = {"AWS_ACCESS_KEY_ID": "of-nobody", "AWS_SECRET_ACCESS_KEY": "of-nobody", "AWS_REGION": "us-east-1"}
    yield keys | {"AWS_EC2_METADATA_DISABLED": "true", "AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    running.stop()


def has(store: dict[str, str], name: str) -> bool:
    """Whether the bucket has an object."""
    return httpx.head(f"{store['AWS_ENDPOINT_URL']}/job-bucket/{name}").status_code == 200


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three rounds over a tiny model; output and inputs by absolute paths: the job stands elsewhere."""
    folder = make_place(tmp_path_factory.mktemp("job"), 24, REWARDS, "job_rewards")
    config = {
        "name": "submitted",
        "output": str(folder / "runs"),
        "mirror": "s3://job-bucket/kept",
        "policy": {"path": str(folder / "policy"), "compute_dtype": "float32", "export_dtype": "float32"},
        "prompts": {"path": str(folder / "prompts.jsonl"), "heldout_fraction": 0.25, "max_prompt_tokens": 16},
        "sampling": {"num_responses": 4, "max_response_tokens": 12, "batch_prompts": 8},
        "rewards": [{"name": "ones", "path": "job_rewards:ones"}],
        "objective": {"preset": "w-mpo"},
        "training": {"learning_rate": 1e-3, "sets_per_step": 8},
        "online": {"rounds": 3, "prompts_per_round": 8},
        "evaluation": {"num_prompts": 4},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    return folder


def submission(place: Path, store: dict[str, str], name: str, *overrides: str) -> list[str]:
    """Arguments of `ray job submit`; reward functions lie on the module path of every process."""
    environment = store | {"PYTHONPATH": str(place), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    entry = [sys.executable, "jobs/align.py", str(place / "run.yaml"), *overrides]
    options = ["--submission-id", name, "--working-dir", "."]
    return [*options, "--runtime-env-json", json.dumps({"env_vars": environment}), "--", *entry]


def test_a_job_is_stopped_and_submitted_again_and_continues(head: Head, place: Path, store: dict[str, str]) -> None:
    """Stopped when its start is evaluated and copied, and its folder deleted; the same command under a new id fetches
    what there was, and ends.

    The run's name resumes and not the id: Ray refuses a used one. Whoever has no token is refused too. The first job's
    reward is held, as it could otherwise end before the stop comes to it.
    """
    stranger = head.job("submit", *submission(place, store, "stranger"), token=False)
    assert stranger.returncode != 0
    assert "oken" in stranger.stdout

    evaluation = "submitted/evaluations/version-0000/_manifest.json"
    (place / "hold").touch()
    with head.follow("submit", *submission(place, store, "first")) as first:
        wait_for("the copy", lambda: has(store, f"kept/{evaluation}") or first.poll() is not None, 240)
        assert first.poll() is None, first.communicate()[0]
        head.stop("first")
        told, _ = first.communicate(timeout=60)
    assert "run submitted, seed 0" in told, told
    assert "stopped" in head.status("first")
    assert "ended by SIGTERM" in head.job("logs", "first").stdout
    assert not (place / "runs" / "submitted" / "summary.json").exists()
    before = (place / "runs" / evaluation).read_bytes()
    shutil.rmtree(place / "runs")
    (place / "hold").unlink()

    used = head.job("submit", *submission(place, store, "first"))
    assert used.returncode != 0
    assert "already exists" in used.stdout

    second = head.job("submit", *submission(place, store, "second"))
    assert second.returncode == 0, second.stdout
    assert "succeeded" in head.status("second")
    assert (place / "runs" / evaluation).read_bytes() == before
    assert "version 0: held-out reward" not in second.stdout, "the start was evaluated again"
    summary = json.loads((place / "runs" / "submitted" / "summary.json").read_text())
    assert (summary["rounds"], summary["weight_versions"]) == (3, [0, 1, 2, 3])
    assert has(store, "kept/submitted/checkpoints/version-0003/manifest.json")
    assert has(store, "kept/submitted/summary.json")


def test_a_job_that_cannot_run_fails_with_its_message(head: Head, place: Path, store: dict[str, str]) -> None:
    """Ray tells a driver's exit code of 2 by a failed job and 1 of its own command."""
    failed = head.job("submit", *submission(place, store, "failing", "name=other", "policy.path=./nowhere"))
    assert failed.returncode == 1, failed.stdout
    assert "failed" in head.status("failing")
    assert "./nowhere: no such folder" in failed.stdout
    assert "exit code: 2" in failed.stdout or "exit code 2" in failed.stdout, failed.stdout


def test_a_driver_without_the_token_is_told_so(head: Head, place: Path, store: dict[str, str]) -> None:
    """`raypo doctor` beside the cluster: it joins with the token, and without it ends in one message."""
    command = [sys.executable, "-m", "raypo.cli", "doctor", str(place / "run.yaml"), "--no-sample"]
    with_token = head.environment | store | {"RAY_ADDRESS": head.gcs, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=place, env=with_token, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "this Ray asks for a token" in " ".join(done.stdout.split())
    without = with_token | {"RAY_AUTH_MODE": "disabled"}
    without.pop("RAY_AUTH_TOKEN_PATH")
    done = subprocess.run(command, cwd=place, env=without, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "cannot be joined" in " ".join(done.stdout.split())
    assert "Traceback" not in done.stdout + done.stderr


def entry(place: Path, store: dict[str, str], name: str, *command: str, **environment: str) -> list[str]:
    """Arguments of `ray job submit` for another entrypoint than jobs/align.py."""
    options = submission(place, store, name)
    given = json.loads(options[options.index("--runtime-env-json") + 1])
    given["env_vars"] |= environment
    return ["--submission-id", name, "--working-dir", ".", "--runtime-env-json", json.dumps(given), "--", *command]


def test_every_kind_of_job_is_submitted(head: Head, place: Path, store: dict[str, str]) -> None:
    """Sampled, trained on what was sampled, compared, searched, and a claim studied: five jobs, each on the last's."""
    config, out = str(place / "run.yaml"), place / "out"
    given = {"path": str(out / "sampled/sets.jsonl"), "heldout_fraction": 0.25, "max_prompt_tokens": 16}
    study = {
        "name": "rates",
        "output": str(out),
        "base": yaml.safe_load((place / "run.yaml").read_text()) | {"rewards": [], "prompts": given},
        "rewards": [{"name": "ones", "path": "job_rewards:ones"}],
        "space": {"training.learning_rate": [1e-2, 1e-3]},
        "algorithm": "grid",
        "concurrency": 1,
        "rungs": 1,  # there are sets for one step
        "kl_bound": 50.0,
    }
    for key in ("name", "output", "mirror"):
        study["base"].pop(key)
    (place / "study.yaml").write_text(yaml.safe_dump(study))
    model = place / "runs" / "trained" / "checkpoints" / "version-0001" / "model"
    sets, offline = f"prompts.path={out}/sampled/sets.jsonl", ["name=trained", "mirror=null", "rewards=[]"]
    jobs = [
        ("sample", [config, "mirror=null", "--out", str(out / "sampled")], out / "sampled/sets.jsonl"),
        ("train", [config, sets, *offline], place / "runs/trained/summary.json"),
        ("evaluate", [config, "mirror=null", "--policy", f"new={model}", "--out", str(out / "compared")], None),
        ("tune", [str(place / "study.yaml")], out / "rates/summary.json"),
        ("study", ["normalisation", "--quick", "--most", "2", "--out", str(out / "study")], None),
    ]
    for name, arguments, left in jobs:
        command = entry(place, store, name, sys.executable, f"jobs/{name}.py", *arguments)
        done = head.job("submit", *command)
        assert done.returncode == 0, f"{name}: {done.stdout}"
        assert left is None or left.exists(), f"{name}: {done.stdout}"
    assert list((out / "compared").glob("*.json")), list((out / "compared").iterdir())
    assert list((out / "study").rglob("*.json")), list(out.iterdir())


def test_workers_of_a_job_that_uv_runs_are_run_by_uv(head: Head, place: Path, store: dict[str, str]) -> None:
    """Ray hands the driver's `uv run` on to every worker. Here with the environment that there is; without --no-sync
    each node would build its own from pyproject.toml."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed")
    seen = place / "seen.txt"
    (place / "seen_rewards.py").write_text(
        f"import os\ndef seen(prompts, responses, metadata):\n"
        f"    open({str(seen)!r}, 'a').write(os.environ.get('UV_RUN_RECURSION_DEPTH', 'none') + '\\n')\n"
        f"    return [float(response.count('1')) for response in responses]\n"
    )
    reward = "rewards=[{name: seen, path: 'seen_rewards:seen'}]"
    run = [str(place / "run.yaml"), "name=by-uv", "mirror=null", "online.rounds=1", reward]
    command = [uv, "run", "--no-sync", "--extra", "cpu", "python", "jobs/align.py", *run]
    done = head.job("submit", *entry(place, store, "by-uv", *command, UV_PROJECT_ENVIRONMENT=sys.prefix))
    assert done.returncode == 0, done.stdout
    assert (place / "runs" / "by-uv" / "summary.json").exists()
    assert set(seen.read_text().split()) == {"1"}
