"""Ray itself: start or join, resources asked against free, and the long-lived actors with their placement.

Why CPUs are logical: Ray Data beside Ray Train waits for ever, without a word, when less than one whole CPU per running
dataset is left (Train's workers are registered with Data's autoscaling coordinator, which hands out whole CPUs of the
rest). A Ray that raypo starts itself therefore has at least 8 logical CPUs; threads are bounded by OMP_NUM_THREADS.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raypo.config import HYPERPARAMETER_DEFAULTS, ModelReward, RunConfig
from raypo.errors import ConfigError, ResourceError
from raypo.objective import AnyObjective
from raypo.objective.overrides import CHOICES, override
from raypo.objective.presets import hyperparameters, preset, row

CPUS_PER_DATASET = 2
STARTS = 2  # of a local Ray, before it is given up
JOIN_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Asked:
    """Logical resources of a whole run.

    Args:
        cpus: engines, train workers, scorers, and two per Ray Data execution that runs at once.
        gpus: engines times tensor parallel, train workers, scorers.
    """

    cpus: int
    gpus: float

    @staticmethod
    def by(config: RunConfig, *, on_gpu: bool, engines: bool = True, trains: bool = True) -> Asked:
        """What a run asks for, by the rule of the design: train + engines + scorers + 2 x datasets at once."""
        count = config.engine.count if engines else 0
        workers = config.training.workers if trains else 0
        models = [source for source in config.rewards if isinstance(source, ModelReward)]
        scorers = config.annotation.replicas + sum(source.replicas for source in models)
        cpus = workers + count + scorers + CPUS_PER_DATASET
        gpus = float(workers * config.training.gpus_per_worker)
        gpus += config.annotation.replicas * config.annotation.gpus
        gpus += sum(source.replicas * source.gpus for source in models)
        if on_gpu:
            gpus += count * config.engine.tensor_parallel
        return Asked(cpus, gpus)


def objective_of(config: RunConfig) -> AnyObjective:
    """The objective of a run: its preset, with the config's defaults for what is not given.

    Raises:
        ConfigError: unknown preset, choice or hyperparameter, a combination that means nothing, or psi that the run
            does not make.
    """
    name = config.objective.preset
    given = {choice: getattr(config.objective, choice) for choice in CHOICES}
    replaced = {choice: value for choice, value in given.items() if value is not None}
    objective = override(preset(name, **hyperparameters_of(config)), replaced)
    if objective.dispersion != "none" and config.dispersion.estimator == "none":
        raise ConfigError(
            f"objective.preset = {name} with dispersion.estimator = none",
            "an estimator: psi would be 1 for every prompt, and the preset another one without dispersion",
            "set dispersion.estimator=reference_entropy, or choose a preset without dispersion",
        )
    check_trainer(objective, config)
    return objective


def check_trainer(objective: AnyObjective, config: RunConfig) -> None:
    """Refuse what the objective needs and a run does not make.

    Raises:
        ConfigError: token weights without the models that give them; scaled labels; a live reference beside annotated
            ones of another policy; a moving reference of a policy with adapters.
    """
    if objective.weighs_by_importance and config.annotation.importance is None:
        raise ConfigError(
            f"objective.preset = {objective.name}: its token weights come from two contrastive models",
            "annotation.importance.positive and annotation.importance.negative, folders of two models",
            "train them first: raypo train with preset dpo, once as the data are and once with chosen and rejected "
            "exchanged; or take ld-dpo or sparsepo",
        )
    labels = any(getattr(getattr(part, "contrast", None), "lone", False) for _, part in objective.parts)
    if labels and config.scoring.reward_scale != "none":
        raise ConfigError(
            f"objective.preset = {objective.name} with scoring.reward_scale = {config.scoring.reward_scale}",
            "reward_scale 'none': this objective reads rewards as labels, 1 or 0, and a scale moves them",
            "set scoring.reward_scale=none, and rewards that are 1 or 0",
        )
    if objective.measures_live and config.online.reference != "initial":
        raise ConfigError(
            f"objective.preset = {objective.name} with online.reference = {config.online.reference}",
            "online.reference 'initial': the trainer's own live reference starts from policy.path and rounds do not "
            "renew it, so that one loss would be measured against two policies",
            "set online.reference=initial, or take a preset whose reference is annotated (`raypo presets`: needs)",
        )
    if objective.reference == "moving" and config.policy.adapter != "none":
        raise ConfigError(
            f"objective.preset = {objective.name} with policy.adapter = {config.policy.adapter}",
            "adapter 'none': the moving reference is an average of whole weights, and adapters change none of them",
            "set policy.adapter=none, or take a preset with a fixed reference",
        )


def hyperparameters_of(config: RunConfig) -> dict[str, float]:
    """The preset's hyperparameters: as given, else the row's own defaults, else the config's.

    Raises:
        ConfigError: unknown preset.
    """
    name = config.objective.preset
    defaults = {key: HYPERPARAMETER_DEFAULTS[key] for key in hyperparameters(name) if key in HYPERPARAMETER_DEFAULTS}
    return defaults | dict(row(name).defaults) | config.objective.hyperparameters


def start(config: RunConfig, *, search_path: tuple[str, ...] = ()) -> bool:
    """Join the cluster that RAY_ADDRESS names, or start a local Ray; returns whether one was started.

    Args:
        config: of the run.
        search_path: folders added to the workers' module search path, for reward functions.

    Raises:
        ResourceError: nothing answers at RAY_ADDRESS, or it refuses.
    """
    import ray  # heavy, and its environment must be set before it is imported

    if ray.is_initialized():
        return False
    handler = signal.getsignal(signal.SIGTERM)
    owned = _init(config, search_path)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray has put its own in its place, which says nothing to a user
    return owned


def _init(config: RunConfig, search_path: tuple[str, ...]) -> bool:
    if os.environ.get("RAY_ADDRESS"):
        join(os.environ["RAY_ADDRESS"])
        return False
    # Workers use the driver's interpreter: otherwise each resolves and builds an environment of its own.
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    # One report per poll leaves a train worker; the default of 2 s would be most of a small round.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    # Ray warns on the terminal at four times this many workers; a run on two cores starts about ten by design
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(max(3, os.cpu_count() or 1)))
    threads = str(config.training.threads)
    paths = [*search_path, os.getcwd(), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    options = {
        "address": "local",
        "num_cpus": config.cluster.ray_cpus or max(8, os.cpu_count() or 1),
        "include_dashboard": config.cluster.dashboard,
        "logging_level": logging.ERROR,
        "log_to_driver": False,
        "runtime_env": {
            "env_vars": {
                "OMP_NUM_THREADS": threads,
                "OMP_WAIT_POLICY": "PASSIVE",
                "TOKENIZERS_PARALLELISM": "false",
                "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
            }
        },
    }
    start_local(options)
    return True


def start_local(options: dict[str, Any]) -> None:
    """Start a local Ray; once more where it does not come up in Ray's own 30 s, which a busy machine may need.

    Raises:
        ResourceError: nor does it then.
    """
    import ray

    for attempt in range(1, STARTS + 1):
        try:
            ray.init(**options)
            return
        except Exception as error:  # Ray raises nothing narrower
            ray.shutdown()
            if attempt == STARTS:
                raise ResourceError(
                    f"Ray did not start on this machine in {STARTS} attempts: {error}",
                    "a Ray that comes up within 30 s, Ray's own limit",
                    "end other work on the machine; or start Ray yourself (`ray start --head`) and set RAY_ADDRESS",
                ) from error


def reach(address: str) -> None:
    """Whether something answers where a Ray is said to be; seconds, and Ray is not imported.

    Args:
        address: host:port, or another that Ray understands, which is then left to Ray.

    Raises:
        ResourceError: nothing answers, or it is an address of Ray Client.
    """
    if address.startswith("ray://"):
        raise ResourceError(
            f"RAY_ADDRESS = {address}",
            "a driver on the cluster: Ray Train and actor handles do not go through Ray Client",
            "submit it: `ray job submit --address http://HEAD:8265 --working-dir . -- python jobs/align.py CONFIG`",
        )
    if found := re.fullmatch(r"\[?([^\]/]+?)\]?:(\d+)", address):
        try:
            socket.create_connection((found[1], int(found[2])), timeout=JOIN_TIMEOUT_S).close()
        except OSError as error:
            raise _not_joined(address, error) from error


def join(address: str) -> None:
    """Join a Ray that runs.

    Raises:
        ResourceError: nothing answers there, or it refuses; Ray itself would try for minutes and then end the process.
    """
    import ray
    from ray.exceptions import RayError

    reach(address)
    try:
        ray.init(logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, RuntimeError, ValueError, RayError) as error:
        raise _not_joined(address, error) from error


def _not_joined(address: str, error: BaseException) -> ResourceError:
    return ResourceError(
        f"the Ray at RAY_ADDRESS = {address} cannot be joined: {str(error).strip().splitlines()[0]}",
        "a running Ray of the same version, and its token (RAY_AUTH_TOKEN_PATH) where it asks for one",
        "start it, mend the address or the token, or unset RAY_ADDRESS: raypo then starts a Ray of its own here",
    )


def stop() -> None:
    """Leave Ray; one that was started by this process ends."""
    import ray

    ray.shutdown()


def search_path() -> tuple[str, ...]:
    """The driver's own module search path, without the interpreter's library folders."""
    prefix = str(Path(sys.prefix).resolve())
    return tuple(path for path in sys.path if path and not path.startswith((prefix, sys.base_prefix)))


def on_gpu(config: RunConfig) -> bool:
    """Whether the engines run on GPUs: as configured, or whether the cluster has any."""
    import ray

    if config.engine.backend != "auto":
        return config.engine.backend == "gpu"
    return ray.cluster_resources().get("GPU", 0) > 0


def check_resources(config: RunConfig, *, engines: bool = True, trains: bool = True) -> None:
    """Refuse a run that would wait for ever.

    Args:
        config: of the run.
        engines: whether it samples.
        trains: whether it trains.

    Raises:
        ResourceError: fewer logical CPUs or GPUs are free than the run asks for, or no node has room for a process.
    """
    import ray

    from raypo.stages import nodes

    gpu = on_gpu(config)
    asked = Asked.by(config, on_gpu=gpu, engines=engines, trains=trains)
    check_labels(config)
    free = ray.available_resources()
    for kind, need in (("CPU", asked.cpus), ("GPU", asked.gpus)):
        have = free.get(kind, 0.0)
        if need > have:
            raise ResourceError(
                f"the run asks for {need:g} {kind}s and {have:g} are free "
                f"({ray.cluster_resources().get(kind, 0.0):g} in the cluster)",
                f"at least {need:g} free {kind}s: engines {config.engine.count}, train workers "
                f"{config.training.workers if trains else 0}, annotation {config.annotation.replicas}, and "
                f"{CPUS_PER_DATASET} whole CPUs for Ray Data",
                "ask for fewer engines, workers or scorers, or start Ray with more CPUs: they are logical "
                "(cluster.ray_cpus)",
            )
    nodes.check_fit(nodes.units(config, on_gpu=gpu, engines=engines, trains=trains), nodes.free_nodes())


def no_place(what: str, count: int, each: dict[str, float], waited_s: float) -> ResourceError:
    """For processes that were given no place in time, with what was asked and what is free now.

    Args:
        what: for people.
        count: of them.
        each: logical resources that one takes, all on one node.
        waited_s: seconds.
    """
    import ray

    free = ray.available_resources()
    return ResourceError(
        f"no place for {count} {what} of {each} within {waited_s:g} s; "
        f"free: CPU {free.get('CPU', 0):g}, GPU {free.get('GPU', 0):g}",
        "that many bundles, each on one node",
        f"ask for fewer {what}, free what others hold, or start a larger cluster",
    )


def check_labels(config: RunConfig) -> None:
    """Refuse labels that no living node has: whatever is to run there would wait for ever.

    Raises:
        ResourceError: with the labels that there are.
    """
    import ray

    known = [node.get("Labels", {}) for node in ray.nodes() if node["Alive"]]
    for field in ("engine_labels", "trainer_labels", "scorer_labels"):
        wanted = getattr(config.cluster, field)
        if not any(wanted.items() <= labels.items() for labels in known):
            # Ray's own labels of each node (its id) help nobody here
            told = sorted(
                {f"{key}={value}" for labels in known for key, value in labels.items() if "node-id" not in key}
            )
            raise ResourceError(
                f"cluster.{field} = {wanted}, and no node has these labels",
                f"labels of living nodes: {', '.join(told) or 'none'}",
                "give the worker group these labels, or leave the field empty",
            )
