"""The driver of an online run: checks, prompts, actors, one `TorchTrainer.fit`, summary and report.

Everything that can be refused is refused before an actor starts. The same command again continues after the last
committed step: prompts, stage tables, evaluations and checkpoints are all found by their manifests.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import ray
from ray.exceptions import RayError
from ray.train import FailureConfig, ScalingConfig
from ray.train import RunConfig as TrainRunConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console

from raypo.config import FunctionReward, ModelReward, RunConfig, refuse_lengths, refuse_online
from raypo.data.chat import load_prompts
from raypo.data.known import check_known
from raypo.errors import RaypoError, RunError
from raypo.models.load import check_folder, check_importance, load_config, load_tokenizer
from raypo.online.coordinator import Coordinator
from raypo.online.folder import RunFolder, keeps_a_mirror, owns_its_folder
from raypo.online.identity import RUN, Verb, open_folder, same_config
from raypo.online.pace import Pace
from raypo.online.progress import Terminal, console_of_choice
from raypo.online.source import Tables
from raypo.online.summary import keep_versions, lines, summarize, write
from raypo.sampling.engine import Backend, environment
from raypo.sampling.sync import HostSender, NcclSender, Outliving
from raypo.scoring.function import import_function
from raypo.stages import cluster, tables
from raypo.stages.actors import Actors, create, unwrap
from raypo.training import checkpoint, entry, refused
from raypo.training.moves import check_job
from raypo.training.rounds import SyncSender, TableSource

STARTS = 4
"""Attempts to start a worker group, over a whole run: a node may go away while it starts. Ray counts in these also a
wait for its place that was in vain; so each waits for a part of the time, and all together for what the config says."""


@owns_its_folder
@keeps_a_mirror
def run(
    config: RunConfig,
    *,
    policy_timeout_s: float = 0.0,
    policy_failure: Callable[[], str | None] | None = None,
    console: Console | None = None,
    pace: Pace | None = None,
    accept_pins: bool = False,
    verb: Verb = RUN,
    preflight: Callable[[RunConfig], None] | None = None,
) -> dict[str, Any]:
    """Align a policy: rounds of sample, score, annotate, train, sync, evaluate. Returns the summary.

    Args:
        config: of the run.
        policy_timeout_s: wait so long for a policy folder that is still being written (its tokenizer must be there).
        policy_failure: asked while waiting: a message when the policy will never come.
        console: where progress goes; standard output by default, as JSON where the environment asks for it.
        pace: read while the run goes on. None: it goes on to its end.
        accept_pins: continue a run whose versions, world size, threads or types were others.
        verb: the command that asked for it.
        preflight: refuses in seconds what would end the run later. One that has ended needs nothing any more, and is
            told without it.

    Raises:
        UserError: the input cannot be run, or another driver runs it; nothing was started.
        RunError: the run broke; what was committed stays, and the same command continues.
    """
    console = console or console_of_choice()
    folder = RunFolder(config)
    began = time.time()
    if (done := finished(folder, config, console, verb, accept_pins=accept_pins)) is not None:
        return done
    if preflight is not None:
        preflight(config)
    check(config, policy_exists=policy_timeout_s == 0.0)
    console.print(f"run {config.name}, seed {config.seed}: {folder.root}", highlight=False, soft_wrap=True)
    read = read_prompts(folder, config)
    check_job(cluster.objective_of(config), config, read[1]["train"] if read else None, sampled=True)
    # not before the prompts are known to be good: a name is taken by what can run
    open_folder(folder, config, verb, accept_pins=accept_pins)
    commit_prompts(folder, read, console)
    owned = cluster.start(config, search_path=cluster.search_path())
    try:
        cluster.check_resources(config)
        starts, work_began = fit(config, folder, policy_timeout_s, policy_failure, console, pace)
    finally:
        if owned:
            ray.shutdown()
    keep_versions(config, folder)
    # of this command alone; "commands" says how many there were
    last = {"engine_starts": starts, "wall_seconds": round(time.time() - began, 1), "commands": attempt(folder) - 1}
    summary = summarize(config, folder) | last
    # Ray, actors, engines, and the wait for a policy that is still being made; 0 where nothing was left to do
    summary["seconds"] |= {"start": round(work_began - began, 2) if math.isfinite(work_began) else 0.0}
    report = write(config, folder, summary)
    for text in lines(summary, report):
        console.print(text, highlight=False, soft_wrap=True, markup=False)
    return summary


def finished(
    folder: RunFolder, config: RunConfig, console: Console, verb: Verb, *, accept_pins: bool
) -> dict[str, Any] | None:
    """The summary of a run that has ended, which is told; None where there is something to do.

    Raises:
        ConfigError: the folder holds another run.
        IntegrityError: its record is damaged, or gone.
    """
    if not same_config(folder, config, verb, accept_pins=accept_pins):
        return None
    done, damage = folder.summary()
    place = folder.path("summary.json")
    if damage is not None:
        console.print(f"{damage}; it is made again", highlight=False, soft_wrap=True, markup=False)
    if done is not None:
        console.print(f"run {config.name} is finished: {place}", highlight=False, soft_wrap=True)
    return done


def check(config: RunConfig, *, policy_exists: bool) -> None:
    """Refuse, before anything starts, what cannot be run.

    Raises:
        ConfigError: a preset, a hyperparameter or a combination.
        ModelError: the policy cannot be read.
    """
    refuse_online(config)
    check_sources(config, policy_exists=policy_exists)


def check_sources(config: RunConfig, *, policy_exists: bool) -> None:
    """Refuse a preset without a meaning, and a policy or reward source that cannot be read.

    Raises:
        ConfigError: a preset, a hyperparameter or a combination.
        ModelError: the policy or a reward model cannot be read, or the policy's context is too short for the run.
        RewardError: a reward function cannot be imported.
    """
    cluster.objective_of(config)
    if policy_exists:
        check_folder(config.policy.path)
        read = load_config(config.policy.path, config.policy.revision).get_text_config()
        refuse_lengths(config, getattr(read, "max_position_embeddings", None))
    check_importance(config.annotation)
    for source in config.rewards:
        if isinstance(source, FunctionReward):
            import_function(source.path)
        elif isinstance(source, ModelReward):
            check_folder(source.path, f"path of the reward {source.name!r}")


def read_prompts(folder: RunFolder, config: RunConfig) -> tuple[pa.Table, dict[str, Any]] | None:
    """Read, render and split the prompts; None where that is done and committed.

    Raises:
        DataError: the prompts cannot be read, too few are left, or their dispersion is to be given and is not.
    """
    if tables.whole(folder.path("prompts")) is not None:
        return None
    policy = config.policy
    read = load_prompts(config.prompts, load_tokenizer(policy.path, policy.revision, policy.chat_template))
    check_known(read[0], config, split="train")  # held-out prompts are not annotated
    return read


def commit_prompts(folder: RunFolder, read: tuple[pa.Table, dict[str, Any]] | None, console: Console) -> None:
    """Commit the prompts once, and tell how many there are."""
    place = folder.path("prompts")
    if read is not None:
        tables.commit(place, read[0], "prompts", read[1])
    manifest = tables.manifest_of(place)
    facts = manifest.facts if manifest else {}
    dropped = ", ".join(f"{count} {reason}" for reason, count in facts["dropped"].items() if count) or "none"
    console.print(f"prompts: {facts['train']} train, {facts['heldout']} held out; dropped: {dropped}", highlight=False)


def fit(
    config: RunConfig,
    folder: RunFolder,
    policy_timeout_s: float,
    policy_failure: Callable[[], str | None] | None,
    console: Console,
    pace: Pace | None = None,
) -> tuple[int, float]:
    """Create the actors, run one `TorchTrainer.fit` over all rounds, and end the actors.

    Returns:
        the engine starts, and the time on the clock when the first stage began.

    Raises:
        RaypoError: as raised in a stage.
        RunError: the worker group failed more often than allowed.
    """
    actors = create(config, *engine_setup(config))
    try:
        coordinator = (
            ray.remote(Coordinator)
            .options(**coordinator_options(config))
            .remote(config, actors, policy_timeout_s, paced=pace is not None)
        )

        def status(since: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
            if policy_failure is not None and (message := policy_failure()) is not None:
                coordinator.fail.remote(message)
            if pace is not None:
                coordinator.pace.remote(replace(pace))
            return ray.get(coordinator.status.remote(since))

        # the first round is evaluated and sampled while the train workers start; they are given the same answer
        found = checkpoint.resumable(folder.root)
        coordinator.next.remote(found.version if found else 0)
        with Terminal(status, console):
            fit_workers(config, folder, Tables(coordinator), sender(config, actors))
        if (error := ray.get(coordinator.error.remote())) is not None:
            raise error
        return tuple(ray.get(coordinator.started.remote()))
    finally:
        actors.shutdown()


def coordinator_options(config: RunConfig) -> dict[str, Any]:
    """How Ray places the coordinator: on the driver's node, never restarted.

    Ray puts an actor without CPUs anywhere, also on a spot machine; the driver's node has to live anyway. Its arguments
    hold actor handles, which Ray cannot promise to keep for a restart; it has no state of its own, so the same command
    goes on where it stopped.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return {"num_cpus": 0, "scheduling_strategy": here, "max_concurrency": 8 + config.training.workers}


def fit_workers(config: RunConfig, folder: RunFolder, source: TableSource, sync: SyncSender) -> None:
    """One `TorchTrainer.fit` over all rounds.

    Raises:
        UserError: as the workers met it, or there was no place for them in time.
        RunError: the worker group failed more often than allowed.
    """
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(config.training.start_timeout_s / STARTS)
    gpu = config.training.gpus_per_worker > 0
    each = {"CPU": 1.0} | ({"GPU": 1.0} if gpu else {})
    trainer = TorchTrainer(
        entry.train,
        train_loop_config={
            "config": config,
            "objective": cluster.objective_of(config),
            "run_dir": folder.root,
            "tables": source,
            "sync": sync,
        },
        scaling_config=ScalingConfig(
            num_workers=config.training.workers,
            use_gpu=gpu,
            resources_per_worker=each,
            label_selector=config.cluster.trainer_labels or None,
        ),
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        run_config=TrainRunConfig(
            name=f"attempt-{attempt(folder):03d}",
            storage_path=folder.path("ray"),
            failure_config=FailureConfig(
                max_failures=config.training.max_failures, controller_failure_limit=STARTS - 1
            ),
        ),
    )
    refused.forget(folder.root)
    try:
        trainer.fit()
        if (error := refused.taken(folder.root)) is not None:
            raise error
    except TrainingFailedError as error:
        if isinstance(error, ControllerError) and isinstance(error.controller_failure, WorkerGroupStartupTimeoutError):
            raise cluster.no_place(
                "train workers", config.training.workers, each, config.training.start_timeout_s
            ) from error
        causes = list(getattr(error, "worker_failures", {}).values())
        for cause in causes:
            if isinstance(found := unwrap(cause), RaypoError):
                raise found from error
        raise RunError(
            f"training failed: {causes[0] if causes else error}",
            f"at most {config.training.max_failures} restarts of the worker group",
            f"run the same command again to continue; see {folder.path('ray')} for Ray's record",
        ) from error
    except RayError as error:  # of Train's own actors, before or beside any worker
        raise RunError(
            f"training did not start: {str(error).strip().splitlines()[-1]}",
            "a Ray that can start a worker group",
            f"run the same command again to continue; see {folder.path('ray')} for Ray's record",
        ) from error


def engine_setup(config: RunConfig) -> tuple[dict[str, Any], dict[str, str]]:
    """Constructor arguments of the engines, and the environment of their processes."""
    engine, gpu = config.engine, cluster.on_gpu(config)
    backend: Backend = "gpu" if gpu else "cpu"
    options = {
        "dtype": config.policy.export_dtype,
        "revision": config.policy.revision,
        "max_model_tokens": engine.max_model_tokens
        or config.prompts.max_prompt_tokens + config.sampling.max_response_tokens,
        "max_sequences": engine.max_sequences,
        "backend": backend,
        "tensor_parallel": engine.tensor_parallel,
        "gpu_memory_fraction": engine.gpu_memory_fraction,
        "rail": rail(config),
    }
    environ = environment(
        backend,
        threads=config.training.threads,
        kv_cache_gib=engine.kv_cache_gib,
        tensor_parallel=engine.tensor_parallel,
    )
    return options, environ


def rail(config: RunConfig) -> Literal["host", "nccl"]:
    """How new weights travel: as configured, or by where the engines run."""
    if config.online.sync != "auto":
        return config.online.sync
    return "nccl" if cluster.on_gpu(config) else "host"


def sender(config: RunConfig, actors: Actors) -> Outliving | NcclSender:
    """The sync of the run's rail, for the train workers."""
    handles = actors.engines.handles()
    return NcclSender(handles) if rail(config) == "nccl" else Outliving(HostSender(handles, put=ray.put))


def attempt(folder: RunFolder) -> int:
    """Number of this start of the run: Ray's own record of a start is never read by another."""
    place = Path(folder.path("ray"))
    return 1 + (sum(1 for _ in place.iterdir()) if place.exists() else 0)
