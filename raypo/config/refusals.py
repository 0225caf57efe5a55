"""Combinations that mean nothing, each refused with its reason. Here stands what the tree alone can tell.

What needs the table of presets is refused where that table is known, by `raypo.stages.cluster.objective_of`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from raypo.config.addresses import refuse_addresses
from raypo.config.rewards import HttpReward
from raypo.config.tree import RunConfig
from raypo.errors import ConfigError, ModelError

_ESTIMATED: frozenset[Any] = frozenset({"reference_entropy", "likelihood", "reward_spread"})

READ_ONLY_WITH: tuple[tuple[str, str, frozenset[Any]], ...] = (
    ("policy.lora_rank", "policy.adapter", frozenset({"lora"})),
    ("policy.lora_alpha", "policy.adapter", frozenset({"lora"})),
    ("policy.lora_target_modules", "policy.adapter", frozenset({"lora"})),
    ("scoring.truncation_penalty", "scoring.truncated", frozenset({"penalty"})),
    ("online.ema_decay", "online.reference", frozenset({"ema"})),
    ("prompts.numbered_prefix", "prompts.sets_format", frozenset({"columns", "auto"})),
    ("prompts.heldout_fraction", "prompts.heldout_path", frozenset({None})),
    ("engine.kv_cache_gib", "engine.backend", frozenset({"cpu", "auto"})),
    ("engine.gpu_memory_fraction", "engine.backend", frozenset({"gpu", "auto"})),
    ("dispersion.scale", "dispersion.estimator", _ESTIMATED),  # what is given is not normalised
    ("dispersion.shuffle", "dispersion.estimator", frozenset({*_ESTIMATED, "given"})),
)
"""A field, the choice that it belongs to, and the values of the choice with which it is read."""

RENDERED_BY_RAYPO = frozenset(
    {
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "conversation",
        "messages",
        "return_dict",
        "return_tensors",
        "tokenize",
    }
)
"""Arguments of a chat template's rendering that are not the user's."""


def refuse_contradictions(config: RunConfig) -> None:
    """Refuse what means nothing in any run.

    Raises:
        ConfigError: naming the values, and why they cannot be meant together.
    """
    for fault in (*_unread(config), *_contradictions(config), *refuse_addresses(config)):
        raise fault


def refuse_online(config: RunConfig) -> None:
    """Refuse what cannot be aligned online: sets are sampled, so they need responses, a reward and held-out prompts.

    Raises:
        ConfigError: naming the value and its reason.
    """
    if config.sampling.num_responses < 2:
        raise ConfigError(
            f"sampling.num_responses = {config.sampling.num_responses}",
            "at least 2: a set of one response has no preference in it",
            "raise sampling.num_responses",
        )
    if not any(source.weight for source in config.rewards):
        raise ConfigError(
            "no reward source with a weight" + (": all weights are 0" if config.rewards else ""),
            "at least one under `rewards`: without it every set is a tie, and ties never train",
            "add a reward source, or train on given sets with `raypo train`",
        )
    prompts = config.prompts
    if prompts.heldout_path is None and prompts.heldout_fraction == 0:
        raise ConfigError(
            "prompts.heldout_fraction = 0 and no prompts.heldout_path",
            "held-out prompts: a gain on the prompts that were trained on says nothing about others",
            "set prompts.heldout_fraction=0.1, or give prompts.heldout_path",
        )


def _unread(config: RunConfig) -> Iterator[ConfigError]:
    """A value that was set and that nothing would read."""
    for field, choice, values in READ_ONLY_WITH:
        value, default = _at(config, field), _default(config, field)
        if value != default and (chosen := _at(config, choice)) not in values:
            yield ConfigError(
                f"{field} = {value} with {choice} = {chosen}: nothing would read it",
                f"{field} only with {choice} = {' or '.join(sorted(map(str, values)))}",
                f"remove {field}, or change {choice}",
            )


def _contradictions(config: RunConfig) -> Iterator[ConfigError]:
    yield from _prompts(config)
    yield from _rewards(config)
    yield from _rounds(config)
    yield from _lengths(config)
    yield from _devices(config)
    yield from _output(config)


def _prompts(config: RunConfig) -> Iterator[ConfigError]:
    if taken := sorted(RENDERED_BY_RAYPO & config.prompts.template_arguments.keys()):
        yield ConfigError(
            f"prompts.template_arguments has {', '.join(taken)}",
            f"arguments that the chat template has beside {', '.join(sorted(RENDERED_BY_RAYPO))}: those raypo gives",
            "remove it; to replace the template give policy.chat_template=FILE",
        )


def _rewards(config: RunConfig) -> Iterator[ConfigError]:
    names = [source.name for source in config.rewards]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        yield ConfigError(
            f"two reward sources share the name {twice[0]!r}", "different names: tables hold values by name"
        )
    for source in config.rewards:
        if isinstance(source, HttpReward) and not source.url.startswith(("http://", "https://")):
            yield ConfigError(f"rewards: {source.name}.url = {source.url!r}", "an address with http:// or https://")
    scoring = config.scoring
    if scoring.truncated == "penalty" and scoring.truncation_penalty == 0:
        yield ConfigError(
            "scoring.truncated = penalty with scoring.truncation_penalty = 0",
            "a penalty above 0: this is `keep` under another name",
            "set scoring.truncated=keep, or scoring.truncation_penalty=1",
        )


def _rounds(config: RunConfig) -> Iterator[ConfigError]:
    online, sampling = config.online, config.sampling
    if online.data == "accumulate" and online.reference != "initial":
        yield ConfigError(
            f"online.data = accumulate with online.reference = {online.reference}",
            "reference initial: log-ratios of older sets are against older references, and one loss would mix them",
            "set online.reference=initial or online.data=fresh",
        )
    if online.reference == "ema" and online.ema_decay in (0.0, 1.0):
        same = "previous" if online.ema_decay == 0 else "initial"
        yield ConfigError(
            f"online.ema_decay = {online.ema_decay:g}",
            f"a decay between 0 and 1: this average is always the {same} policy",
            f"set online.reference={same}, or another decay",
        )
    if online.kl_bound is not None and (sampling.temperature != 1 or sampling.top_p != 1):
        yield ConfigError(
            f"online.kl_bound with temperature {sampling.temperature:g} and top_p {sampling.top_p:g}",
            "both 1: the KL is an expectation under the policy, and these responses are not drawn from it",
            "set sampling.temperature=1 sampling.top_p=1, or remove online.kl_bound",
        )


def _lengths(config: RunConfig) -> Iterator[ConfigError]:
    prompts, sampling = config.prompts, config.sampling
    if prompts.heldout_path is None and prompts.heldout_fraction == 1:
        yield ConfigError("prompts.heldout_fraction = 1", "below 1: no prompt would be left to train on")
    context, needed = config.engine.max_model_tokens, prompts.max_prompt_tokens + sampling.max_response_tokens
    if context is not None and context < needed:
        yield ConfigError(
            f"engine.max_model_tokens = {context}",
            f"at least {needed}: prompts.max_prompt_tokens {prompts.max_prompt_tokens} + "
            f"sampling.max_response_tokens {sampling.max_response_tokens}",
            "raise it, or lower one of the two",
        )


def _devices(config: RunConfig) -> Iterator[ConfigError]:
    engine, online = config.engine, config.online
    if config.cluster.placement == "shared":
        yield ConfigError(
            "cluster.placement = shared",
            "split: engines and trainers on their own devices; sharing a GPU is not built: it was never measured",
            "set cluster.placement=split",
        )
    if engine.backend == "cpu" and engine.tensor_parallel > 1:
        yield ConfigError(
            f"engine.tensor_parallel = {engine.tensor_parallel} with engine.backend = cpu",
            "1: a CPU engine runs in one process, or the host rail could not reach its weights",
            "raise engine.count instead",
        )
    if online.sync == "nccl" and (engine.backend == "cpu" or not config.training.gpus_per_worker):
        yield ConfigError(
            f"online.sync = nccl with engine.backend = {engine.backend} and training.gpus_per_worker = "
            f"{config.training.gpus_per_worker}",
            "GPUs on both sides: NCCL moves memory of GPUs",
            "set online.sync=host, or training.gpus_per_worker=1",
        )
    if online.sync == "host" and engine.tensor_parallel > 1:
        yield ConfigError(
            f"online.sync = host with engine.tensor_parallel = {engine.tensor_parallel}",
            "nccl: the host rail writes into an engine of one process",
            "set online.sync=auto",
        )


def _output(config: RunConfig) -> Iterator[ConfigError]:
    if "://" in config.output:
        yield ConfigError(
            f"output = {config.output}",
            "a folder: tables could lie in an object store, but checkpoints cannot, and would stay on one node",
            "name a folder that every node sees, and keep a copy in the object store: mirror=s3://...",
        )


def _at(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = getattr(config, name)
    return config


def _default(config: RunConfig, path: str) -> Any:
    section, name = path.split(".")
    return type(getattr(config, section)).model_fields[name].default


def refuse_lengths(config: RunConfig, positions: int | None) -> None:
    """Refuse lengths that the policy's context cannot hold: an engine would only say so when it starts.

    Args:
        config: of the run.
        positions: of the policy. None: it sets no bound.

    Raises:
        ModelError: the run asks for longer sequences than it has positions.
    """
    needed = config.engine.max_model_tokens or config.prompts.max_prompt_tokens + config.sampling.max_response_tokens
    if positions and needed > positions:
        own = config.engine.max_model_tokens is not None
        asked = "engine.max_model_tokens" if own else "prompts.max_prompt_tokens + sampling.max_response_tokens"
        raise ModelError(
            f"{config.policy.path} has {positions:,} positions and the run asks for sequences of {needed:,} tokens",
            f"{asked} of at most {positions:,}",
            f"lower {'it' if own else 'one of the two'}, or take a model with a longer context",
        )
