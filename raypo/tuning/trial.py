"""A trial: its folder, its record, and the class that Ray Tune steps.

STUDY/trials/trial-<hash of the point>/
    trial.json                    point, state and figures by rung
    crash.json                    of a trial whose process ended by no fault of its input, until it is tried again
    evaluations/version-0001/     held-out rows, records.SCORED, with the evaluation in the manifest's facts
    checkpoints/version-0001/     of the newest rung alone

The folder's name is the point's, so whatever becomes of Tune's own record, a point is never trained twice.
"""

from __future__ import annotations

import fcntl
import math
import os
import time
from pathlib import Path
from typing import Any, Protocol, TextIO

import ray
from ray import tune
from ray.exceptions import RayError, RayTaskError

from raypo.config import RunConfig
from raypo.errors import OutputError, RaypoError, ResourceError, UserError
from raypo.masking import masked
from raypo.online.folder import RunFolder
from raypo.stages import tables
from raypo.stages.actors import unwrap
from raypo.training.rounds import RoundTask
from raypo.tuning.online import Online
from raypo.tuning.shared import NAME, ask
from raypo.tuning.space import point_of, trial_config
from raypo.tuning.study import StudyConfig
from raypo.tuning.training import Alone, Group, begin, drop_state

RECORD = "trial.json"
CRASH = "crash.json"
TOLD = 400  # characters of a crash's text


def worth(reward: float, kl: float, start: float, kl_bound: float) -> float:
    """Held-out reward of what a trial would hand over: the start where the policy is beyond the KL bound."""
    return reward if kl <= kl_bound else start


class Work(Protocol):
    """What a trial does for a rung."""

    def rung(self, version: int) -> dict[str, Any]:
        """Facts of what would be handed over by then: `version`, `evaluation`, `seconds`, `over`: nothing follows."""

    def over(self) -> None:
        """All rungs are done."""

    def close(self) -> None:
        """End what was started."""


class Offline:
    """Trains on shared tables and is evaluated by shared engines.

    Args:
        config: of the trial.
        rungs: into which its steps are cut.
        shared: the actor.
    """

    def __init__(self, config: RunConfig, rungs: int, shared: Any) -> None:
        self._config, self._rungs, self._shared, self._folder = config, rungs, shared, RunFolder(config)
        self._training: Alone | Group | None = None

    def rung(self, version: int) -> dict[str, Any]:
        """Train up to a version and have it evaluated."""
        place = self._folder.evaluation(version)
        over = {"over": version == self._rungs}
        if (known := tables.manifest_of(place)) is not None:
            return known.facts | over
        if self._training is None:
            files = ask(self._shared.table.remote(self._config))
            epochs, seed = self._config.online.epochs_per_round, self._config.seed
            self._training = begin(self._config, RoundTask(0, files, 0.0, 1.0, epochs, seed, rungs=self._rungs))
        self._training.train(version)
        facts: dict[str, Any] = ask(self._shared.evaluate.remote(place, self._folder.model(version), version=version))
        return facts | over

    def over(self) -> None:
        """The weights stay, what resuming would need does not."""
        self.close()
        drop_state(self._config, self._rungs)

    def close(self) -> None:
        """Free the model."""
        if self._training is not None:
            self._training.close()
            self._training = None


class Progress:
    """A trial's steps and its record.

    Args:
        study: that it is of.
        point: of the space.
        shared: the actor.
    """

    def __init__(self, study: StudyConfig, point: dict[str, Any], shared: Any) -> None:
        self._study, self._config = study, trial_config(study, point)
        self._place = Path(RunFolder(self._config).root)
        self._place.mkdir(parents=True, exist_ok=True)
        self._lock = lock(self._place / "lock")
        (self._place / CRASH).unlink(missing_ok=True)  # it is tried again
        self._start: float | None = None
        self._work: Work
        if study.form == "offline":
            self._start = ask(shared.start.remote())["evaluation"]["reward"]["mean"]
            self._work = Offline(self._config, study.rungs, shared)
        else:
            self._work = Online(self._config)
        known = tables.read_json(str(self._place / RECORD)) or {"began": time.time()}
        self._record = known | {"point": point, "error": None, "over": False}
        self._done: list[dict[str, Any]] = []

    def step(self) -> dict[str, Any]:
        """One rung. A fault of the input ends the trial, and not the study.

        Raises:
            ResourceError: what it asks of the cluster is not there, as after a node was lost. Nothing is wrong with the
                point: it is a crash.
            OutputError: the storage does not take what it writes; likewise.
        """
        version = len(self._done) + 1
        try:
            facts = self._work.rung(version)
        except (ResourceError, OutputError):
            raise
        except UserError as error:
            self._record["error"] = str(error)
            self._write()
            self.close()
            nothing = dict.fromkeys(("reward", "kl", "score"), math.nan)
            return nothing | {"rung": version, "over": True, "done": True, "reason": str(error)}
        self._done.append(self._figures(version, facts))
        self._record["over"] = facts["over"]
        if facts["over"]:
            self._work.over()
        self._write()
        if facts["over"]:
            self.close()
        told = {name: self._done[-1][name] for name in ("reward", "kl", "score", "rung")}
        return told | {"over": facts["over"], "done": facts["over"]}

    def _figures(self, rung: int, facts: dict[str, Any]) -> dict[str, Any]:
        found = facts["evaluation"]
        reward, kl = found["reward"], found["kl_per_response"]
        figures = {"rung": rung, "version": facts["version"], "reward": reward["mean"], "kl": kl["mean"]}
        figures["seconds"] = facts["seconds"]
        for name, one in (("reward", reward), ("kl", kl), ("gain", found["reward_gain"])):
            figures |= {f"{name}_low": one["low"], f"{name}_high": one["high"]}
        figures |= {"gain": found["reward_gain"]["mean"], "gain_p": found["reward_gain_p"]}
        figures |= {"win_rate": found["reward_win_rate"]["mean"], "length": found["length"]["mean"]}
        figures["warnings"] = found["warnings"]
        figures["score"] = figures["reward"]  # an online run hands over its best version within the bound
        if self._start is not None:
            figures["score"] = worth(figures["reward"], figures["kl"], self._start, self._study.kl_bound)
        return figures

    def _write(self) -> None:
        tables.write_json(str(self._place / RECORD), self._record | {"rungs": self._done, "ended": time.time()})

    def close(self) -> None:
        """Free what the trial holds; what it has done stays."""
        self._work.close()
        self._lock.close()


class Trial(tune.Trainable):
    """What Ray Tune steps: each step is a rung, and the next begins when Tune has decided."""

    def setup(self, config: dict[str, Any]) -> None:
        """Begin, or go on behind what the trial's folder has."""
        shared = ray.get_actor(NAME)
        study = ask(shared.study.remote())
        self.progress = Progress(study, point_of(study.space, config), shared)

    def step(self) -> dict[str, Any]:
        """One rung."""
        return self.progress.step()

    def cleanup(self) -> None:
        """Called when a trial ends, and when Tune stops it."""
        self.progress.close()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take up another point in the same process: what is imported stays imported."""
        self.cleanup()
        self.setup(new_config)
        return True


def rungs_of(study: StudyConfig, config: RunConfig) -> int:
    """Evaluations of a trial that nothing stops."""
    return study.rungs if study.form == "offline" else config.online.rounds


def lock(path: Path) -> TextIO:
    """Hold a trial's folder; a twin, of the same point, waits and then finds all done."""
    file = path.open("a", encoding="utf-8")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def write_crash(study: StudyConfig, point: dict[str, Any], error: BaseException) -> str:
    """Note in a trial's folder why Tune gave it up; returns the text.

    A process that dies writes nothing, and one that dies in its first rung has no record: the driver notes it.

    Args:
        study: that it is of, with an absolute output.
        point: of the space.
        error: as Tune has it.
    """
    now, text = time.time(), told(error)
    place = tables.join(RunFolder(trial_config(study, point)).root, CRASH)
    tables.write_json(place, {"point": point, "error": text, "began": now, "ended": now})
    return text


def told(error: BaseException) -> str:
    """An error in a line: what was raised, without Ray's wrapping, the stack and the names of actors."""
    inner = unwrap(error)
    if isinstance(inner, RayTaskError):
        inner = inner.cause if isinstance(getattr(inner, "cause", None), BaseException) else inner
    lines = [line.strip() for line in str(inner).splitlines() if line.strip() and not line.startswith("\t")]
    text = " ".join(lines) if isinstance(inner, RayError | RaypoError) else f"{type(inner).__name__}: {' '.join(lines)}"
    return masked(text if len(text) <= TOLD else text[: TOLD - 3] + "...")


def read_records(root: str) -> list[dict[str, Any]]:
    """Records of all trials that finished a rung, failed or crashed, in the order in which they began.

    Each has `crash`: why Tune gave up a trial that neither trained to its end nor failed by its input; else None.
    """
    found = []
    for place in sorted(Path(root, "trials").glob("*")):
        record, crash = (tables.read_json(str(place / name)) for name in (RECORD, CRASH))
        if record is None and crash is None:
            continue
        begun = record or (crash or {}) | {"rungs": [], "error": None, "over": False}
        ended = begun["over"] or begun["error"]
        text = None if crash is None or ended else crash["error"]
        found.append(begun | {"crash": text, "folder": os.fspath(place)})
    return sorted(found, key=lambda one: (one["began"], one["folder"]))
