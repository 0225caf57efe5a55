"""`raypo export`: a version of a run as a model folder for others, with a card that says what it is.

What was evaluated is what is exported: the tensors are those of the version's durable folder, which the engines held
when it was evaluated. A cast to another type is made only when it is asked for, and the card says so. Either all is
written or nothing: a folder that holds a model holds its card too.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from raypo.config import RunConfig
from raypo.errors import ConfigError, DataError, OutputError
from raypo.models.export import read_weights, save_tensors
from raypo.models.load import DTYPES, load_config, load_tokenizer
from raypo.online.card import card_of, licence_of
from raypo.online.decisions import best_version
from raypo.online.evaluation import config_of_run
from raypo.online.folder import RunFolder
from raypo.online.identity import Kind, kind_of
from raypo.training import checkpoint


def export(
    run: Path, out: Path, *, version: int | None = None, dtype: str = "bfloat16", licence: str | None = None
) -> str:
    """Write a trained version as safetensors, tokenizer, chat template, generation config and model card.

    Args:
        run: folder of the run.
        out: folder to write; must not exist or be empty.
        version: weight version; None: the best within the KL bound, and of an offline run its only one.
        dtype: "bfloat16" or "float32". Wider than what the run wrote is refused.
        licence: of the model, an identifier such as apache-2.0; None: that of the start, where its folder says it.

    Returns:
        one line that says what was written.

    Raises:
        DataError: no run, or the version is not there.
        ConfigError: a type that cannot be had.
        OutputError: the folder is in use or cannot be written.
    """
    config = config_of_run(run)
    folder = RunFolder(config)
    kind = kind_of(folder.root)
    chosen = chosen_version(config, folder, kind) if version is None else version
    source = trained_folder(folder, chosen)
    if dtype not in DTYPES or (dtype, config.policy.export_dtype) == ("float32", "bfloat16"):
        raise ConfigError(
            f"--dtype {dtype}; the run wrote and evaluated {config.policy.export_dtype}",
            "bfloat16, or float32 where the run wrote that",
            "leave --dtype out",
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        taken = "not empty" if out.is_dir() else "a file"
        raise OutputError(f"{out} is {taken}", "a new folder", "choose another --out")
    start_licence = licence_of(config.policy.path)
    card = card_of(config, folder, kind, chosen, dtype, licence or start_licence, start_licence)
    try:
        write_whole(config, source, out, DTYPES[dtype], card)
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error}", "a writable folder", "choose another --out") from error
    return f"version {chosen} of {config.name} in {dtype}: {out}"


def chosen_version(config: RunConfig, folder: RunFolder, kind: Kind) -> int:
    """The best version within the KL bound; the only one of an offline run, and the newest where none is evaluated."""
    if kind == "offline":
        return 1
    history = folder.history()
    if any(one.version for one in history):
        return best_version(history, config.online.kl_bound)
    return max(checkpoint.complete_versions(folder.root), default=0)


def trained_folder(folder: RunFolder, version: int) -> Path:
    """The durable folder of a trained version.

    Raises:
        DataError: there is none.
    """
    place = Path(folder.model(version)) if version else None
    if place is None or not (place / "config.json").exists():
        kept = sorted(path.parent.name for path in Path(folder.path("checkpoints")).glob("*/model"))
        raise DataError(
            f"version {version} of {folder.root} is not there to export"
            + ("; version 0 is the model that the run began with" if version == 0 else ""),
            f"one of: {', '.join(kept) or 'none is kept'}",
            "give --version" if kept else "let the run make a version",
        )
    return place


def write_whole(config: RunConfig, source: Path, out: Path, dtype: torch.dtype, card: str) -> None:
    """Write model and card inside `out`, and move them into place when all are there, config.json last of all.

    Raises:
        OSError: a file cannot be written; nothing that looks like a model is left.
    """
    part, made = out / ".part", not out.exists()
    try:
        write_model(config, source, part, dtype)
        (part / "README.md").write_text(card, encoding="utf-8")
        for path in sorted(part.iterdir(), key=lambda one: one.name == "config.json"):
            os.replace(path, out / path.name)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if made:
            with suppress(OSError):  # it is not empty: all went well
                out.rmdir()


def write_model(config: RunConfig, source: Path, out: Path, dtype: torch.dtype) -> None:
    """Weights, config, tokenizer with its chat template, and the generation config that was evaluated with."""
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: value.to(dtype) if value.is_floating_point() else value for name, value in read_weights(source)}
    save_tensors(out, weights)
    model = load_config(str(source))
    model.dtype = dtype
    model.save_pretrained(out)
    tokenizer = load_tokenizer(str(source), chat_template=config.policy.chat_template)
    tokenizer.save_pretrained(out)
    generation_of(config, source, model).save_pretrained(out)


def generation_of(config: RunConfig, source: Path, model: Any) -> GenerationConfig:
    """Sampling as it was evaluated: temperature, top-p, length, and every token that ended a response."""
    known = source / "generation_config.json"
    found = GenerationConfig.from_pretrained(source) if known.exists() else GenerationConfig.from_model_config(model)
    ends = found.eos_token_id if isinstance(found.eos_token_id, list) else [found.eos_token_id]
    ends = list(dict.fromkeys([*(one for one in ends if one is not None), *config.sampling.stop_token_ids]))
    found.eos_token_id = ends[0] if len(ends) == 1 else ends or None
    found.do_sample, found.top_k = True, 0
    found.temperature, found.top_p = config.sampling.temperature, config.sampling.top_p
    found.max_new_tokens = config.sampling.max_response_tokens
    return found
