"""Preflight: what a run asks for against what there is, before any actor starts.

The plan is arithmetic on a config and on the headers of safetensors files: it imports neither torch nor ray.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from rich.table import Column, Table

from raypo.config import RunConfig
from raypo.stages.cluster import CPUS_PER_DATASET, Asked, hyperparameters_of, objective_of

GIB = 2**30
BYTES = {"float32": 4, "bfloat16": 2}


def plan_table(config: RunConfig, given: Mapping[str, Any], overrides: Sequence[str]) -> list[Table]:
    """Tables of a plan: every value with its source, what a run does, and the memory per device.

    Args:
        config: resolved.
        given: the file's tree with the overrides in it.
        overrides: as on the command line.

    Raises:
        ConfigError: the preset or a hyperparameter is unknown, or the combination means nothing.
    """
    objective_of(config)
    key_column = Column("key", no_wrap=True)
    values = Table(key_column, "value", "from", title="plan", box=None, title_justify="left")
    named = {override.partition("=")[0] for override in overrides}
    for key, value in leaves(config).items():
        source = "override" if key in named else "file" if holds(given, key) else "default"
        values.add_row(key, str(value), source)
    for name, value in hyperparameters_of(config).items():
        if f"objective.{name}" not in leaves(config):
            values.add_row(f"objective.{name}", str(value), "default")
    return [values, work_table(config), memory_table(config)]


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


def holds(given: Any, key: str) -> bool:
    """Whether a nested tree has a value at a dotted key."""
    for part in key.split("."):
        if isinstance(given, list) and part.isdigit() and int(part) < len(given):
            given = given[int(part)]
        elif isinstance(given, Mapping) and part in given:
            given = given[part]
        else:
            return False
    return True


def work_table(config: RunConfig) -> Table:
    """What the run would do, and the logical CPUs that it asks for."""
    online, sampling = config.online, config.sampling
    asked = Asked.by(config, on_gpu=config.engine.backend == "gpu")
    table = Table("what", "how much", title="work", box=None, title_justify="left")
    per_round = online.prompts_per_round
    table.add_row("rounds", str(online.rounds))
    table.add_row("prompts per round", "all training prompts" if per_round is None else str(per_round))
    if per_round is not None:
        table.add_row("responses", f"{online.rounds * per_round * sampling.num_responses:,}")
        steps = online.rounds * online.epochs_per_round * math.ceil(per_round / config.training.sets_per_step)
        table.add_row("optimizer steps, at most", f"{steps:,}")
    table.add_row("logical CPUs", f"{asked.cpus} (of these {CPUS_PER_DATASET} for Ray Data)")
    table.add_row("GPUs", f"{asked.gpus:g}")
    return table


def memory_table(config: RunConfig) -> Table:
    """Memory per process, from the parameter count and the bounds on a micro-batch."""
    table = Table("process", "GiB", "of which", title="memory per device (estimate)", box=None, title_justify="left")
    shape = model_shape(config.policy.path)
    if shape is None:
        table.add_row("?", "?", f"{config.policy.path} is not a local folder with safetensors: no estimate")
        return table
    count, architecture = shape
    workers, training = config.training.workers, config.training
    state = 16 * count / workers  # fp32 master, two Adam moments, fp32 gradient
    hidden, layers = architecture.get("hidden_size", 0), architecture.get("num_hidden_layers", 0)
    kept = 1 if training.activation_checkpointing else 16
    activations = training.tokens_per_micro_batch * hidden * layers * kept * BYTES[config.policy.compute_dtype]
    logits = 3 * training.logprob_chunk_tokens * architecture.get("vocab_size", 0) * 4
    table.add_row(
        "train worker",
        gib(state + activations + logits),
        f"weights, Adam and gradient {gib(state)}, activations {gib(activations)}, logits {gib(logits)}",
    )
    weights = BYTES[config.policy.export_dtype] * count / config.engine.tensor_parallel
    cache = (
        "KV cache: the rest of the GPU" if config.engine.backend == "gpu" else f"KV cache {config.engine.kv_cache_gib}"
    )
    own = 0 if config.engine.backend == "gpu" else config.engine.kv_cache_gib * GIB
    table.add_row("engine", gib(weights + own), f"weights {gib(weights)}, {cache}")
    reference = BYTES[config.policy.compute_dtype] * count
    table.add_row("reference", gib(2 * reference), f"reference {gib(reference)}, policy for KL {gib(reference)}")
    return table


def gib(size: float) -> str:
    """Bytes as GiB with two digits."""
    return f"{size / GIB:.2f}"


def model_shape(path: str) -> tuple[int, dict[str, Any]] | None:
    """Parameters and config of a local model folder, from headers alone; None when there is none."""
    folder = Path(path)
    files = sorted(folder.glob("*.safetensors"))
    if not files or not (folder / "config.json").is_file():
        return None
    count = 0
    for file in files:
        with file.open("rb") as opened:
            (size,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(size))
        count += sum(math.prod(one["shape"]) for name, one in header.items() if name != "__metadata__")
    return count, json.loads((folder / "config.json").read_text(encoding="utf-8"))
