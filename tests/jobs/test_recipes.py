"""The recipes in jobs/: `raypo plan` takes them, and what is written of one is what it asks for."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import call

from raypo.config import load, refuse_online
from raypo.objective import Objective
from raypo.stages.cluster import Asked, objective_of
from raypo.studies.catalogue import CATALOGUE

JOBS = Path(__file__).parents[2] / "jobs"


@pytest.mark.parametrize("name", ["stories", "llama3_8b"])
def test_a_plan_of_the_recipe(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(sys, "path", list(sys.path))
    given = ["prompts.path=prompts.jsonl", *(["policy.path=model"] if name == "stories" else [])]
    code, out, err = call(monkeypatch, capsys, "plan", str(JOBS / f"{name}.yaml"), *given)
    assert (code, err) == (0, "")
    assert "training.learning_rate" in out


def test_the_8b_recipe_fills_eight_gpus_and_trains_two_against_two() -> None:
    """3 engines, half a GPU each for reference and reward model, 4 train workers: 8."""
    config = load(JOBS / "llama3_8b.yaml", ["prompts.path=prompts.jsonl"])
    refuse_online(config)
    assert Asked.by(config, on_gpu=True).gpus == 8.0
    objective = objective_of(config)
    assert isinstance(objective, Objective)
    assert (objective.contrast.kind, dict(objective.contrast.parameters)) == ("top-vs-bottom", {"top": 2, "bottom": 2})
    assert (objective.contrast.deviation, config.sampling.num_responses) == ("abs", 5)
    assert (objective.beta, config.objective.alpha, config.scoring.reward_scale) == (0.01, 1.0, "run_std")
    sampled, trained = config.sampling, config.training
    assert (sampled.temperature, sampled.top_p, config.online.epochs_per_round) == (1.0, 1.0, 1)
    assert (trained.learning_rate, trained.sets_per_step, trained.weight_decay) == (3e-7, 128, 0.0)
    assert (trained.adam_beta1, trained.adam_beta2) == (0.9, 0.95)
    assert "NOT RUN HERE" in (JOBS / "llama3_8b.yaml").read_text()


def test_each_value_of_the_8b_recipe_says_where_it_comes_from() -> None:
    """A paper, a README, or "ours" with the line's own comment; names and kinds of things are no values."""
    lines = (JOBS / "llama3_8b.yaml").read_text().splitlines()
    values = [line for line in lines if not line.startswith("#") and line.split(": ")[1:] and "name: " not in line]
    assert len(values) > 25
    assert [line for line in values if "  # " not in line and "- type: " not in line] == []


def test_openings_of_reviews(tmp_path: Path) -> None:
    """Two words of each text that goes on, each opening once; a tag for a line break is a space."""
    texts = ["A fine<br />film, truly.", "A fine day", "Too short", "Not  a\nfilm"]
    with gzip.open(tmp_path / "reviews.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"id": at, "text": text}) + "\n" for at, text in enumerate(texts))
    command = [sys.executable, str(JOBS / "openings.py"), str(tmp_path / "reviews.jsonl.gz"), str(tmp_path / "made")]
    subprocess.run([*command, "2"], check=True)
    prompts = [json.loads(line) for line in (tmp_path / "made").read_text(encoding="utf-8").splitlines()]
    assert prompts == [{"prompt": "A fine"}, {"prompt": "Not a"}]
    refused = subprocess.run([*command, "0"], capture_output=True, text=True, check=False)
    assert (refused.returncode, "OPENINGS [WORDS]" in refused.stderr) == (1, True)


def test_dispersion_of_prompts_from_rankings(tmp_path: Path) -> None:
    """Of three people two agree: 1 pair of 3 is the other way, phi / (1 + phi) = 1/3, so phi = 1/2.

    Under theta it costs 2: 2 phi^2 / (1 + phi^2) = 2/3, and d = phi^2 = 1/2 as well. All agree: 1e-3, as clamped.
    """
    two = {"prompt": "a", "responses": [{"text": "x", "points": [2, 5, 1]}, {"text": "y", "points": [1, 4, 3]}]}
    all_agree = {"prompt": "b", "responses": [{"text": "x", "points": [2, 5]}, {"text": "y", "points": [1, 4]}]}
    (tmp_path / "sets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (two, all_agree)))
    command = [sys.executable, str(JOBS / "known_dispersion.py"), str(tmp_path / "sets.jsonl"), str(tmp_path / "made")]
    for model in ("phi", "theta"):
        subprocess.run([*command, "points", model], check=True)
        made = [json.loads(line) for line in (tmp_path / "made").read_text().splitlines()]
        assert [row["dispersion"] for row in made] == [pytest.approx(0.5), pytest.approx(1e-3)]
        assert {**made[0], "dispersion": 0} == {**two, "dispersion": 0}
    for key, told in (("absent", "line 1: KeyError 'absent'"), ("text", "line 1: ValueError")):
        refused = subprocess.run([*command, key], capture_output=True, text=True, check=False)
        assert (refused.returncode, told in refused.stderr) == (1, True), refused.stderr


def test_a_tie_is_no_ranking(tmp_path: Path) -> None:
    row = {"responses": [{"text": "x", "annotator_points": [2, 1]}, {"text": "y", "annotator_points": [1, 1]}]}
    (tmp_path / "sets.jsonl").write_text(json.dumps(row) + "\n")
    command = [sys.executable, str(JOBS / "known_dispersion.py"), str(tmp_path / "sets.jsonl"), str(tmp_path / "made")]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (refused.returncode, "line 1: person 1 gives two responses the same" in refused.stderr) == (1, True)
    assert not (tmp_path / "made").exists()


ONE = [{"points": [1]}, {"points": [2]}]
TWO = [{"points": [1, 2]}, {"points": [2, 1]}]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (json.dumps({"responses": ONE}), "line 1: 2 responses and 1 people"),
        (json.dumps({"responses": TWO[:1]}), "line 1: 1 responses and 2 people"),
        (json.dumps({"responses": []}), "line 1: 0 responses and 0 people"),
        (json.dumps({"responses": [{"points": [1, 2]}, {"points": [2, float("nan")]}]}), "line 1: person 1 gives"),
        ("\n" + json.dumps({"responses": TWO}) + "\n{", "line 3: Expecting property name"),
        ("[1]", "line 1: it holds a list"),
    ],
)
def test_what_tells_no_dispersion_is_refused_by_its_line(text: str, told: str, tmp_path: Path) -> None:
    """The number is the file's own: blank lines are left out, and counted."""
    (tmp_path / "sets.jsonl").write_text(text)
    command = [sys.executable, str(JOBS / "known_dispersion.py"), str(tmp_path / "sets.jsonl"), str(tmp_path / "made")]
    refused = subprocess.run([*command, "points"], capture_output=True, text=True, check=False)
    assert (refused.returncode, told in refused.stderr) == (1, True), refused.stderr
    assert "Traceback" not in refused.stderr
    assert [one.name for one in tmp_path.iterdir()] == ["sets.jsonl"]


def test_recipes_write_gzipped_by_name_and_tell_what_they_cannot(tmp_path: Path) -> None:
    """Two people who differ on two responses: phi 1, clamped to 0.999. The last line is blank."""
    sets, texts = tmp_path / "sets.jsonl", tmp_path / "texts.jsonl"
    sets.write_text(json.dumps({"responses": TWO}) + "\n\n")
    texts.write_text(json.dumps({"text": "one two three"}) + "\n\n")
    for job, given, words, told in (
        ("known_dispersion", sets, ["points"], {"responses": TWO, "dispersion": 0.999}),
        ("openings", texts, ["2"], {"prompt": "one two"}),
    ):
        command = [sys.executable, str(JOBS / f"{job}.py")]
        made = tmp_path / f"{job}.jsonl.gz"
        subprocess.run([*command, str(given), str(made), *words], check=True)
        with gzip.open(made, "rt") as file:
            assert [json.loads(line) for line in file] == [told]
        for place, out, said in (
            (given, tmp_path / "absent" / "made", "cannot write"),
            (tmp_path / "absent", tmp_path / "made", "No such file"),
        ):
            refused = subprocess.run(
                [*command, str(place), str(out), *words], capture_output=True, text=True, check=False
            )
            assert (refused.returncode, said in refused.stderr, "Traceback" in refused.stderr) == (1, True, False)
    texts.write_text(json.dumps({"text": "one two three"}) + "\n" + json.dumps({"story": "a"}))
    refused = subprocess.run([*command, str(texts), str(made), "1"], capture_output=True, text=True, check=False)
    assert "line 2: columns story" in refused.stderr
    with gzip.open(made, "rt") as file:  # what was there is as it was
        assert [json.loads(line) for line in file] == [{"prompt": "one two"}]
    assert not [one for one in tmp_path.iterdir() if one.suffix == ".tmp"]


def test_the_recipe_of_the_studies_runs_each_of_them_once() -> None:
    text = (JOBS / "studies.sh").read_text()
    (names,) = re.findall(r"^names=\((.*)\)$", text, flags=re.MULTILINE)
    assert sorted(names.split()) == sorted(CATALOGUE)
    for option in re.findall(r"(\w+)=", re.findall(r'DISPERSION="(.*)"', text)[0]):
        assert option in CATALOGUE["dispersion"].takes


def test_the_recipe_of_the_studies_goes_on_after_a_failure_and_does_not_repeat(tmp_path: Path) -> None:
    """A command in place of raypo's tells what it was asked; `weights` fails, and `prior` is there with this seed."""
    (tmp_path / "bin").mkdir()
    told = tmp_path / "told"
    fake = tmp_path / "bin" / "raypo"
    fake.write_text(f'#!/bin/sh\necho "$@" >> {told}\n[ "$2" != weights ]\n')
    fake.chmod(0o755)
    out = tmp_path / "out"
    for name, seed in (("prior", 3), ("bandit", 4)):
        (out / name).mkdir(parents=True)
        (out / name / "page.html").write_text("")
        found = {"command": f"raypo study {name} --quick --seed {seed}"}
        (out / name / "result.json").write_text(json.dumps(found, indent=2))
    command = ["bash", str(JOBS / "studies.sh"), str(out)]
    environment = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "DISPERSION": "gold=G",
        "ONLINE": "",
    }

    def run(*flags: str) -> tuple[int, list[str], str]:
        told.unlink(missing_ok=True)
        done = subprocess.run([*command, *flags], capture_output=True, text=True, check=False, env=environment)
        return done.returncode, told.read_text().splitlines(), done.stderr

    code, asked, said = run("--quick", "--seed", "3")
    assert (code, said.splitlines()[-1]) == (1, "failed: weights")
    assert [line.split()[1] for line in asked[:-1]] == [
        "bandit", "dispersion", "responses", "weights", "calibration", "contrast", "online", "normalisation"
    ]  # fmt: skip
    assert asked[1] == f"study dispersion --quick --seed 3 --out {out}/dispersion gold=G"
    left = ("bandit", "dispersion", "responses", "calibration", "contrast", "prior", "online", "normalisation")
    assert asked[-1] == " ".join(["study --markdown", *(f"{out}/{name}" for name in left)])
    assert f"study prior --quick --seed 3 --out {out}/prior" in run("--again", "--quick", "--seed", "3")[1]
