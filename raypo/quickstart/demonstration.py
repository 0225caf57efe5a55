"""The demonstration run: pretrain a tiny model beside Ray's start, align it online, and hold dispersion against truth.

OUT/language/prompts.jsonl heldout.jsonl     prompts of the synthetic language, as many of each class
OUT/policy/                                  the tiny model, pretrained in a process of its own
OUT/run/                                     an ordinary run: nothing in it knows that the language is synthetic
OUT/run/dispersion.json                      estimators of dispersion against the truth
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self

import numpy as np
from rich.console import Console

from raypo.config import RunConfig, build
from raypo.errors import OutputError, RunError
from raypo.quickstart import language
from raypo.quickstart.model import CONTEXT, RESPONSE_TOKENS
from raypo.stages.owner import owned

TRAIN_PROMPTS = 576
HELDOUT_PROMPTS = 96
PRETRAINING_TIMEOUT_S = 600.0
SAY_EVERY_STEPS = 100


def quickstart(out: Path, seed: int = 0, console: Console | None = None) -> dict[str, Any]:
    """Make a language and a model, align the model in three rounds, and say what happened.

    The same command again continues where it stopped.

    Args:
        out: folder for everything; made if it does not exist.
        seed: of the prompts, the pretraining and the run.
        console: where progress goes; standard output by default.

    Returns:
        the run's summary, with `seconds.pretrain` and `dispersion`.

    Raises:
        ConfigError: the folder holds the run of another seed.
        OutputError: the folder cannot be written, or another process makes the same there.
        RunError: pretraining or the run failed.
    """
    console = console or Console()
    _say(console, "raypo quickstart: a tiny Llama learns a synthetic language, then what a panel of readers likes")
    config = make_config(out, seed)
    refuse_another(config)
    with owned(str(Path(config.output) / config.name)):
        return _quickstart(config, out, seed, console)


def _quickstart(config: RunConfig, out: Path, seed: int, console: Console) -> dict[str, Any]:
    """As `quickstart`, as the only one that does it there."""
    try:
        write_prompts(out / "language", seed)
        pretraining = Pretraining(out, seed, console)
    except OSError as error:
        raise OutputError(f"cannot write to {out}: {error}", "a writable folder", "choose another --out") from error
    with pretraining:
        with console.status("starting"):
            from raypo.online.identity import QUICKSTART
            from raypo.online.run import run  # imports torch and ray: some seconds in which the model already trains

            pretraining.wait_for_tokenizer()
        summary = run(
            config,
            verb=QUICKSTART,
            policy_timeout_s=PRETRAINING_TIMEOUT_S if pretraining.running else 0.0,
            policy_failure=pretraining.failure,
            console=console,
        )
    return finish(config, summary, pretraining.seconds, console)


def refuse_another(config: RunConfig) -> None:
    """Refuse a folder with the run of another seed, before that run's prompts are written over.

    Raises:
        ConfigError: it holds one.
    """
    if (Path(config.output) / config.name / "run.json").exists():
        from raypo.online.folder import RunFolder
        from raypo.online.identity import QUICKSTART, same_config

        same_config(RunFolder(config), config, QUICKSTART)


def finish(config: RunConfig, summary: dict[str, Any], pretrain_seconds: float, console: Console) -> dict[str, Any]:
    """Add what only a synthetic language can tell, the comparison with the truth, to the run's summary."""
    from raypo.online.folder import RunFolder
    from raypo.online.summary import write
    from raypo.quickstart import truth
    from raypo.stages import tables

    folder = RunFolder(config)
    if "dispersion" not in summary:
        found = tables.read(folder.stage(0, "annotated"))
        if found is None:
            raise RunError("the run has no annotated table", "round 0 of a finished run", "run the same command again")
        table, manifest = found
        comparison = truth.compare(table, config, manifest.facts["vocabulary"])
        tables.write_json(folder.path("dispersion.json"), comparison)
        seconds = {"pretrain": round(pretrain_seconds, 2), **summary["seconds"]}
        told = {name: value for name, value in comparison.items() if name != "points"}
        summary = summary | {"seconds": seconds, "dispersion": told}
        write(config, folder, summary)
    for line in truth.lines(summary["dispersion"]):
        _say(console, line)
    return summary


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def write_prompts(folder: Path, seed: int) -> None:
    """Write training and held-out prompts, as many of each class of entropy and dispersion, none in both."""
    rng = np.random.default_rng(seed)
    classes: dict[tuple[str, str], list[language.Prompt]] = {}
    for prompt in language.all_prompts():
        classes.setdefault((prompt.entropy, prompt.dispersion), []).append(prompt)
    train, heldout = TRAIN_PROMPTS // len(classes), HELDOUT_PROMPTS // len(classes)
    files: dict[str, list[language.Prompt]] = {"prompts.jsonl": [], "heldout.jsonl": []}
    for members in classes.values():
        chosen = [members[index] for index in rng.permutation(len(members))[: train + heldout]]
        files["prompts.jsonl"] += chosen[:train]
        files["heldout.jsonl"] += chosen[train:]
    folder.mkdir(parents=True, exist_ok=True)
    for name, prompts in files.items():
        rows = [
            {"prompt": prompt.text, "token_entropy": prompt.entropy, "dispersion": prompt.dispersion}
            for prompt in prompts
        ]
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make_config(out: Path, seed: int) -> RunConfig:
    """The run: W-MPO with Mallows dispersion, K = 8, three rounds, one engine and two FSDP workers, all in fp32.

    The estimator is the one that uses the K responses: the published one reads token entropy, which in this language is
    independent of dispersion. beta is 1 because a sentence has some 8 nats in all: at 0.1 the loss asks for margins of
    tens of nats, and one of six seeds fell below its start after the second round, at a KL of 20 nats.
    """
    here = "raypo.quickstart.language"
    out = out.absolute()
    return build(
        {
            "name": "run",
            "output": str(out),
            "seed": seed,
            "policy": {"path": str(out / "policy"), "compute_dtype": "float32", "export_dtype": "float32"},
            "prompts": {
                "path": str(out / "language" / "prompts.jsonl"),
                "heldout_path": str(out / "language" / "heldout.jsonl"),
                "max_prompt_tokens": CONTEXT - RESPONSE_TOKENS - 4,
            },
            "sampling": {"num_responses": 8, "max_response_tokens": RESPONSE_TOKENS + 4, "batch_prompts": 96},
            "engine": {"backend": "cpu", "max_model_tokens": CONTEXT},
            "rewards": [
                {"type": "function", "name": "panel", "path": f"{here}:panel"},
                {"type": "function", "name": "quality", "path": f"{here}:quality", "weight": 0.0},
                {"type": "function", "name": "fluency", "path": f"{here}:fluency", "weight": 0.0},
            ],
            "dispersion": {"estimator": "reward_spread"},
            "objective": {"preset": "mallows-mpo", "beta": 1.0, "alpha": 1.0},
            "training": {
                "workers": 2,
                "learning_rate": 5e-4,
                "warmup_fraction": 0.2,
                "sets_per_step": 16,
            },
            "online": {"rounds": 3, "prompts_per_round": 192, "epochs_per_round": 2},
            "evaluation": {"num_prompts": HELDOUT_PROMPTS, "num_responses": 4},
        }
    )


class Pretraining:
    """Pretraining in a process of its own, started at once, followed on the terminal, ended with the context.

    A folder that already holds the model is left as it is.

    Args:
        out: of the quickstart.
        seed: of the model.
        console: where progress goes.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, out: Path, seed: int, console: Console) -> None:
        self._console, self._log = console, out / "pretraining.log"
        self._tokenizer_written = Event()
        self._process: subprocess.Popen[str] | None = None
        self.running = not (out / "policy" / "config.json").exists()
        self.seconds = 0.0
        if not self.running:
            self._tokenizer_written.set()
            return
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "raypo.quickstart.model", str(out / "policy"), str(seed)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
            )
        Thread(target=self._follow, args=(self._process,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()

    def wait_for_tokenizer(self) -> None:
        """Block until the tokenizer is there, with which prompts are rendered.

        Raises:
            RunError: pretraining failed.
        """
        while not self._tokenizer_written.wait(timeout=0.2):
            if (message := self.failure()) is not None:
                raise RunError(message, "a pretrained model", "see the log")

    def failure(self) -> str | None:
        """Why there will be no model; None while there may be one."""
        code = None if self._process is None else self._process.poll()
        if not code:
            return None
        last = self._log.read_text(encoding="utf-8").strip().splitlines()[-1:] or ["no message"]
        return f"pretraining ended with exit code {code}: {last[0]}; see {self._log}"

    def _follow(self, process: subprocess.Popen[str]) -> None:
        began = time.monotonic()
        assert process.stdout is not None  # asked for when it was started
        for line in process.stdout:
            told = json.loads(line)
            self._tokenizer_written.set()  # it is there before the first line
            if told["loss"] is not None and (told["step"] == 1 or told["step"] % SAY_EVERY_STEPS == 0):
                seconds, where = time.monotonic() - began, f"step {told['step']}/{told['steps']}"
                _say(
                    self._console, f"{'':9} pretrain  {seconds:6.1f} s  {where}, loss {told['loss']:.3f} nats per token"
                )
        process.wait()
        self.seconds = time.monotonic() - began
