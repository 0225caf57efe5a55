"""A new run that goes on from another one's newest checkpoint, with another config.

What the older run finished stays true of the new one and is taken over whole: prompts, the tables of finished rounds,
evaluations and checkpoints. The round that was under way is done again, from the same weights. Hence fields may change
that say how the coming rounds train, and where; those that say what is drawn and measured (policy, prompts, sampling,
rewards, scales, evaluation, seed) may not: figures before and after the fork would not be comparable, and frozen scales
would be of other rewards. For those there is a new run whose `policy.path` is the older run's model.

Files are hard links where the file system has them: raypo never writes into a file that it has committed.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raypo.config import RunConfig, build
from raypo.errors import ConfigError, OutputError
from raypo.online.folder import RunFolder
from raypo.online.identity import RUN, changed_fields, open_folder, record_at, told
from raypo.stages import annotation, cluster, tables
from raypo.stages.mirror import fetched
from raypo.training import checkpoint
from raypo.training.against import anchor_kind, learned_masks

MAY_CHANGE = ("objective", "training", "online", "engine", "annotation", "cluster", "tracking")
REWRITTEN = ("metrics.jsonl",)  # in place, step by step: copied, never linked


def fork(config: RunConfig, name: str, *, preflight: Callable[[RunConfig], None] | None = None) -> RunConfig:
    """Make the run `name` of what the run `config.name` has finished; the config to go on with is returned.

    The same fork again, with the same config, is the run itself: it continues. With a mirror both are fetched from it,
    the older run only where there is no new one yet.

    Args:
        config: `name` is the older run's; the other fields are the new run's.
        name: of the new run, in the same `output`.
        preflight: refuses in seconds what would end the new run later, before it is made. One that is there is left to
            its own command: it may have ended, and needs nothing any more.

    Raises:
        UserError: as of the preflight.
        ConfigError: there is no older run, it is offline, a field changed that may not, or the new run exists with
            another config.
        DataError: the objective needs scalar rewards, and those of the older run are labels.
        IntegrityError: no checkpoint of the older run is whole.
        OutputError: the new folder cannot be written, or the mirror not be read.
    """
    new = build(config.model_dump(mode="json") | {"name": name})
    source, target = RunFolder(config), RunFolder(new)
    if name != config.name:
        fetched(new, target.root)
        if tables.read_json(target.path("run.json")) is not None:
            return new
        if preflight is not None:
            preflight(new)
        fetched(config, source.root)
    known = record_at(source.root)
    if known is None or name == config.name:
        raise ConfigError(
            f"--fork {name} of run {config.name!r}, which {'is itself' if known else f'is not in {_places(config)}'}",
            "name= of a run that was started, and another name for its fork",
            "give the older run's name in the config, and the new one's to --fork",
        )
    if known["kind"] != RUN.kind:
        raise ConfigError(
            f"--fork {name} of run {config.name!r}, which is {known['kind']}",
            "an online run: another kind has no rounds to go on with",
            f"start a new run with policy.path={source.model(1)}",
        )
    found = checkpoint.resumable(source.root)
    version = found.version if found else 0
    old = build(known["config"])
    refuse(old, new, version, model=source.model(version))
    refuse_mixed(new, source, version)
    refuse_ordinal(old, new, source)
    part = RunFolder(new.model_copy(update={"name": f"{name}.{uuid.uuid4().hex[:8]}.tmp"}))
    try:
        take_over(Path(source.root), Path(part.root), version)
        open_folder(part, new, RUN)
        os.rename(part.root, target.root)  # whole or not at all
    except OSError as error:
        shutil.rmtree(part.root, ignore_errors=True)
        raise OutputError(f"cannot write {target.root}: {error}", "a writable folder", "choose another name") from error
    return new


def _places(config: RunConfig) -> str:
    return config.output if config.mirror is None else f"{config.output} or {config.mirror}"


def refuse(old: RunConfig, new: RunConfig, version: int, *, model: str) -> None:
    """Refuse a change that what is taken over cannot follow.

    Args:
        old: config of the older run.
        new: config of the fork.
        version: newest weight version of the older run.
        model: its folder.

    Raises:
        ConfigError: with the fields, and what to do.
    """
    changed = changed_fields(old.model_dump(mode="json"), new.model_dump(mode="json"))
    fixed: dict[str, Any] = {
        key: values for key, values in changed.items() if key != "name" and key.partition(".")[0] not in MAY_CHANGE
    }
    if fixed:
        raise ConfigError(
            f"a fork keeps what is drawn and measured; changed: {told(fixed)}",
            f"changes in {', '.join(MAY_CHANGE)} alone",
            f"start a new run with policy.path={model}",
        )
    if not version:
        return
    before, after = cluster.objective_of(old), cluster.objective_of(new)
    reasons = {
        "its checkpoint has no state of a moving reference, of masks or of the anchor as objective.* now asks": any(
            one(before) != one(after) for one in (lambda o: o.reference, learned_masks, anchor_kind)
        ),
        "it has no averaged reference, and online.reference = ema needs one": (
            new.online.reference == "ema" and old.online.reference != "ema"
        ),
    }
    for reason, applies in reasons.items():
        if applies:
            raise _not_so(old.name, reason, model)


def refuse_mixed(new: RunConfig, source: RunFolder, version: int) -> None:
    """Refuse `online.data = accumulate` over rounds that were annotated in another way than the coming ones will be.

    What the tables say decides, not the older run's config: a fork's first rounds are of the run that it was made of.

    Raises:
        ConfigError: with the round and both ways.
    """
    if new.online.data != "accumulate":
        return
    for done in range(version):
        known = tables.manifest_of(source.stage(done, "annotated"))
        before = known.facts.get("basis") if known else None
        now = annotation.annotated_for(new, done)
        if before != now:
            raise _not_so(
                Path(source.root).name,
                f"online.data = accumulate trains on its round {done + 1}, which is annotated as {before}, "
                f"together with rounds that will be annotated as {now}",
                source.model(version),
            )


def _not_so(name: str, reason: str, model: str) -> ConfigError:
    return ConfigError(
        f"run {name!r} cannot be continued so: {reason}",
        "a change that its checkpoint and its tables can follow",
        f"start a new run with policy.path={model}",
    )


def refuse_ordinal(old: RunConfig, new: RunConfig, source: RunFolder) -> None:
    """Refuse an objective that weighs by the size of rewards where those of the older run are labels.

    The first round of a run decides that, and the new run has no first round of its own.

    Raises:
        DataError: every reward of the older run's first round is 0 or 1.
    """
    after = cluster.objective_of(new)
    if not after.needs_scalar_rewards or cluster.objective_of(old).needs_scalar_rewards:
        return
    if (first := tables.read(source.stage(0, "annotated"))) is not None:
        annotation.refuse_labels(after.name, first[0]["rewards"].to_pylist(), first[0]["usable"].to_pylist())


def take_over(source: Path, target: Path, version: int) -> None:
    """Link or copy what a run finished up to a version: what the version's own round left is not.

    Raises:
        OSError: a file cannot be written.
    """
    names = ["prompts", "evaluations", "checkpoints", *(f"rounds/round-{done:04d}" for done in range(version))]
    target.mkdir(parents=True)
    for name in names:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, copy_function=link, ignore=_beyond(version))
    for name in REWRITTEN:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _beyond(version: int) -> Any:
    """Names of later versions, of states inside rounds, and of what is no version: no part of what is taken over."""

    def ignored(folder: str, names: list[str]) -> list[str]:
        if Path(folder).name not in ("checkpoints", "evaluations"):
            return []
        numbers = {name: name.removeprefix("version-") for name in names}
        return [name for name, number in numbers.items() if not number.isdigit() or int(number) > version]

    return ignored


def link(source: str, target: str) -> None:
    """A hard link, or a copy where the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
