"""The model card of an exported version: what it came from, how it was trained, and what was measured of it.

A card says only what the run's folder says. What was not measured is called so, and has no figures.
"""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from raypo.config import RewardSource, RunConfig
from raypo.online.folder import RunFolder
from raypo.online.identity import Kind
from raypo.stages import tables

NOT_SAID = "not stated by its folder"


def card_of(
    config: RunConfig, folder: RunFolder, kind: Kind, version: int, dtype: str, licence: str, start_licence: str
) -> str:
    """The model card, as Markdown with front matter that model hubs read.

    Args:
        config: of the run.
        folder: of the run.
        kind: of the run.
        version: that is exported.
        dtype: that it is exported in.
        licence: of the model.
        start_licence: of the model that the run began with.
    """
    matter = {
        "license": licence if " " not in licence else "other",
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
    return environment.get_template("card.md.j2").render(
        front_matter=yaml.safe_dump(matter, sort_keys=False),
        name=config.name,
        start=public_name(config.policy.path),
        num_responses=config.sampling.num_responses,
        raypo_version=importlib.metadata.version("raypo"),
        preset=config.objective.preset,
        hyperparameters=", ".join(f"{key} {value}" for key, value in config.objective.hyperparameters.items()),
        offline=kind == "offline",
        seed=config.seed,
        version=version,
        dtype=dtype,
        cast=dtype != config.policy.export_dtype,
        run_dtype=config.policy.export_dtype,
        confidence=f"{config.evaluation.confidence:.0%}",
        measured=offline_figures(folder) if kind == "offline" else online_figures(folder, version),
        data=data_of(config, folder, kind),
        temperature=config.sampling.temperature,
        top_p=config.sampling.top_p,
        max_tokens=config.sampling.max_response_tokens,
        rewards=[
            (one.name, one.type, public_name(getattr(one, "path", getattr(one, "url", ""))), one.weight or "0, watched")
            for one in config.rewards
        ],
        aim=aim_of(config.rewards),
        licence=licence,
        start_licence=start_licence,
    )


def online_figures(folder: RunFolder, version: int) -> dict[str, Any] | None:
    """Headline, number of prompts, table and warnings of an evaluated version; None for one that is not evaluated."""
    evaluations = {one["version"]: one["evaluation"] for one in folder.evaluations()}
    if version not in evaluations:
        return None
    first, last = evaluations[0], evaluations[version]
    trained = len(evaluations) - 1
    chosen = [
        f"It is one of {trained} versions that were evaluated on these prompts: if it was chosen for its reward "
        "there, its figures flatter it, and other prompts would show less."
    ]
    return {
        "headline": f"Held-out reward {shown(first['reward'])} -> {shown(last['reward'])}; gain per prompt "
        f"{shown(last['reward_gain'])}, p = {last['reward_gain_p']:.2g}.",
        "prompts": last["reward"]["n"],
        "results": results_of(first, last),
        "warnings": [*last["warnings"], *(chosen if version and trained > 1 else [])],
    }


def offline_figures(folder: RunFolder) -> dict[str, Any] | None:
    """As `online_figures`, of an offline run: how well it ranks; None where the run has not measured that."""
    accuracy = (folder.summary()[0] or {}).get("heldout_accuracy")
    names = ("mean", "low", "high", "n")
    if not isinstance(accuracy, dict) or not all(isinstance(accuracy.get(name), int | float) for name in names):
        return None
    if math.isnan(accuracy["mean"]):
        return None
    told = shown(accuracy)
    return {
        "headline": f"Held-out pairs of responses ranked as the rewards rank them: {told}; 0.5 is a coin.",
        "prompts": accuracy["n"],
        "results": [("pairs ranked as the rewards rank them", "0.5", told)],
        "warnings": [],
    }


def data_of(config: RunConfig, folder: RunFolder, kind: Kind) -> str:
    """What the version was trained on and what was held out, with the source of each."""
    given = config.prompts
    source = f"`{public_name(given.path)}`"
    apart = None if given.heldout_path is None else f"`{public_name(given.heldout_path)}`"
    if apart == source:  # files of one name in two folders
        apart = f"another {source}"
    if kind == "online":
        prompts = tables.manifest_of(folder.path("prompts"))
        facts = prompts.facts if prompts else {"train": "unknown", "heldout": "unknown"}
        if apart is None:
            return f"{facts['train']} training and {facts['heldout']} held-out prompts from {source}."
        return f"{facts['train']} training prompts from {source} and {facts['heldout']} held-out prompts from {apart}."
    held = "" if apart is None else f" Held-out sets are from {apart}."
    annotated = tables.manifest_of(folder.path("train", "annotated"))
    if annotated is None:
        return f"Sets of responses from {source}.{held}"
    facts = annotated.facts
    return f"{facts['trainable']} of {facts['sets']} training sets of responses from {source} could train.{held}"


def aim_of(rewards: Sequence[RewardSource]) -> str:
    """What the model was trained to score high on, what low, and what was watched alone, by name."""
    high, low, watched = (
        [f"`{one.name}`" for one in rewards if (one.weight > 0) - (one.weight < 0) == sign] for sign in (1, -1, 0)
    )
    sides = [f"{side} on {', '.join(names)}" for side, names in (("high", high), ("low", low)) if names]
    told = f"The model was trained to score {' and '.join(sides)}, and on nothing else: no more was aimed at."
    if watched:
        told += f" Watched and not trained on: {', '.join(watched)}."
    return told


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
    """`0.412 [0.380, 0.441]`; without bounds where there are none, as of one prompt."""
    bounds = "" if math.isnan(interval["low"]) else f" [{interval['low']:.3f}, {interval['high']:.3f}]"
    return f"{interval['mean']:.3f}{bounds}"


def public_name(path: str) -> str:
    """A hub name or dotted path as it is; an address without user, port and query; of a path the last part only."""
    if "://" in path:
        parts = urlsplit(path)
        return f"{parts.scheme}://{parts.hostname}{parts.path}"
    if ":" in path and "/" not in path:
        return path
    return Path(path).name if Path(path).exists() or path.startswith((".", "/", "~")) else path
