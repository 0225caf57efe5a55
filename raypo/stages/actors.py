"""The long-lived actors of a run: engines, reference scorers and reward models, and the calls to groups of them.

Actors are created by the driver and not detached, so they die with it and nothing is orphaned. None holds a state that
storage does not have: an actor that restarts comes back empty (version -1) and is brought up from the durable folder of
the version that is asked for; that one rule serves the first start, a restart and a rerun alike. Calls are never
retried by Ray (`max_task_retries=0`): a retry would reach a restarted actor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from raypo.config import ModelReward, RunConfig
from raypo.errors import EngineError, LostProcess, RaypoError
from raypo.stages import cluster

EMPTY = -1  # version of an actor that holds no weights


class EngineActor:
    """One vLLM engine in its own process."""

    def __init__(self, options: dict[str, Any]) -> None:
        from raypo.sampling.engine import Engine  # imports vllm: only engine processes pay for it

        self._make, self._options = Engine, options
        self._engine: Engine | None = None
        self._starts = 0

    def version(self) -> int:
        """Weight version held; -1 when empty or spoilt."""
        return EMPTY if self._engine is None else self._engine.version()

    def spoilt(self) -> bool:
        """Whether an update was cut short: this process can hold no weights any more."""
        return self._engine is not None and self._engine.version() == EMPTY

    def bring_up(self, folder: str, version: int) -> float:
        """Hold a version, read from its durable folder. Returns seconds."""
        began = time.monotonic()
        if self._engine is None:
            self._engine = self._make(folder, weight_version=version, **self._options)
            self._starts += 1
        else:
            self._engine.load(folder, version)
        return time.monotonic() - began

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Any method of the engine.

        Raises:
            EngineError: the engine has not been brought up.
        """
        if self._engine is None:
            raise EngineError(f"{method} was called on an engine that holds no weights", "a brought-up engine")
        return getattr(self._engine, method)(*args, **kwargs)

    def starts(self) -> int:
        """Engine starts in this process: 1 for a run without restarts."""
        return self._starts


class ReferenceActor:
    """One reference scorer in its own process, made when first asked: it is placed before a policy exists."""

    def __init__(self, options: dict[str, Any]) -> None:
        from raypo.scoring.reference import ReferenceScorer  # imports transformers

        self._make, self._options, self._folder = ReferenceScorer, options, ""
        self._scorer: ReferenceScorer | None = None

    def call(self, folder: str, method: str, *args: Any, **kwargs: Any) -> Any:
        """A method of the scorer, with the reference of a folder."""
        if self._scorer is None:
            self._scorer, self._folder = self._make(folder, **self._options), folder
        elif folder != self._folder:
            self._scorer.load(folder)
            self._folder = folder
        return getattr(self._scorer, method)(*args, **kwargs)


class RewardModelActor:
    """One Hugging Face reward model in its own process."""

    def __init__(self, source: ModelReward) -> None:
        from raypo.scoring.reward_model import RewardModel  # imports transformers

        self._model = RewardModel(source)

    def score(self, prompts: list[str], responses: list[str], metadata: list[dict[str, Any]]) -> list[float | None]:
        """One value per response; None where it cannot be scored."""
        return list(self._model(prompts, responses, metadata))


@dataclass(frozen=True)
class EngineHandle:
    """An engine as plain blocking calls, for whoever must not know Ray. Picklable.

    Args:
        actor: the Ray handle.
        tensor_parallel: GPUs of the engine.
        timeout_s: longest wait for one call, seconds.
    """

    actor: Any
    tensor_parallel: int
    timeout_s: float

    def start(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Begin a call; `wait` ends it."""
        return self.actor.call.remote(method, *args, **kwargs)

    def wait(self, call: Any) -> Any:
        """The answer of a begun call."""
        return get(call, self.timeout_s, "engine")

    def __call__(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Begin a call and wait for its answer."""
        return self.wait(self.start(method, *args, **kwargs))


def get(reference: Any, timeout_s: float, what: str) -> Any:
    """`ray.get` with a deadline and with our own errors.

    Raises:
        RaypoError: as raised in the actor or task.
        EngineError: no answer in time.
        LostProcess: the process died.
    """
    try:
        return ray.get(reference, timeout=timeout_s)
    except GetTimeoutError as error:
        raise EngineError(f"no answer from {what} in {timeout_s:g} s", "an answer", "see the logs of Ray") from error
    except RayActorError as error:
        raise LostProcess(f"the process of {what} died: {error}", "a living process", "see the logs of Ray") from error
    except RayTaskError as error:
        raise unwrap(error) from error


def unwrap(error: BaseException) -> BaseException:
    """The raypo error inside whatever Ray wrapped around it; else the error itself."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, RaypoError) and not isinstance(seen, RayTaskError):
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    return error


class Engines:
    """The engines of a run, as one group. Picklable."""

    def __init__(self, actors: Sequence[Any], config: RunConfig) -> None:
        self.actors, self._config = list(actors), config

    def handles(self) -> list[EngineHandle]:
        """One plain handle per engine, in a fixed order."""
        parallel, timeout = self._config.engine.tensor_parallel, self._config.sampling.timeout_s
        return [EngineHandle(actor, parallel, timeout) for actor in self.actors]

    def bring_up(self, folder: str, version: int) -> int:
        """Make every engine hold a version; those that do not are brought up from its durable folder.

        An engine whose update was cut short, since the trainer died in it, is ended and comes back empty.

        Returns:
            the number of engines that had to be brought up.

        Raises:
            EngineError: an engine did not come up in time.
            LostProcess: one died while it came up.
        """
        deadline = time.monotonic() + self._config.engine.start_timeout_s
        held = self.versions()
        for actor, one in zip(self.actors, held, strict=True):
            if one == EMPTY and answer(actor.spoilt, deadline, "an engine"):
                ray.kill(actor, no_restart=False)
                while answer(actor.spoilt, deadline, "an engine that is replaced"):
                    time.sleep(0.5)
        behind = [actor for actor, one in zip(self.actors, held, strict=True) if one != version]
        calls = [actor.bring_up.remote(folder, version) for actor in behind]
        for call in calls:
            get(call, max(1.0, deadline - time.monotonic()), "an engine that starts")
        return len(behind)

    def versions(self) -> list[int]:
        """Weight versions held, one per engine; -1 for an empty one. Waits for engines that Ray restarts.

        Raises:
            EngineError: an engine did not answer in time.
        """
        deadline = time.monotonic() + self._config.engine.start_timeout_s
        return [self._version(actor, deadline) for actor in self.actors]

    def starts(self) -> int:
        """Engine starts over all engines, in their present processes."""
        return sum(get([actor.starts.remote() for actor in self.actors], 60.0, "engine"))

    def _version(self, actor: Any, deadline: float) -> int:
        """Version held; waits for an actor that Ray restarts."""
        return int(answer(actor.version, deadline, "an engine"))


def answer(method: Any, deadline: float, what: str) -> Any:
    """The answer of an actor's method; asked again while Ray restarts the actor.

    Raises:
        EngineError: none came by the deadline, on the monotonic clock.
    """
    while True:
        try:
            return ray.get(method.remote(), timeout=max(1.0, deadline - time.monotonic()))
        except RayActorError as error:
            if time.monotonic() > deadline:
                raise EngineError(f"{what} did not restart: {error}", "a living process") from error
            time.sleep(0.5)
        except GetTimeoutError as error:
            raise EngineError(f"{what} did not answer in time", "an answer") from error


@dataclass
class Actors:
    """Everything long-lived that the driver created, and how to end it."""

    engines: Engines
    references: list[Any]
    reward_models: dict[str, list[Any]]
    group: PlacementGroup | None = None

    def scorers(self) -> list[Any]:
        """References and reward models."""
        return [*self.references, *(actor for actors in self.reward_models.values() for actor in actors)]

    def wait_for_scorers(self, timeout_s: float) -> None:
        """Wait until every scorer answers: one that died restarts, and refuses calls meanwhile.

        Raises:
            EngineError: one did not restart in time.
        """
        deadline = time.monotonic() + timeout_s
        for actor in self.scorers():
            answer(actor.__ray_ready__, deadline, "a scorer")

    def shutdown(self) -> None:
        """End the actors and free their placement group."""
        for actor in [*self.engines.actors, *self.scorers()]:
            ray.kill(actor)
        if self.group is not None:
            remove_placement_group(self.group)


def create(config: RunConfig, engine_options: dict[str, Any], engine_environment: dict[str, str]) -> Actors:
    """Create the actors of a run; engines first, in one placement group, so that they are placed before the trainers.

    Raises:
        ResourceError: the placement group was not ready in time.
    """
    gpu = cluster.on_gpu(config)
    bundle = {"CPU": 1.0} | ({"GPU": float(config.engine.tensor_parallel)} if gpu else {})
    count = config.engine.count
    group = placement_group(
        [bundle] * count, strategy="PACK", bundle_label_selector=[config.cluster.engine_labels] * count
    )
    if not group.wait(config.engine.start_timeout_s):
        refusal = cluster.no_place("engines", count, bundle, config.engine.start_timeout_s)
        remove_placement_group(group)
        raise refusal
    engine_class = ray.remote(EngineActor)
    engines = [
        engine_class.options(
            num_cpus=1,
            num_gpus=bundle.get("GPU", 0),
            max_restarts=-1,
            max_task_retries=0,
            runtime_env={"env_vars": engine_environment},
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index),
        ).remote(engine_options)
        for index in range(count)
    ]
    scorers = create_scorers(config)
    return Actors(Engines(engines, config), scorers.references, scorers.reward_models, group)


def create_scorers(config: RunConfig) -> Actors:
    """The actors of a run without engines: reference scorers and reward models."""
    references = _replicas(
        ReferenceActor,
        config.annotation.replicas,
        config.annotation.gpus,
        config.cluster.scorer_labels,
        _reference_options(config),
    )
    models = {
        source.name: _replicas(RewardModelActor, source.replicas, source.gpus, config.cluster.scorer_labels, source)
        for source in config.rewards
        if isinstance(source, ModelReward)
    }
    return Actors(Engines([], config), references, models)


def _replicas(kind: Callable[..., Any], count: int, gpus: float, labels: dict[str, str], argument: Any) -> list[Any]:
    options = {
        "num_cpus": 1,
        "num_gpus": gpus,
        "label_selector": labels or None,
        "max_restarts": -1,
        "max_task_retries": 0,
        "scheduling_strategy": "DEFAULT",  # unsaid, it is the caller's placement group, if that is within one
    }
    return [ray.remote(kind).options(**options).remote(argument) for _ in range(count)]


def _reference_options(config: RunConfig) -> dict[str, Any]:
    return {
        "revision": config.policy.revision,
        "compute_dtype": config.policy.compute_dtype,
        "tokens_per_batch": config.annotation.tokens_per_batch,
        "chunk_tokens": config.training.logprob_chunk_tokens,
        "packing": config.training.packing,
        "device": "cuda" if config.annotation.gpus > 0 else "cpu",
        "importance": (models.positive, models.negative) if (models := config.annotation.importance) else None,
    }
