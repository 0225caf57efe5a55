"""Memory per process and per device, estimated from the headers of safetensors files: neither torch nor ray."""

from __future__ import annotations

import json
import math
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raypo.config import ModelReward, RunConfig
from raypo.errors import ModelError
from raypo.stages.cluster import objective_of

GIB = 2**30
BYTES = {"float32": 4, "bfloat16": 2}
ALSO = {
    "num_attention_heads": ("n_head", "n_heads"),
    "hidden_size": ("n_embd", "d_model", "dim"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "intermediate_size": ("ffn_dim", "n_inner", "hidden_dim"),
    "max_position_embeddings": ("n_positions",),
}
"""Other names of a config's sizes: GPT-2's, OPT's, DistilBERT's."""
IN_A_LAYER = re.compile(r"(^|\.)(layers?|h|blocks?)\.\d+\.")


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
        positions: tokens of the longest sequence; None where the config names no bound.
    """

    parameters: int
    matrices: int
    hidden: int
    intermediate: int
    layers: int
    key_values: int
    vocabulary: int
    positions: int | None = None


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
    if not os.path.isdir(path):  # Path.is_dir raises for a name that is too long
        return None
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        shapes = {name: shape for file in sorted(folder.glob("*.safetensors")) for name, shape in _header(file).items()}
        size = _sizes(config.get("text_config", config))
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
    inner = [shape for name, shape in shapes.items() if len(shape) == 2 and IN_A_LAYER.search(name)]
    return ModelShape(
        parameters=sum(math.prod(shape) for shape in shapes.values()),
        matrices=sum(sum(shape) for shape in inner),
        **size,
    )


def _sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes by our names, whichever of the names in use the architecture has for them.

    Raises:
        KeyError: none of them is there.
    """

    def find(name: str) -> Any:
        return next((config[one] for one in (name, *ALSO[name]) if config.get(one) is not None), None)

    def need(name: str) -> Any:
        if (found := find(name)) is None:
            raise KeyError(name)
        return found

    heads, hidden = need("num_attention_heads"), need("hidden_size")
    head_size = config.get("head_dim") or hidden // heads
    return {
        "hidden": hidden,
        # GPT-2's n_inner is null where its MLP is 4 times as wide
        "intermediate": 4 * hidden if config.get("n_inner", 0) is None else need("intermediate_size"),
        "layers": need("num_hidden_layers"),
        "key_values": head_size * (config.get("num_key_value_heads") or heads),
        "vocabulary": config["vocab_size"],
        "positions": find("max_position_embeddings"),
    }


def _header(file: Path) -> dict[str, list[int]]:
    """Shapes by name: 8 bytes of length, then so many bytes of JSON."""
    with file.open("rb") as opened:
        (size,) = struct.unpack("<Q", opened.read(8))
        if size > file.stat().st_size:
            raise ValueError(f"{file.name} is torn")
        header = json.loads(opened.read(size))
    return {name: one["shape"] for name, one in header.items() if name != "__metadata__"}


def on_host(config: RunConfig, shape: ModelShape, *, engines: bool) -> dict[str, float]:
    """Bytes in the memory of one machine that has all processes of the run, by kind of process.

    Args:
        config: of the run.
        shape: of its policy.
        engines: whether the run samples.

    Processes on a GPU are left out, but for the weights that rank 0 gathers while it saves; so are reward models on
    GPUs, and those that are no folder here.
    """
    worker, engine, reference = memory(config, shape)
    workers, found = config.training.workers, {}
    if not config.training.gpus_per_worker:
        found[f"{workers} train workers"] = workers * worker.total
    found["weights while they are saved"] = BYTES[config.policy.export_dtype] * shape.parameters
    if engines and config.engine.backend != "gpu":
        found[f"{config.engine.count} engines"] = config.engine.count * engine.total
    if not config.annotation.gpus:
        found[f"{config.annotation.replicas} references"] = config.annotation.replicas * reference.total
    for source in config.rewards:
        if isinstance(source, ModelReward) and not source.gpus and (judged := model_shape(source.path)) is not None:
            found[f"reward {source.name}"] = source.replicas * BYTES[source.dtype] * judged.parameters
    return {name: float(part) for name, part in found.items()}


def on_gpus(config: RunConfig, shape: ModelShape, *, engines: bool) -> dict[str, float]:
    """Bytes on one GPU of each kind of process; of what shares a GPU, all that fit on it. Engines: their weights alone.

    Args:
        config: of the run.
        shape: of its policy.
        engines: whether the run samples.
    """
    worker, engine, reference = memory(config, shape)
    found = {}
    if config.training.gpus_per_worker:
        found["train worker"] = worker.total
    if engines and config.engine.backend == "gpu":
        found["engine's weights"] = engine.total
    if config.annotation.gpus > 0:
        found["references"] = reference.total * max(1, int(1 / config.annotation.gpus))
    return found


def host_memory() -> float:
    """Bytes of memory that processes here may use: the machine's, or its container's if that is less."""
    there = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for place in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        limit = Path(place)
        if limit.is_file() and (text := limit.read_text().strip()).isdigit():
            return min(there, float(text))
    return there
