"""A run as it would be: every value with its source, and the work. Arithmetic on a config: neither torch nor ray."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from raypo.config import RunConfig, key_of
from raypo.stages.cluster import CPUS_PER_DATASET, Asked, hyperparameters_of, objective_of
from raypo.training.moves import check_job


@dataclass(frozen=True)
class Value:
    """One resolved value of a run.

    Args:
        key: dotted.
        value: as the run reads it.
        source: "override", "file", "default", or "preset" for a hyperparameter that only the preset asks for.
    """

    key: str
    value: Any
    source: str


def resolve(config: RunConfig, given: Mapping[str, Any], overrides: Sequence[str]) -> list[Value]:
    """Every value of a run with its source, in the order of the tree.

    Args:
        config: built from `given`.
        given: the file's tree with the overrides in it.
        overrides: as on the command line.

    Raises:
        ConfigError: the preset or a hyperparameter is unknown, or the combination means nothing.
    """
    check_job(objective_of(config), config, None, sampled=any(source.weight for source in config.rewards))
    named = [key_of(override) for override in overrides]

    def source(key: str) -> str:
        if not _holds(given, key):
            return "default"
        return "override" if any(f"{key}.".startswith(f"{name}.") for name in named) else "file"

    values = [Value(key, value, source(key)) for key, value in leaves(config).items()]
    known = {value.key for value in values}
    added = [
        Value(f"objective.{name}", value, "preset")
        for name, value in hyperparameters_of(config).items()
        if f"objective.{name}" not in known
    ]
    place = next(i for i, value in enumerate(values) if value.key == "objective.preset") + 1
    return [*values[:place], *added, *values[place:]]


def leaves(section: BaseModel, prefix: str = "") -> dict[str, Any]:
    """Every value of the tree by its dotted key, extra keys included."""
    found: dict[str, Any] = {}
    for name, value in section:
        if isinstance(value, BaseModel):
            found |= leaves(value, f"{prefix}{name}.")
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            for index, one in enumerate(value):
                found |= leaves(one, f"{prefix}{name}.{index}.")
        else:
            found[prefix + name] = value
    return found


def _holds(given: Any, key: str) -> bool:
    """Whether a nested tree has a value at a dotted key."""
    for part in key.split("."):
        if isinstance(given, (list, tuple)) and part.isdigit() and int(part) < len(given):
            given = given[int(part)]
        elif isinstance(given, Mapping) and part in given:
            given = given[part]
        else:
            return False
    return True


def work(config: RunConfig) -> dict[str, str]:
    """What the run would do, and the logical CPUs that it asks for; a run without a weighted reward trains offline."""
    online, sampling, prompts = config.online, config.sampling, config.prompts
    trains_online = any(source.weight for source in config.rewards)
    asked = Asked.by(config, on_gpu=config.engine.backend == "gpu", engines=trains_online)
    found = {"command": "raypo run" if trains_online else "raypo train (no reward source has a weight)"}
    per_round = online.prompts_per_round
    if trains_online:
        found |= {"rounds": f"{online.rounds}", "prompts per round": f"{per_round or 'all training prompts'}"}
    if trains_online and per_round is not None:
        responses = online.rounds * per_round * sampling.num_responses
        steps = math.ceil(per_round / config.training.sets_per_step) * online.epochs_per_round
        if online.data == "accumulate":
            steps = sum(
                math.ceil(per_round * (index + 1) / config.training.sets_per_step) * online.epochs_per_round
                for index in range(online.rounds)
            )
        else:
            steps *= online.rounds
        found |= {
            "responses": f"{responses:,}",
            "response tokens, at most": f"{responses * sampling.max_response_tokens:,}",
            "optimizer steps, at most": f"{steps:,}",
        }
    context = config.engine.max_model_tokens or prompts.max_prompt_tokens + sampling.max_response_tokens
    logical = config.cluster.ray_cpus or max(8, os.cpu_count() or 1)
    return found | {
        "longest sequence": f"{context:,} tokens",
        "logical CPUs asked": f"{asked.cpus}, of these {CPUS_PER_DATASET} for Ray Data",
        "logical CPUs of a Ray that raypo starts here": f"{logical}" + ("" if logical >= asked.cpus else ": too few"),
        "GPUs asked": f"{asked.gpus:g}" + (", and those of the engines where there are any" if _maybe(config) else ""),
    }


def _maybe(config: RunConfig) -> bool:
    """Whether only the cluster decides if engines take GPUs."""
    return config.engine.backend == "auto"
