"""What a study is: one YAML file, with the config of a run inside it or beside it."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, ValidationError, model_validator

from raypo import config
from raypo.config import RewardSource, RunConfig, Section
from raypo.config.section import Positive
from raypo.errors import ConfigError

Scalar = bool | int | float | str | None


def _number(value: Any) -> Any:
    """A finite number, or the text of one: YAML reads 1e-6 as text. Truth values are not 1 and 0 here."""
    try:
        found = float(value) if isinstance(value, str) else value
    except ValueError:
        found = None
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        raise ValueError("not a finite number")
    return found


Number = Annotated[int | float, BeforeValidator(_number)]


class Range(Section):
    """Numbers between two bounds, both included; whole ones where both bounds are."""

    low: Number
    """Smallest value."""
    high: Number
    """Largest value."""
    log: bool = False
    """Even on a logarithmic scale."""
    points: Annotated[int, Field(ge=2)] | None = None
    """Values of a grid. Read only by `algorithm: grid`."""

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.low < self.high:
            raise ValueError("low must be below high")
        if self.log and self.low <= 0:
            raise ValueError("a logarithmic range starts above 0")
        return self

    @property
    def whole(self) -> bool:
        """Whether its values are whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)


Parameter = Annotated[
    Annotated[Range, Tag("range")] | Annotated[list[Any], Field(min_length=1), Tag("choices")],
    Discriminator(lambda value: "choices" if isinstance(value, list) else "range"),
]
"""What is searched over; what is no list is meant as a range, so that a fault is told once."""


class StudyConfig(Section):
    """One study."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "study"
    """Name of the study: its folder under `output`. The same study continues where it stopped."""
    output: str = "studies"
    """Folder under which the study's folder is made; with several nodes one that all of them see."""
    form: Literal["offline", "online"] = "offline"
    """`offline`: trials train on a table that they share, as `raypo train` does. `online`: each is a `raypo run`."""
    base: str | dict[str, Any]
    """The config that trials override: a path, relative to the study's file, or the config itself."""
    space: Annotated[dict[str, Parameter], Field(min_length=1)]
    """Dotted config paths to a range (`{low: 1e-6, high: 1e-4, log: true}`) or a list of choices."""
    algorithm: Literal["optuna", "random", "grid"] = "optuna"
    """`optuna`: multi-objective TPE, reward up and KL down. `grid`: every combination, once."""
    trials: Positive | None = None
    """Points to try. Must be given, except for a grid, which has as many as it has."""
    concurrency: Positive = 2
    """Trials at once, if the cluster holds them; fewer where it does not."""
    scheduler: Literal["asha", "none"] = "asha"
    """`asha`: at each rung the worse share of the trials that reached it is stopped (arXiv 1810.05934)."""
    rungs: Positive = 3
    """Offline: evaluations of a trial, evenly over its steps. Online a round is a rung, and this is not read."""
    grace: Positive = 1
    """Rungs before a trial can be stopped. Read only with `scheduler: asha`."""
    reduction: Annotated[int, Field(ge=2)] = 2
    """One in so many trials goes on at a rung. Read only with `scheduler: asha`."""
    kl_bound: Annotated[float, Field(gt=0)]
    """A policy whose KL to the start is above this is worth no more than the start; nats per response."""
    rewards: tuple[RewardSource, ...] = ()
    """What held-out responses are judged by. Empty: the base's own rewards. For sets whose rewards are given."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the search alone; runs have their own."""
    keep: Literal["front", "all"] = "front"
    """Whose weights stay when the study ends: the winner's and the Pareto front's, or every trial's."""


def load(path: str | Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Read a study; a base that is a path becomes the mapping that it names.

    Args:
        path: YAML file with one mapping.
        overrides: `key=value` strings, e.g. `base.policy.path=MODEL`; the value is YAML.

    Raises:
        ConfigError: the file, the base, an override or a key cannot be read.
    """
    tree = config.read_yaml(path)
    if isinstance(base := tree.get("base"), str):
        tree["base"] = config.read_yaml(Path(path).parent / base)
    return build(config.apply_overrides(tree, overrides))


def build(tree: Mapping[str, Any]) -> StudyConfig:
    """Validate a plain mapping whose base is a mapping.

    Raises:
        ConfigError: every fault in one message.
    """
    try:
        study = StudyConfig.model_validate(dict(tree))
    except ValidationError as error:
        faults = dict.fromkeys(_told(fault) for fault in error.errors())
        raise ConfigError("\n  ".join(faults), remedy="see the docstrings of raypo/tuning/study.py") from error
    if (study.trials is None) != (study.algorithm == "grid"):
        raise ConfigError(
            f"algorithm {study.algorithm} with trials {study.trials}",
            "trials, the number of points to try; a grid has as many as it has and takes none",
            "give trials, or remove it",
        )
    if "://" in study.output:
        raise ConfigError(
            f"output = {study.output}",
            "a folder: trials keep checkpoints, which cannot lie in an object store",
            "name a folder that every node sees",
        )
    return study


def anchored(study: StudyConfig) -> StudyConfig:
    """The same study with the paths of files and folders that exist made absolute, as a run's config has them.

    Ray Tune's trials stand in folders of their own: a relative path would be another one there, or the name of a model
    on the hub.

    Raises:
        ConfigError: the base is no config of a run.
    """
    assert isinstance(study.base, dict)  # load reads a path
    base = config.build(study.base)
    models = [f"rewards.{at}.path" for at, one in enumerate(base.rewards) if isinstance(one, config.ModelReward)]
    placed = {}
    for key in (*config.PLACES, *models):
        value: Any = base
        for part in key.split("."):
            value = value[int(part)] if isinstance(value, tuple) else getattr(value, part, None)
        if value is not None:
            placed[key] = value
    output = os.path.abspath(os.path.expanduser(study.output))
    rewards = config.anchored_rewards(study.rewards)
    return study.model_copy(
        update={"output": output, "base": config.set_values(study.base, placed), "rewards": rewards}
    )


def _told(fault: Any) -> str:
    within = fault["loc"][0] == "space" and len(fault["loc"]) > 2
    # behind a path of the space stands which kind of parameter it was read as, which nobody has written
    parts = [*fault["loc"][:2], *fault["loc"][3:]] if within else fault["loc"]
    where = ".".join(str(part) for part in parts)
    if fault["type"] == "extra_forbidden":
        names = Range.model_fields if within else StudyConfig.model_fields
        near = difflib.get_close_matches(str(parts[-1]), names, n=1, cutoff=0.4)
        return f"unknown key {where!r} of a study" + (f"; did you mean {near[0]!r}?" if near else "")
    if fault["type"] == "missing":
        return f"{where} must be given"
    message = "neither a range {low, high} nor a list of choices" if fault["type"] == "model_type" else fault["msg"]
    return f"{where} = {fault.get('input')!r}: {message.removeprefix('Value error, ')}"


def base_of(study: StudyConfig) -> RunConfig:
    """The config that trials override, and that all of them are evaluated by.

    Raises:
        ConfigError: it is no config of a run, or held-out responses would be judged by nothing.
    """
    assert isinstance(study.base, dict)  # load reads a path
    base = config.build(study.base)
    if not any(source.weight for source in judges(study, base)):
        raise ConfigError(
            "no reward source with a weight",
            "one, to judge held-out responses by: given sets have rewards of their own responses alone",
            "add rewards: to the study, or to its base",
        )
    if study.form == "online" and study.rewards:
        raise ConfigError("rewards in an online study", "those of its base", "move them there")
    if base.sampling.temperature != 1 or base.sampling.top_p != 1:
        raise ConfigError(
            f"kl_bound with temperature {base.sampling.temperature:g} and top_p {base.sampling.top_p:g}",
            "both 1: the KL is an expectation under the policy, and these responses are not drawn from it",
            "set sampling.temperature and sampling.top_p of the base to 1",
        )
    if study.form == "online":
        config.refuse_online(base)
    return base


def judges(study: StudyConfig, base: RunConfig) -> tuple[Any, ...]:
    """The reward sources that judge held-out responses."""
    return study.rewards or base.rewards


def evaluation_of(study: StudyConfig, base: RunConfig) -> RunConfig:
    """The config by which every trial's held-out responses are drawn and judged."""
    online = base.online.model_copy(update={"kl_bound": study.kl_bound})
    return base.model_copy(update={"rewards": judges(study, base), "online": online})
