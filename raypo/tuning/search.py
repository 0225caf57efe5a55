"""Ray Tune with a study's algorithm and scheduler, restored where the same study stopped before.

ASHA and not a pruner of Optuna, because Optuna has none for several objectives; a trial that ASHA stopped counts for
Optuna with the figures of its last rung.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
from pathlib import Path
from typing import Any

import optuna
import ray
from optuna.samplers import TPESampler
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import BasicVariantGenerator, SearchAlgorithm, Searcher
from ray.tune.search.optuna import OptunaSearch
from rich.console import Console

from raypo.errors import IntegrityError, ResourceError, RunError
from raypo.stages.cluster import CPUS_PER_DATASET
from raypo.tuning import space
from raypo.tuning.study import StudyConfig
from raypo.tuning.trial import Trial, write_crash

SNAPSHOT_S = "2"  # what a killed driver can lose of Tune's own record; trials keep their own
STARTUP_TRIALS = 5  # that TPE draws at random before it learns
RETRIES = 2  # of a trial whose process died; it goes on behind its last rung


class Told(tune.Callback):
    """A line per rung, per stopped and per failed trial; a crash is noted in the trial's folder as well."""

    def __init__(self, study: StudyConfig, rungs: int) -> None:
        self._study, self._rungs = study, rungs

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Of Tune's record of a study that is under way; another raypo's may hold another state."""
        if state.keys() != {"_study", "_rungs"}:
            raise AttributeError("it was written by another version of raypo")
        self.__dict__.update(state)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """A rung is done."""
        if (reason := result.get("reason")) is not None:
            self._say(trial, f"cannot be trained: {reason}")
            return
        reward = result["reward"]
        known = "of no response is known" if math.isnan(reward) else f"{reward:.3f}"
        self._say(trial, f"rung {result['rung']}/{self._rungs}: held-out reward {known}, KL {result['kl']:.2f} nats")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """The trial ended; where that was not its own doing, the scheduler stopped it."""
        last = trial.last_result or {}
        if last.get("over") is False:
            self._say(trial, f"stopped at rung {last['rung']}/{self._rungs}")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Its process died or it raised, and Tune gives it up."""
        error = trial.get_pickled_error() or RunError(str(trial.get_error() or "Ray Tune kept no error"))
        point = space.point_of(self._study.space, trial.config)
        self._say(trial, f"crashed: {write_crash(self._study, point, error)}")

    def _say(self, trial: Any, text: str) -> None:
        # by its point and no number: a study that goes on would count anew, and the table counts by beginnings
        point = space.point_of(self._study.space, trial.config)
        told = ", ".join(f"{path}={value}" for path, value in point.items())
        Console().print(f"trial with {told}: {text}", highlight=False, markup=False, soft_wrap=True)


def concurrency(study: StudyConfig, per_trial: dict[str, float]) -> int:
    """Trials at once: as asked, and no more than what is free now holds.

    Args:
        study: that asks; its shared actors run.
        per_trial: CPUs and GPUs of a trial, with all that it starts itself.

    Raises:
        ResourceError: not one trial fits.
    """
    free: dict[str, float] = ray.available_resources()
    if study.form == "offline":
        free["CPU"] = free.get("CPU", 0.0) - CPUS_PER_DATASET  # shared evaluations go through Ray Data
    fits = min(int(free.get(kind, 0.0) // need) for kind, need in per_trial.items() if need)
    if fits < 1:
        raise ResourceError(
            f"a trial takes {per_trial}, and { ({kind: free.get(kind, 0.0) for kind in per_trial}) } is free beside "
            "the engines and scorers",
            "room for one trial",
            "ask for fewer engines, workers or scorers, or start Ray with more CPUs: they are logical "
            "(cluster.ray_cpus)",
        )
    return min(study.concurrency, fits)


def algorithm(study: StudyConfig, at_once: int) -> Searcher | SearchAlgorithm:
    """What draws points; Tune bounds the trials at once of searchers alone, and not of its own generator."""
    if study.algorithm != "optuna":
        return BasicVariantGenerator(max_concurrent=at_once, random_state=study.seed)
    return OptunaSearch(
        space=space.distributions(study.space),
        metric=["reward", "kl"],
        mode=["max", "min"],
        sampler=TPESampler(seed=study.seed, n_startup_trials=STARTUP_TRIALS),
    )


def scheduler(study: StudyConfig, rungs: int) -> TrialScheduler:
    """What stops trials."""
    if study.scheduler == "none" or rungs == 1:
        return FIFOScheduler()
    return ASHAScheduler(
        time_attr="rung",
        metric="score",
        mode="max",
        max_t=rungs,
        grace_period=min(study.grace, rungs),
        reduction_factor=study.reduction,
    )


def restored(place: str, trainable: Any, points: dict[str, Any]) -> tune.Tuner:
    """The search as Tune's record has it: finished trials stay, others go on, and crashed ones are tried again.

    Raises:
        IntegrityError: the record cannot be read.
    """
    try:
        return tune.Tuner.restore(place, trainable, resume_unfinished=True, resume_errored=True, param_space=points)
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, ValueError, OSError) as error:
        raise IntegrityError(
            f"{place} cannot be read: {error}",
            "the record of this Ray's Tune",
            "remove it: trials keep their own, and no point is trained twice",
        ) from error


def search(study: StudyConfig, root: str, rungs: int, per_trial: dict[str, float], at_once: int) -> None:
    """Run all trials, or those that an earlier start of the same study left or that crashed in it.

    Args:
        study: of which the shared actor is up.
        root: its folder.
        rungs: of a trial.
        per_trial: what Tune sets aside for a trial's own process.
        at_once: trials.
    """
    # a trial's folder says all that Tune's loggers would
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    # its handler would return half a study as if it were whole; Ctrl-C ends the driver, and the same command goes on
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the newer output prints tables of failed trials, however quiet it is to be
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", SNAPSHOT_S)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    trainable = tune.with_resources(Trial, tune.PlacementGroupFactory([per_trial]))
    grid = study.algorithm == "grid"
    points = {} if study.algorithm == "optuna" else space.domains(study.space, grid=grid)
    place = str(Path(root, "tune"))
    if tune.Tuner.can_restore(place):
        tuner = restored(place, trainable, points)
    else:
        tuner = tune.Tuner(
            trainable,
            param_space=points,
            tune_config=tune.TuneConfig(
                search_alg=algorithm(study, at_once),
                scheduler=scheduler(study, rungs),
                num_samples=study.trials or 1,  # of a grid: once
                max_concurrent_trials=at_once if study.algorithm == "optuna" else None,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=root,
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # a trial keeps its own
                callbacks=[Told(study, rungs)],
                verbose=0,
            ),
        )
    tuner.fit()
