"""`raypo export`: a version of a run as a model folder for others, with a card that says what it is.

What was evaluated is what is exported: the tensors are those of the version's durable folder, which the engines held
when it was evaluated. A cast to another type is made only when it is asked for, and the card says so.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from transformers import GenerationConfig

from raypo.config import RunConfig
from raypo.errors import ConfigError, DataError, OutputError
from raypo.models.export import read_weights, save_tensors
from raypo.models.load import DTYPES, load_config, load_tokenizer
from raypo.online.decisions import best_version
from raypo.online.evaluation import config_of_run
from raypo.online.folder import RunFolder
from raypo.stages import tables

NOT_SAID = "not stated by its folder"


def export(
    run: Path, out: Path, *, version: int | None = None, dtype: str = "bfloat16", licence: str | None = None
) -> str:
    """Write a trained version as safetensors, tokenizer, chat template, generation config and model card.

    Args:
        run: folder of the run.
        out: folder to write; must not exist or be empty.
        version: weight version; None: the best within the KL bound.
        dtype: "bfloat16" or "float32". Wider than what was evaluated is refused.
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
    chosen = best_version(folder.history(), config.online.kl_bound) if version is None and folder.history() else version
    source = trained_folder(folder, chosen)
    if dtype not in DTYPES or (dtype, config.policy.export_dtype) == ("float32", "bfloat16"):
        raise ConfigError(
            f"--dtype {dtype}; the run evaluated {config.policy.export_dtype}",
            "bfloat16, or float32 where that was evaluated",
            "leave --dtype out",
        )
    if out.exists() and any(out.iterdir()):
        raise OutputError(f"{out} is not empty", "a new folder", "choose another --out")
    start_licence = licence_of(config.policy.path)
    try:
        write_model(config, source, out, DTYPES[dtype])
        card = card_of(config, folder, int(chosen or 0), dtype, licence or start_licence, start_licence)
        (out / "README.md").write_text(card, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error}", "a writable folder", "choose another --out") from error
    return f"version {chosen} of {config.name} in {dtype}: {out}"


def trained_folder(folder: RunFolder, version: int | None) -> Path:
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
            "give --version",
        )
    return place


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


def licence_of(path: str) -> str:
    """The licence that a model folder states: in its card's front matter, or as a LICENSE file."""
    folder = Path(path)
    card = folder / "README.md"
    if card.is_file():
        parts = card.read_text(encoding="utf-8", errors="replace").split("---")
        try:
            matter = yaml.safe_load(parts[1]) if len(parts) > 2 and not parts[0].strip() else None
        except yaml.YAMLError:
            matter = None
        if isinstance(matter, dict) and isinstance(matter.get("license"), str):
            return str(matter["license"])
    for name in ("LICENSE", "LICENSE.txt", "LICENSE.md"):
        if (folder / name).is_file():
            return f"see {name} of that folder"
    return NOT_SAID


def card_of(config: RunConfig, folder: RunFolder, version: int, dtype: str, licence: str, start_licence: str) -> str:
    """The model card, as Markdown with front matter that model hubs read."""
    evaluations = {one["version"]: one["evaluation"] for one in folder.evaluations()}
    first, last = evaluations[0], evaluations[version]
    prompts = tables.manifest_of(folder.path("prompts"))
    facts = prompts.facts if prompts else {"train": "unknown", "heldout": "unknown"}
    known_licence = licence if " " not in licence else "other"
    matter = {
        "license": known_licence,
        "base_model": public_name(config.policy.path),
        "pipeline_tag": "text-generation",
        "library_name": "transformers",
        "tags": ["raypo", "preference-optimization", config.objective.preset],
    }
    environment = Environment(
        loader=PackageLoader("raypo.online", "."),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    gain = last["reward_gain"]
    return environment.get_template("card.md.j2").render(
        front_matter=yaml.safe_dump(matter, sort_keys=False),
        name=config.name,
        headline=f"Held-out reward {shown(first['reward'])} -> {shown(last['reward'])}; gain per prompt {shown(gain)}, "
        f"p = {last['reward_gain_p']:.2g}.",
        start=public_name(config.policy.path),
        num_responses=config.sampling.num_responses,
        raypo_version=importlib.metadata.version("raypo"),
        preset=config.objective.preset,
        hyperparameters=", ".join(f"{key} {value}" for key, value in config.objective.hyperparameters.items()),
        rounds=version,
        seed=config.seed,
        version=version,
        dtype=dtype,
        cast=dtype != config.policy.export_dtype,
        evaluated_dtype=config.policy.export_dtype,
        prompts=last["reward"]["n"],
        confidence=f"{config.evaluation.confidence:.0%}",
        results=results_of(first, last),
        warnings=last["warnings"],
        train=facts["train"],
        heldout=facts["heldout"],
        data=public_name(config.prompts.path),
        temperature=config.sampling.temperature,
        top_p=config.sampling.top_p,
        max_tokens=config.sampling.max_response_tokens,
        rewards=[
            (one.name, one.type, public_name(getattr(one, "path", getattr(one, "url", ""))), one.weight or "0, watched")
            for one in config.rewards
        ],
        licence=licence,
        start_licence=start_licence,
    )


def results_of(first: dict[str, Any], last: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Rows of the table of results: what, at the start, now."""
    rows = [("reward", shown(first["reward"]), shown(last["reward"]))]
    rows += [
        (f"reward `{name}`, by itself", shown(first["reward_by_source"][name]), shown(value))
        for name, value in last["reward_by_source"].items()
    ]
    rows += [
        ("win rate against the start, by the reward", "0.5", shown(last["reward_win_rate"])),
        ("KL to the start, nats per response", "0", shown(last["kl_per_response"])),
        ("tokens per response", shown(first["length"]), shown(last["length"])),
        ("distinct-2", f"{first['distinct_2']:.3f}", f"{last['distinct_2']:.3f}"),
    ]
    if "reward_win_rate_controlled" in last:  # a run of before it was measured has none
        rows.insert(-3, ("the same at equal length", "0.5", shown(last["reward_win_rate_controlled"])))
    return rows


def shown(interval: dict[str, float]) -> str:
    """`0.412 [0.380, 0.441]`."""
    return f"{interval['mean']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def public_name(path: str) -> str:
    """A hub name or dotted path as it is; an address without user, port and query; of a path the last part only."""
    if "://" in path:
        parts = urlsplit(path)
        return f"{parts.scheme}://{parts.hostname}{parts.path}"
    if ":" in path and "/" not in path:
        return path
    return Path(path).name if Path(path).exists() or path.startswith((".", "/", "~")) else path
