"""The checks that take no Ray and no weights: seconds, before anything starts. `raypo run` always does them.

Each takes the config and answers a finding, or raises the error with which a run would end. Here are those of what the
config names; `surroundings` has those of what is installed and there.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from rich.console import Console

from raypo.config import FunctionReward, HttpReward, ModelReward, RunConfig, refuse_lengths, refuse_online
from raypo.doctor import surroundings
from raypo.doctor.findings import Finding, ok, warn
from raypo.doctor.memory import BYTES, model_shape, size
from raypo.errors import ConfigError, ModelError, OutputError
from raypo.models.load import check_folder, check_importance, load_config, load_tokenizer
from raypo.scoring.function import import_function
from raypo.scoring.http import check_url, headers
from raypo.scoring.judge import read_template
from raypo.stages import tables
from raypo.stages.cluster import objective_of
from raypo.training.moves import check_job

STATES_KEPT, BYTES_OF_STATE = 2, 12  # of a checkpoint's sharded state: fp32 weights and two moments per parameter


def refuse(config: RunConfig, console: Console, *, samples: bool = True) -> None:
    """Do every check; say what its user should know, and end at the first that would end the run.

    Args:
        config: of the run.
        console: where warnings go.
        samples: whether the run has engines.

    Raises:
        UserError: as of the check.
    """
    for name, check in cheap(samples=samples).items():
        found = check(config)
        if found.verdict == "warn":
            text = f"warning, {name}: {found.got}; {found.remedy}"
            console.print(text, style="yellow", highlight=False, markup=False, soft_wrap=True)


def cheap(*, samples: bool = True) -> Mapping[str, Callable[[RunConfig], Finding]]:
    """The checks by name, in the order in which they are done."""
    found = {"kind": kind} if samples else {}
    found |= {
        "objective": objective,
        "policy": policy,
        "rewards": rewards,
        "output": output,
        "packages": surroundings.packages,
        "trackers": surroundings.trackers,
        "Ray": surroundings.ray_access,
        "memory": partial(surroundings.host, engines=samples),
        "GPU memory": partial(surroundings.gpus, engines=samples),
    }
    return found | ({"engine": surroundings.engine} if samples else {})


def samples(config: RunConfig) -> bool:
    """Whether it is a config of `raypo run`; one without a weighted reward is of `raypo train`."""
    return any(source.weight for source in config.rewards)


def kind(config: RunConfig) -> Finding:
    """What an online run needs beyond a config.

    Raises:
        ConfigError: as of `refuse_online`.
    """
    refuse_online(config)
    return ok("kind", "raypo run: sampled online")


def objective(config: RunConfig) -> Finding:
    """The preset, its choices and hyperparameters mean something together."""
    made = objective_of(config)
    check_job(made, config, None, sampled=samples(config))
    return ok("objective", f"{made.name}; needs {made.needs}")


def policy(config: RunConfig) -> Finding:
    """Model and tokenizer can be read, and belong to each other and to the lengths that the run asks for.

    Raises:
        ModelError: unreadable, too few positions, or a tokenizer of another vocabulary.
        ConfigError: a stop token that the model does not know.
    """
    given = config.policy
    check_folder(given.path)
    check_importance(config.annotation)
    read = load_config(given.path, given.revision).get_text_config()
    tokenizer = load_tokenizer(given.path, given.revision, given.chat_template)
    positions, vocabulary = getattr(read, "max_position_embeddings", None), read.vocab_size
    refuse_lengths(config, positions)
    if len(tokenizer) > vocabulary:
        raise ModelError(
            f"the tokenizer of {given.path} has {len(tokenizer):,} tokens and its model embeds {vocabulary:,}",
            "a tokenizer whose tokens the model has",
            "take the tokenizer that came with the model",
        )
    if outside := [token for token in config.sampling.stop_token_ids if not 0 <= token < vocabulary]:
        raise ConfigError(
            f"sampling.stop_token_ids has {outside[0]}",
            f"token ids from 0 to {vocabulary - 1:,}: the vocabulary of {given.path}",
            "remove it, or look the token up in the tokenizer",
        )
    told = f"{given.path}: {read.model_type}, {vocabulary:,} tokens, {positions or 'any number of'} positions"
    if tokenizer.eos_token_id is None and not config.sampling.stop_token_ids:
        return warn(
            "policy",
            f"{told}; its tokenizer names no end-of-sequence token",
            "a token that ends a response",
            "set eos_token in tokenizer_config.json, or give sampling.stop_token_ids",
        )
    return ok("policy", told)


def rewards(config: RunConfig) -> Finding:
    """Functions can be imported, models read, addresses are listed and their tokens set; nothing is asked yet.

    Raises:
        RewardError: a function, an address or a token.
        ModelError: a reward model.
    """
    told = []
    for source in config.rewards:
        who = f"reward {source.name!r}"
        if isinstance(source, FunctionReward):
            import_function(source.path)
        elif isinstance(source, ModelReward):
            check_folder(source.path, f"path of the reward {source.name!r}")
        elif isinstance(source, HttpReward):
            check_url(source.url, who)
            headers(source.token_env, who)
        told.append(f"{source.name} ({source.type}" + ("" if source.weight else ", watched") + ")")
    if (judge := config.evaluation.judge) is not None:
        check_url(judge.url, f"judge {judge.model!r}")
        headers(judge.token_env, f"judge {judge.model!r}")
        if judge.template is not None:
            read_template(judge.template)
        told.append(f"judge {judge.model}")
    if any(isinstance(source, HttpReward) for source in config.rewards) or judge is not None:
        told.append(f"allowed hosts: {', '.join(config.scoring.allowed_hosts)}")
    return ok("rewards", ", ".join(told) or "none: given sets have rewards of their own")


def output(config: RunConfig) -> Finding:
    """The run's folder can be written, and there is space for its checkpoints.

    Raises:
        OutputError: it cannot be written, or its mirror not be read.
    """
    place = Path(config.output).absolute()
    try:
        while not place.exists():
            place = place.parent
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"raypo")
    except OSError as error:
        raise OutputError(
            f"cannot write to {config.output}: {error.strerror}", "a writable folder", "choose another output="
        ) from error
    if config.mirror is not None:
        tables.read_json(tables.join(config.mirror, config.name, "run.json"))  # whether the storage answers
    free = shutil.disk_usage(place).free
    told = f"{config.output}: {size(free)} free"
    shape = model_shape(config.policy.path)
    if shape is None:
        return ok("output", told)
    rounds = config.online.rounds if samples(config) else 1
    kept = BYTES[config.policy.export_dtype] * (rounds + 1)
    kept += BYTES["float32"] * rounds if config.online.reference == "ema" else 0  # the averages
    needed = shape.parameters * (STATES_KEPT * BYTES_OF_STATE + kept)
    told += f", about {size(needed)} for the checkpoints of {rounds} rounds"
    if needed > free:
        return warn("output", told, f"{size(needed)} free", "make room, or choose another output=")
    return ok("output", told)
