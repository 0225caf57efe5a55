"""The space of a study: its parameters as Tune's domains and Optuna's distributions, and a point of it as a config."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from ray import tune

from raypo import config
from raypo.config import RunConfig
from raypo.errors import ConfigError
from raypo.stages.cluster import objective_of
from raypo.tuning.study import Range, StudyConfig

Space = Mapping[str, Range | list[Any]]

ANYWHERE = ("objective", "training", "dispersion", "scoring.reward_scale", "scoring.min_reward_spread")
LORA = ("policy.adapter", "policy.lora_rank", "policy.lora_alpha", "policy.lora_target_modules")
ALLOWED = {
    "offline": (*ANYWHERE, *LORA, "online.epochs_per_round", "seed"),
    "online": (*ANYWHERE, *LORA, "online", "sampling.num_responses"),
}
"""What a trial may change: nothing by which policies are measured, or trials would not compare."""
FIXED = ("training.workers", "training.gpus_per_worker", "training.threads", "online.kl_bound", "online.rounds")
"""Within those: what a trial takes of the cluster, and how far it is let go."""
REASONS = {
    "policy": "trials share a start, and their KL is measured to it",
    "prompts": "trials are measured on the same held-out prompts, and share the table of the others",
    "rewards": "trials are judged by the same rewards, or what they reach would not compare",
    "annotation": "the reference's figures are made once for all trials",
    "sampling.num_responses": "given sets have the responses that they have; an online study may search over it",
    "sampling": "held-out responses of all trials are drawn alike, or what they reach would not compare",
    "evaluation": "trials are measured alike, or what they reach would not compare",
    "engine": "it is of the cluster, which the trials share, and changes no policy",
    "cluster": "it is of the cluster, which the trials share, and changes no policy",
    "training": "what a trial takes of the cluster is the same for all of them",
    "online.kl_bound": "all trials are held to the study's kl_bound",
    "online.rounds": "a round is a rung, and the scheduler compares trials at the same one",
    "online": "an offline study has no rounds; an online one may search over it",
}
"""Why a path is not searched over, by the longest of these that it is or lies below."""
DIGITS = 4  # of a sampled number: a config that people read needs no more, and no trial tells more digits apart
CORNERS = 512  # combinations that are tried out before a study starts


def check(study: StudyConfig) -> None:
    """Refuse a space in which trials would not compare, or of which a corner is no config.

    Raises:
        ConfigError: naming the path, or the point and what is wrong with it.
    """
    allowed = ALLOWED[study.form]
    for path in study.space:
        inside = any(path == one or path.startswith(one + ".") for one in allowed)
        # a choice of `training` or `online` may be a mapping with one of them in it
        fixed = [one for one in paths_of(path, study.space[path]) if one in FIXED]
        if not inside or fixed:
            refused = fixed[0] if fixed else path
            raise ConfigError(
                f"space: {refused}",
                f"in an {study.form} study a path below {', '.join(allowed)}, and none of {', '.join(FIXED)}: "
                f"{reason(refused)}",
                "remove it, or change it in the base",
            )
        parameter = study.space[path]
        if study.algorithm == "grid" and isinstance(parameter, Range) and parameter.points is None:
            raise ConfigError(f"space: {path} is a range without points", "a grid", "give points, or a list of values")
    kinds = set()
    for point in itertools.islice(corners(study.space), CORNERS):
        try:
            kinds.add(objective_of(trial_config(study, point)).needs_labels)
        except ConfigError as error:
            told = ", ".join(f"{path} = {value!r}" for path, value in point.items())
            raise ConfigError(
                f"the space has a point that is no config ({told}): {error.got}", error.expected, error.remedy
            ) from error
    if len(kinds) > 1:
        raise ConfigError(
            "the space has objectives that train from labels beside others that do not",
            "one kind: labelled responses stand alone and others in sets, so that trials would not share a table",
            "make two studies",
        )


def paths_of(path: str, parameter: Range | list[Any]) -> list[str]:
    """A parameter's path, and those of the keys that its choices set where they are mappings."""
    choices = [] if isinstance(parameter, Range) else [one for one in parameter if isinstance(one, dict)]
    return [path, *(f"{path}.{key}" for one in choices for key in one)]


def reason(path: str) -> str:
    """Why a study does not search over a path."""
    names = [one for one in REASONS if path == one or path.startswith(one + ".")]
    return REASONS[max(names, key=len)] if names else "it changes no policy, or is no key of a config"


def needs_labels(study: StudyConfig) -> bool:
    """Whether the objectives of a checked space train from labels."""
    return objective_of(trial_config(study, next(corners(study.space)))).needs_labels


def given_dispersion(study: StudyConfig) -> RunConfig | None:
    """A trial's config whose dispersion is to be given, of the corners that `check` tries. None: there is none."""
    tried = (trial_config(study, point) for point in itertools.islice(corners(study.space), CORNERS))
    return next((one for one in tried if one.dispersion.estimator == "given"), None)


def corners(space: Space) -> Iterator[dict[str, Any]]:
    """Every combination of choices, each with all ranges at their low and then all at their high ends."""
    choices = {path: one for path, one in space.items() if not isinstance(one, Range)}
    ranges = {path: one for path, one in space.items() if isinstance(one, Range)}
    for combination in itertools.product(*choices.values()):
        for end in ("low", "high") if ranges else ("low",):
            yield dict(zip(choices, combination, strict=True)) | {
                path: getattr(one, end) for path, one in ranges.items()
            }


def label(value: Any) -> Any:
    """A choice as search libraries take it: mappings and lists as JSON text."""
    return value if isinstance(value, bool | int | float | str | None) else json.dumps(value, sort_keys=True)


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The space as Optuna's distributions."""
    found: dict[str, BaseDistribution] = {}
    for path, one in space.items():
        if not isinstance(one, Range):
            found[path] = CategoricalDistribution([label(value) for value in one])
        elif one.whole:
            found[path] = IntDistribution(int(one.low), int(one.high), log=one.log)
        else:
            found[path] = FloatDistribution(float(one.low), float(one.high), log=one.log)
    return found


def domains(space: Space, *, grid: bool) -> dict[str, Any]:
    """The space as Ray Tune's domains, or as its grids."""
    if grid:
        return {path: tune.grid_search([label(value) for value in grid_values(one)]) for path, one in space.items()}
    found: dict[str, Any] = {}
    for path, one in space.items():
        if not isinstance(one, Range):
            found[path] = tune.choice([label(value) for value in one])
        elif one.whole:
            found[path] = (tune.lograndint if one.log else tune.randint)(int(one.low), int(one.high) + 1)
        else:
            found[path] = (tune.loguniform if one.log else tune.uniform)(float(one.low), float(one.high))
    return found


def grid_values(one: Range | list[Any]) -> list[Any]:
    """The values of a parameter on a grid, no two the same."""
    if not isinstance(one, Range):
        return one
    assert one.points is not None  # check refuses it
    spaced = np.geomspace if one.log else np.linspace
    values = [rounded(float(value)) for value in spaced(one.low, one.high, one.points)]
    return list(dict.fromkeys(round(value) for value in values)) if one.whole else list(dict.fromkeys(values))


def rounded(value: float) -> float:
    """A number to the digits that a config keeps."""
    return float(f"{value:.{DIGITS}g}")


def size(space: Space) -> int:
    """Points of a grid."""
    return int(np.prod([len(grid_values(one)) for one in space.values()]))


def point_of(space: Space, drawn: Mapping[str, Any]) -> dict[str, Any]:
    """What a search drew, as values of a config: choices by their label, numbers rounded and within their range."""
    found: dict[str, Any] = {}
    for path, one in space.items():
        value = drawn[path]
        if not isinstance(one, Range):
            found[path] = next(choice for choice in one if label(choice) == value)
        elif one.whole:
            found[path] = int(value)
        else:
            found[path] = min(max(rounded(float(value)), float(one.low)), float(one.high))
    return found


def trial_config(study: StudyConfig, point: Mapping[str, Any]) -> RunConfig:
    """The config of a trial, named by what it is: the same point has the same name and so the same folder.

    Raises:
        ConfigError: the point is no config.
    """
    assert isinstance(study.base, dict)  # load reads a path
    tree = config.set_values(study.base, point)
    if study.form == "online":
        tree = config.set_values(tree, {"online.kl_bound": study.kl_bound})
    digest = hashlib.sha256(json.dumps(dict(point), sort_keys=True).encode()).hexdigest()[:10]
    return config.build(tree | {"name": f"trial-{digest}", "output": f"{study.output}/{study.name}/trials"})
