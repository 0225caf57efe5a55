"""The command line: one message per failure, exit codes, and a plan that can be run."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import typer
import yaml
from command_line import Command, call

from raypo import __version__, cli
from raypo.cli.opening import opening
from raypo.config import load
from raypo.objective.presets import TABLE
from raypo.quickstart import demonstration

RUN = {
    "policy": {"path": "nowhere"},
    "prompts": {"path": "prompts.jsonl"},
    "rewards": [{"name": "a", "path": "m:f"}],
    "objective": {"preset": "mallows-mpo"},
}


@pytest.fixture
def raypo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Run a command here, in an empty folder; answers exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("COLUMNS", "100")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(RUN))
    return partial(call, monkeypatch, capsys)


def test_the_version_is_the_packages(raypo: Command) -> None:
    assert raypo("--version") == (0, f"raypo {__version__}\n", "")


def commands_with_out() -> set[str]:
    """Those of the whole command line."""
    found, groups = set(), [("", typer.main.get_command(cli.app))]
    while groups:
        before, group = groups.pop()
        for name, one in getattr(group, "commands", {}).items():
            groups.append((f"{before}{name} ", one))
            found |= {f"{before}{name}" for option in one.params if "--out" in option.opts}
    return found


OUT = [
    "sample run.yaml",
    "evaluate run.yaml",
    "export runs/mine",
    "quickstart",
    "study dispersion",
    "bench train",
    "bench tune study.yaml",
    "bench sample",
    "bench online run.yaml",
]


@pytest.mark.parametrize("command", OUT)
def test_an_address_is_no_place_for_out(command: str, raypo: Command, tmp_path: Path) -> None:
    """A Path would make a local folder of it; before anything else is read, and without the password in it."""
    code, _, told = raypo(*command.split(), "--out", "s3://me:secret@bucket/x")
    assert code == 2
    assert "raypo: --out s3://***@bucket/x\n  expected: a local folder" in told
    assert "`mirror:`" in told
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


def test_no_command_with_out_is_left_out() -> None:
    assert {" ".join(one.split()[: 1 + one.startswith("bench")]) for one in OUT} == commands_with_out()


def test_out_is_a_path_also_by_default(raypo: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Path] = []
    monkeypatch.setattr(demonstration, "quickstart", lambda out, seed: found.append(out))
    assert [raypo("quickstart", *given)[0] for given in ([], ["--out", "a/b"])] == [0, 0]
    assert found == [Path("quickstart-run"), Path("a/b")]


def test_every_preset_is_listed_with_its_hyperparameters(raypo: Command) -> None:
    code, out, _ = raypo("presets")
    assert code == 0
    listed = [line for line in out.splitlines() if line and not line.startswith(" ")]
    assert listed == list(TABLE)
    assert "beta (0.1), tie_eps (0), gamma (0.05)" in out


def test_the_plan_names_values_sources_work_and_memory(raypo: Command, tiny_model: Path) -> None:
    policy, lengths = f"policy.path={tiny_model}", ["prompts.max_prompt_tokens=100", "sampling.max_response_tokens=100"]
    code, out, _ = raypo("plan", "run.yaml", policy, *lengths, "training.workers=2")
    assert code == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert {"training.workers 2 override", "rewards.0.name a file", "seed 0 default"} <= set(lines)
    assert "objective.beta 0.1 preset" in lines
    assert any(line.startswith("logical CPUs asked 6,") for line in lines)
    assert any(line.startswith("train worker") for line in lines)
    assert "..." not in out, "a value was cut"


def test_a_plan_refuses_lengths_that_the_model_cannot_hold(raypo: Command, tiny_model: Path) -> None:
    """256 positions; 100 + 200 tokens."""
    lengths = ["prompts.max_prompt_tokens=100", "sampling.max_response_tokens=200"]
    code, _, told = raypo("plan", "run.yaml", f"policy.path={tiny_model}", *lengths)
    assert code == 2
    assert "has 256 positions and the run asks for sequences of 300 tokens" in told


def test_a_plan_says_so_when_the_model_is_not_here(raypo: Command) -> None:
    code, out, _ = raypo("plan", "run.yaml")
    assert code == 0
    assert "nowhere is no folder on this machine" in " ".join(out.split())


def test_a_printed_plan_is_the_same_run(raypo: Command, tmp_path: Path) -> None:
    """`plan --yaml` with overrides, read back without them."""
    overrides = ["training.learning_rate=3e-7", "rewards.0.weight=0.5", "sampling.stop_token_ids=[7]"]
    code, out, _ = raypo("plan", "run.yaml", *overrides, "--yaml")
    assert code == 0
    (tmp_path / "whole.yaml").write_text(out)
    assert load(tmp_path / "whole.yaml") == load(tmp_path / "run.yaml", overrides)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["plan", "none.yaml"], "cannot read none.yaml"),
        (["plan", "run.yaml", "traning.workers=2"], "did you mean 'training'"),
        (["plan", "run.yaml", "objective.preset='[bold]dpo'"], "unknown preset '[bold]dpo'"),
        (["plan", "run.yaml", "sampling.num_responses=1"], "no preference in it"),
        (["plan", "run.yaml", "cluster.placement=shared"], "never measured"),
        (["run", "run.yaml", "rewards=[]"], "no reward source"),
        (["report", "nowhere"], "no run.json"),
        (["evaluate", "."], "no run.json"),
        (["evaluate", ".", "seed=1"], "overrides beside a run's folder"),
        (["evaluate", "run.yaml"], "no trained version"),
        (["evaluate", "run.yaml", "--policy", "a"], "METHOD=FOLDER"),
        (["evaluate", "run.yaml", "--policy", "a=b"], "m"),
        (["export", "nowhere", "--out", "out"], "no run.json"),
        (["doctor", "none.yaml"], "cannot read none.yaml"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_users_mistake_is_one_message_and_exit_code_2(raypo: Command, arguments: list[str], told: str) -> None:
    """Brackets in it are text, not markup."""
    code, out, err = raypo(*arguments)
    assert (code, out) == (2, "")
    assert told in err
    loading, *rest = err.splitlines()
    first = rest[0] if loading.startswith(f"raypo {arguments[0]} ") else loading
    assert first.startswith("raypo: "), "more than what it loads"
    assert "Traceback" not in err
    assert "what to do: " in err or "expected: " in err


FIRST = """
import sys

from rich.console import Console

class Said(BaseException):
    pass

def say(self, *objects, **style):
    raise Said(*objects)

Console.print = say
from raypo import cli
for given in sys.argv[1].split(","):
    try:
        cli.app(given.split(), standalone_mode=False)
    except Said as said:
        print(said, sorted({"torch", "ray", "vllm", "transformers"} & sys.modules.keys()))
"""
LONG = (
    "run run.yaml",
    "run run.yaml --fork other",
    "train run.yaml",
    "sample run.yaml",
    "tune study.yaml",
    "evaluate run.yaml",
    "evaluate .",
    "export . --out out",
    "doctor run.yaml",
    "quickstart",
    "study bandit",
    "report .",
    "bench train",
    "bench tune study.yaml",
    "bench sample",
    "bench online run.yaml",
)


def test_what_takes_long_says_so_before_it_imports_what_is_heavy(tmp_path: Path) -> None:
    """Every command's first line, where neither torch nor Ray is there yet: they take some fifteen seconds."""
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(RUN))
    made = subprocess.run(
        [sys.executable, "-c", FIRST, ",".join(LONG)],
        cwd=tmp_path,
        env=os.environ | {"FORCE_COLOR": "1"},  # a file is no terminal for it
        capture_output=True,
        text=True,
        check=True,
    )
    said = made.stdout.splitlines()
    assert len(said) == len(LONG), made.stdout
    for command, line in zip(LONG, said, strict=True):
        assert line.startswith(f"raypo {' '.join(command.split()[:2]) if 'bench' in command else command.split()[0]}")
        assert line.endswith(" []")


class Terminal(io.StringIO):
    """What standard error is at a keyboard."""

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_something_moves_while_it_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spinner, drawn again and again, of which nothing stays: the last that is written erases its line."""
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    with opening("run", "[my].yaml"):
        time.sleep(0.5)
    assert shown.getvalue().count("raypo run [my].yaml: loading") > 2
    assert shown.getvalue().rstrip().endswith("\x1b[2K")


@pytest.mark.parametrize("command", ["run", "train", "sample", "evaluate", "doctor", "bench online"])
def test_a_mistake_in_a_config_is_told_before_anything_is_loaded(raypo: Command, command: str) -> None:
    """Its message is the first line."""
    Path("run.yaml").write_text(yaml.safe_dump(RUN | {"objetive": 3}))
    code, out, err = raypo(*command.split(), "run.yaml")
    assert (code, out) == (2, "")
    assert err.startswith("raypo: ")
    assert "objetive" in err


def test_a_study_that_there_is_not_is_told_before_anything_is_loaded(raypo: Command) -> None:
    """With the names of those that there are."""
    code, out, err = raypo("study", "nosuch")
    assert (code, out) == (2, "")
    assert err.startswith("raypo: unknown study 'nosuch'")
    assert "bandit" in err


def test_a_first_line_is_json_where_the_logs_are(raypo: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """On standard error, as that for people; then the error, which is for people."""
    monkeypatch.setenv("RAY_LOGGING_CONFIG_ENCODING", "JSON")
    code, out, err = raypo("report", "nowhere")
    assert (code, out) == (2, "")
    assert json.loads(err.splitlines()[0])["message"] == "raypo report nowhere: loading"


def test_a_traceback_is_shown_when_it_is_asked_for(raypo: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python prints it: the error leaves main."""
    from raypo.errors import ConfigError

    monkeypatch.setenv("RAYPO_TRACEBACK", "1")
    with pytest.raises(ConfigError, match="cannot read"):
        raypo("plan", "none.yaml")


@pytest.mark.parametrize(
    ("number", "code", "told"), [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 130, "")], ids=["term", "int"]
)
def test_a_signal_ends_it_without_a_traceback(number: int, code: int, told: str, tmp_path: Path) -> None:
    """The command waits for a config that nobody writes: opening a pipe blocks."""
    os.mkfifo(tmp_path / "run.yaml")
    # a shell's background job ignores SIGINT, and so would all that it starts
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-m", "raypo.cli", "plan", "run.yaml"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    signal.signal(signal.SIGINT, before)
    with process, open(tmp_path / "run.yaml", "w"):  # opening succeeds when the command has opened it too
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert told in err
    assert "Traceback" not in err


def test_an_exit_that_ray_changed_on_its_way_keeps_the_signals_code(
    raypo: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's calls make an exit with 1 of the handler's 143."""

    def app() -> None:
        with suppress(SystemExit):
            signal.raise_signal(signal.SIGTERM)
        sys.exit(1)

    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr(cli, "_ended", [])
    code, _, err = raypo("presets")
    assert (code, "SIGTERM" in err) == (143, True)


def test_rays_uv_hook_is_off_before_ray_is_imported() -> None:
    """It would make every worker of a Ray that raypo starts resolve an environment of its own."""
    code = (
        "import sys; from raypo.cli import main; sys.argv = ['raypo', 'presets']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "from ray._private import ray_constants as c; print(c.RAY_ENABLE_UV_RUN_RUNTIME_ENV)"
    )
    clean = {key: value for key, value in os.environ.items() if key != "RAY_ENABLE_UV_RUN_RUNTIME_ENV"}
    for extra, on in (({}, "False"), ({"RAY_ADDRESS": "auto"}, "True")):
        done = subprocess.run(
            [sys.executable, "-c", code], env=clean | extra, capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == on


def test_the_readmes_table_of_presets_is_the_one_that_is_printed(raypo: Command) -> None:
    """`raypo presets --markdown`, between its two marks."""
    code, printed, _ = raypo("presets", "--markdown")
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    start, end = "<!-- raypo presets --markdown -->\n", "\n<!-- end of the table -->"
    assert (code, readme.split(start)[1].split(end)[0]) == (0, printed.strip())
