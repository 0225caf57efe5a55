"""Folders and hub names to models and tokenizers: safetensors only, no code from a model folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from raypo.errors import ModelError

if TYPE_CHECKING:  # a model is loaded where there is no pydantic too
    from raypo.config import AnnotationConfig, PolicyConfig

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

LOAD_FAULTS = (OSError, ValueError, KeyError, SafetensorError, RuntimeError)
"""What transformers raises for folders that are not there, not models, of unknown type, or torn."""


def check_folder(path: str, key: str = "policy.path") -> None:
    """Refuse a local folder that cannot be a safetensors model, without reading its weights. Hub names pass.

    Args:
        path: of the folder, or a hub name.
        key: where a user gave it.

    Raises:
        ModelError: no config.json, no safetensors, or a file whose header is torn.
    """
    folder = Path(path)
    if not os.path.exists(folder) and not _looks_local(path):  # Path.exists raises for a name that is too long
        return
    if not os.path.isfile(folder / "config.json"):
        raise ModelError(
            f"{path}: " + ("no config.json" if os.path.isdir(folder) else "no such folder"),
            "a Hugging Face model folder",
            f"check the path ({key})",
        )
    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}/config.json cannot be read: {error}", "JSON", "copy the model again") from error
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(
            f"{path} has no *.safetensors", "weights as safetensors: pickles are not read", "convert the model"
        )
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                opened.keys()
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{file} cannot be read: {error}", "a whole safetensors file", "copy the model again"
            ) from error


def check_importance(config: AnnotationConfig) -> None:
    """Refuse local folders of the importance models, where there are any, that cannot be safetensors models.

    Raises:
        ModelError: see `check_folder`; it names the field.
    """
    if (models := config.importance) is not None:
        check_folder(models.positive, "annotation.importance.positive")
        check_folder(models.negative, "annotation.importance.negative")


def _looks_local(path: str) -> bool:
    """A hub name is `name` or `owner/name`."""
    return path.startswith((".", "/", "~")) or path.count("/") > 1


def load_tokenizer(path: str, revision: str | None = None, chat_template: str | None = None) -> PreTrainedTokenizerBase:
    """A tokenizer, with a pad token.

    Args:
        path: folder or hub name.
        revision: hub revision.
        chat_template: path of a Jinja file that replaces the tokenizer's template.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)
        if chat_template is not None:
            tokenizer.chat_template = Path(chat_template).read_text(encoding="utf-8")
    except LOAD_FAULTS as error:
        raise ModelError(f"the tokenizer of {path} cannot be read: {_first(error)}", "a tokenizer folder") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_causal_lm(path: str, *, revision: str | None = None, dtype: torch.dtype) -> PreTrainedModel:
    """A causal language model on the CPU, in evaluation mode.

    Args:
        path: folder or hub name.
        revision: hub revision.
        dtype: of the weights.

    Raises:
        ModelError: it cannot be read, is not a causal language model, or lacks weights that one needs.
    """
    check_folder(path)
    try:
        with _quiet():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                path,
                revision=revision,
                dtype=dtype,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
    except LOAD_FAULTS as error:
        raise ModelError(f"{path} cannot be loaded: {_first(error)}", "a Hugging Face causal language model") from error
    model: PreTrainedModel = loaded[0]
    report = loaded[1]
    # transformers would fill them with random numbers and go on
    if missing := sorted(report["missing_keys"]):
        named = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise ModelError(
            f"{path} has no weights for {named}; its config names {model.config.architectures}",
            f"the weights of a {type(model).__name__}",
            "give a causal language model, whole",
        )
    model.config.use_cache = False
    model.eval()
    return model


def empty_causal_lm(path: str, *, revision: str | None = None) -> PreTrainedModel:
    """The same model with unset fp32 weights, for ranks that receive them: memory is reserved but not touched.

    Raises:
        ModelError: its config cannot be read.
    """
    from accelerate import init_empty_weights  # comes with peft

    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(
            load_config(path, revision), dtype=torch.float32, trust_remote_code=False
        )
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.to_empty(device="cpu")
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    model.tie_weights()
    model.config.use_cache = False
    model.eval()
    return model


def load_config(path: str, revision: str | None = None) -> PretrainedConfig:
    """A model's config.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
    except LOAD_FAULTS as error:
        missing = "" if os.path.exists(path) else f"; there is no folder {path} here, so it was taken for a hub name"
        raise ModelError(
            f"the config of {path} cannot be read: {_first(error)}{missing}",
            "a Hugging Face model",
            "check the path, relative to where the command stands; or the hub name and the network",
        ) from error
    return config


def add_lora(model: PreTrainedModel, policy: PolicyConfig) -> Any:
    """The model with trainable low-rank adapters; everything else is frozen. arXiv 2106.09685.

    Raises:
        ModelError: no layer has one of the target names, or one is the embedding or the head.
    """
    from peft import LoraConfig, get_peft_model

    targets = policy.lora_target_modules
    config = LoraConfig(
        r=policy.lora_rank,
        lora_alpha=policy.lora_alpha,  # type: ignore[arg-type]  # only ever divided by the rank
        target_modules=targets if isinstance(targets, str) else list(targets),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    outer = (model.get_input_embeddings(), model.get_output_embeddings())
    ends = {name for name, module in model.named_modules() if any(module is one for one in outer)}
    try:
        adapted: Any = get_peft_model(model, config)
    except ValueError as error:
        raise ModelError(
            f"no adapter could be added: {_first(error)}", "names of linear layers in policy.lora_target_modules"
        ) from error
    if at_ends := sorted(ends & set(adapted.base_model.targeted_module_names)):
        raise ModelError(
            f"policy.lora_target_modules would adapt {at_ends[0]}",
            "linear layers inside the decoder: embeddings and head may be one tied matrix",
            "remove it from policy.lora_target_modules",
        )
    return adapted


def _first(error: BaseException) -> str:
    """The first line of a library's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Transformers without progress bars and load reports: what matters of them becomes an error here."""
    bars, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
