"""Preflight: a run as it would be, before any actor starts: values with their sources, work, and memory per device.

The plan is arithmetic on a config and on the headers of safetensors files: it imports neither torch nor ray.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from raypo.config import RunConfig, key_of
from raypo.errors import ModelError
from raypo.stages.cluster import CPUS_PER_DATASET, Asked, hyperparameters_of, objective_of

GIB = 2**30
BYTES = {"float32": 4, "bfloat16": 2}


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


@dataclass(frozen=True)
class Memory:
    """Memory of one process on its device, bytes.

    Args:
        process: which.
        parts: bytes by what they hold.
        note: what the figure leaves out.
    """

    process: str
    parts: Mapping[str, float]
    note: str = ""

    @property
    def total(self) -> float:
        """Bytes of all parts."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class ModelShape:
    """What the headers of a model folder tell.

    Args:
        parameters: their number, a tied head counted once.
        matrices: sum over the decoder's weight matrices of rows + columns: adapters of rank 1 have so many parameters.
        hidden: width of the residual stream.
        intermediate: width inside the MLP.
        layers: number of decoder layers.
        key_values: heads of keys times their size.
        vocabulary: tokens.
    """

    parameters: int
    matrices: int
    hidden: int
    intermediate: int
    layers: int
    key_values: int
    vocabulary: int


def resolve(config: RunConfig, given: Mapping[str, Any], overrides: Sequence[str]) -> list[Value]:
    """Every value of a run with its source, in the order of the tree.

    Args:
        config: built from `given`.
        given: the file's tree with the overrides in it.
        overrides: as on the command line.

    Raises:
        ConfigError: the preset or a hyperparameter is unknown, or the combination means nothing.
    """
    objective_of(config)
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


def size(count: float) -> str:
    """Bytes for people."""
    return f"{count / GIB:.2f} GiB" if count >= 0.1 * GIB else f"{count / 2**20:.1f} MiB"


def memory(config: RunConfig, shape: ModelShape) -> list[Memory]:
    """An estimate of the memory per process, from the parameter count and the bounds on a micro-batch."""
    return [_worker(config, shape), _engine(config, shape), _reference(config, shape)]


def _worker(config: RunConfig, shape: ModelShape) -> Memory:
    """Shards in fp32 with Adam's moments and a gradient (16 B per trained parameter), and one micro-batch.

    A prior that reads the reference's logits or hidden states, or a reference that moves, adds its shard in fp32.

    Kept for the backward pass, per token and layer: norms, queries, attention and residuals (6 hidden), keys and
    values, and four tensors of the MLP; with activation checkpointing the layer's input, and one layer whole.
    """
    training, policy = config.training, config.policy
    count, tokens, size = shape.parameters, training.tokens_per_micro_batch, BYTES[policy.compute_dtype]
    layer = 6 * shape.hidden + 2 * shape.key_values + 4 * shape.intermediate
    kept = shape.layers * shape.hidden + layer if training.activation_checkpointing else shape.layers * layer
    trained = count if policy.adapter == "none" else policy.lora_rank * shape.matrices
    frozen = 0 if policy.adapter == "none" else 4 * count / training.workers
    gathered = size * count / max(1, shape.layers) if training.workers > 1 or policy.compute_dtype != "float32" else 0
    live = objective_of(config).needs.startswith("reference-")
    parts = {
        "weights, Adam and gradient": 16 * trained / training.workers + frozen,
        "live reference": 4 * count / training.workers if live else 0,
        "a gathered layer": gathered,
        "activations": size * tokens * kept,
        "logits": 3 * 4 * training.logprob_chunk_tokens * shape.vocabulary,
    }
    return Memory("train worker", parts, "rank 0 also holds the exported weights in host memory while it saves")


def _engine(config: RunConfig, shape: ModelShape) -> Memory:
    engine, size = config.engine, BYTES[config.policy.export_dtype]
    per_token = 2 * shape.layers * shape.key_values * size
    context = engine.max_model_tokens or config.prompts.max_prompt_tokens + config.sampling.max_response_tokens
    full = f"a sequence of {context:,} tokens needs {per_token * context / 2**20:,.1f} MiB of KV cache"
    weights = size * shape.parameters / engine.tensor_parallel
    if engine.backend == "gpu":
        note = f"the KV cache takes the rest of {engine.gpu_memory_fraction:g} of the GPU; {full}"
        return Memory("engine, per GPU", {"weights": weights}, note)
    note = full + ("; on a GPU the cache takes what is left" if engine.backend == "auto" else "")
    return Memory("engine", {"weights": weights, "KV cache": engine.kv_cache_gib * GIB}, note)


def _reference(config: RunConfig, shape: ModelShape) -> Memory:
    weights = BYTES[config.policy.compute_dtype] * shape.parameters
    logits = 3 * 4 * config.training.logprob_chunk_tokens * shape.vocabulary
    return Memory("reference", {"reference": weights, "policy, for the KL": weights, "logits": logits})


def model_shape(path: str) -> ModelShape | None:
    """The shape of a local model folder, from headers alone; None when the path is no folder.

    Raises:
        ModelError: it is a folder without config.json or safetensors, or one of them is torn.
    """
    folder = Path(path)
    if not folder.is_dir():
        return None
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        shapes = {name: shape for file in sorted(folder.glob("*.safetensors")) for name, shape in _header(file).items()}
        config = config.get("text_config", config)
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        head_size = config.get("head_dim") or hidden // heads
        size = {
            "hidden": hidden,
            "intermediate": config["intermediate_size"],
            "layers": config["num_hidden_layers"],
            "key_values": head_size * (config.get("num_key_value_heads") or heads),
            "vocabulary": config["vocab_size"],
        }
    except (OSError, ValueError, struct.error) as error:
        raise ModelError(f"{path} cannot be read: {error}", "a Hugging Face model folder", "copy it again") from error
    except (KeyError, AttributeError) as error:
        raise ModelError(
            f"{path}/config.json has no {error}", "the config of a causal language model", "check policy.path"
        ) from error
    if not shapes:
        raise ModelError(
            f"{path} has no *.safetensors", "weights as safetensors: pickles are not read", "convert the model"
        )
    inner = [shape for name, shape in shapes.items() if len(shape) == 2 and "layers." in name]
    return ModelShape(
        parameters=sum(math.prod(shape) for shape in shapes.values()),
        matrices=sum(sum(shape) for shape in inner),
        **size,
    )


def _header(file: Path) -> dict[str, list[int]]:
    """Shapes by name: 8 bytes of length, then so many bytes of JSON."""
    with file.open("rb") as opened:
        (size,) = struct.unpack("<Q", opened.read(8))
        if size > file.stat().st_size:
            raise ValueError(f"{file.name} is torn")
        header = json.loads(opened.read(size))
    return {name: one["shape"] for name, one in header.items() if name != "__metadata__"}
