"""Full tensors under Hugging Face names: one function for checkpoint folders and for live engines.

What is synced is what is exported: same names, same type, adapters merged on the fly, the tied head dropped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

from raypo.models.scorer import TokenScorer

SHARD_BYTES = 4 * 2**30


def full(tensor: Tensor) -> Tensor:
    """A whole tensor on every rank; collective for sharded ones."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def tied_names(causal: Any) -> set[str]:
    """Names of parameters that are another parameter under a second name."""
    if not getattr(causal.config, "tie_word_embeddings", False):
        return set()
    head = causal.get_output_embeddings()
    return {name for name, module in causal.named_modules() if module is head for name in (f"{name}.weight",)}


@torch.no_grad()
def export_weights(scorer: TokenScorer, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Each weight of the causal model, whole, one at a time: collective, so every rank must exhaust it.

    Args:
        scorer: sharded or not, with or without adapters.
        dtype: of what is yielded; merging happens in fp32 before the cast.

    Yields:
        Hugging Face name and a contiguous tensor on the model's device.
    """
    causal = scorer.causal
    dropped, modules = tied_names(causal), dict(causal.named_modules())
    for name, tensor in causal.state_dict(keep_vars=True).items():
        if name in dropped or ".lora_" in name:
            continue
        value = full(tensor.detach())
        if name.endswith(".base_layer.weight"):
            value = value.float() + lora_delta(modules[name.removesuffix(".base_layer.weight")])
        exported = name.replace(".base_layer.", ".")
        yield exported, (value.to(dtype) if value.is_floating_point() else value).contiguous()


def lora_delta(layer: Any) -> Tensor:
    """lora_alpha / rank * B A of an adapted layer, [out, in] (transposed where the layer stores it so), fp32."""
    down = full(layer.lora_A["default"].weight.detach()).float()
    up = full(layer.lora_B["default"].weight.detach()).float()
    delta: Tensor = layer.scaling["default"] * (up @ down)
    return delta.T if getattr(layer, "fan_in_fan_out", False) else delta


@torch.no_grad()
def adapter_weights(scorer: TokenScorer) -> dict[str, Tensor]:
    """Whole adapter tensors on the CPU under peft's names; collective. Empty without an adapter."""
    prefix = "base_model.model."
    return {
        prefix + name.replace(".default.", "."): full(tensor.detach()).cpu().contiguous()
        for name, tensor in scorer.causal.state_dict(keep_vars=True).items()
        if ".lora_" in name
    }


def save_model(
    folder: str | Path,
    weights: Mapping[str, Tensor],
    scorer: TokenScorer,
    tokenizer: PreTrainedTokenizerBase,
    generation: GenerationConfig | None,
) -> None:
    """A Hugging Face folder that `AutoModelForCausalLM.from_pretrained` and vLLM load as it is.

    Args:
        folder: made if it is not there.
        weights: from `export_weights`, on the CPU.
        scorer: gives the config.
        tokenizer: saved beside the weights, with its chat template.
        generation: the source's generation config; None: the model's own.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    causal = scorer.causal
    config = causal.config.__class__.from_dict(causal.config.to_dict())
    config.architectures = [type(causal).__name__]
    config.dtype = next(iter(weights.values())).dtype
    config.use_cache = True
    config.save_pretrained(place)
    tokenizer.save_pretrained(place)
    (generation or causal.generation_config).save_pretrained(place)
    save_tensors(place, weights)


def save_adapter(folder: str | Path, scorer: TokenScorer, weights: Mapping[str, Tensor]) -> None:
    """A peft folder that `PeftModel.from_pretrained` loads onto the source policy."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    scorer.model.peft_config["default"].save_pretrained(place)
    save_file(dict(weights), place / "adapter_model.safetensors", metadata={"format": "pt"})


def save_tensors(place: Path, weights: Mapping[str, Tensor]) -> None:
    """One safetensors file, or several with an index above SHARD_BYTES each."""
    groups: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in weights.items():
        if groups[-1] and size + tensor.nbytes > SHARD_BYTES:
            groups.append({})
            size = 0
        groups[-1][name] = tensor
        size += tensor.nbytes
    if len(groups) == 1:
        save_file(groups[0], place / "model.safetensors", metadata={"format": "pt"})
        return
    index: dict[str, str] = {}
    for number, group in enumerate(groups, start=1):
        file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        save_file(group, place / file, metadata={"format": "pt"})
        index |= dict.fromkeys(group, file)
    total = sum(tensor.nbytes for tensor in weights.values())
    tree = {"metadata": {"total_size": total}, "weight_map": index}
    (place / "model.safetensors.index.json").write_text(json.dumps(tree, indent=1), encoding="utf-8")


def read_weights(folder: str | Path) -> Iterator[tuple[str, Tensor]]:
    """Each tensor of a folder's safetensors files, one at a time."""
    for file in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a mapping
                yield name, opened.get_tensor(name)


def moving_average(
    older: Iterable[tuple[str, Tensor]], weights: Mapping[str, Tensor], decay: float
) -> dict[str, Tensor]:
    """decay x older + (1 - decay) x weights, of every floating tensor, in float32 whatever their types.

    In bfloat16 a step of less than half a unit in the last place is none, and with the learning rates of preference
    optimization every step is: the average would stay where it began.

    Args:
        older: the average so far, by name; a name that it lacks is taken as it is.
        weights: the newest.
        decay: share of the older, in (0, 1).
    """
    mixed = {name: one.float() if one.is_floating_point() else one for name, one in weights.items()}
    for name, old in older:
        if name in mixed and mixed[name].is_floating_point():
            mixed[name] = decay * old.float() + (1 - decay) * mixed[name]
    return mixed


def changed_fraction(folder: str | Path, weights: Mapping[str, Tensor]) -> float:
    """Share of the weights that differ from those of an older folder, compared in the exported type, in [0, 1].

    Tensors that the folder does not hold are not counted; 0 when it holds none of them.
    """
    changed = total = 0
    for name, old in read_weights(folder):
        if name in weights:
            new = weights[name]
            changed += int((old.to(new.dtype) != new).sum())
            total += new.numel()
    return changed / total if total else 0.0
