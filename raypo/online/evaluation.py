"""`raypo evaluate`: policies sampled on the same held-out prompts with the same seeds, in a folder of their own.

OUT/evaluate.json                      what is compared: config and policy folders; versions
OUT/prompts/                           records.PROMPTS
OUT/policies/NAME/scored|measured|moved/
OUT/judge.sqlite                       every answer of the judge
OUT/evaluation.json                    all figures; null: not known
OUT/evaluation.html                    the page

The same command again continues after the last committed table.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from rich.console import Console

from raypo.config import JudgeConfig, RunConfig, build
from raypo.errors import ConfigError, DataError, ModelError
from raypo.evaluation.comparison import START, Drawn, compare
from raypo.evaluation.verdicts import Verdicts
from raypo.models.load import check_folder, load_config
from raypo.online.comparison_figures import FIGURES, write_figures
from raypo.online.comparison_page import COMPARED, write_comparison_page
from raypo.online.comparison_prompts import commit_prompts, read_prompts
from raypo.online.comparison_tables import meanings, sheets
from raypo.online.decisions import best_version
from raypo.online.folder import RunFolder
from raypo.online.identity import kind_of, record_at, versions
from raypo.online.kept import keep_record
from raypo.online.run import check_sources, engine_setup
from raypo.scoring.judge import Judge, Pair
from raypo.stages import cluster, heldout, tables
from raypo.stages.actors import Actors, create
from raypo.stages.owner import owned
from raypo.training import checkpoint

SHAPE = ("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
"""What two policies must share: one engine holds them in turn, and their token ids are compared."""


@dataclass(frozen=True)
class Policy:
    """A policy to evaluate.

    Args:
        name: its own.
        method: how it was made.
        folder: Hugging Face folder.
        point: where on the method's path it lies; a method's points are given in the order of training, and policies of
            one method and point are seeds of each other.
    """

    name: str
    method: str
    folder: str
    point: str = ""


def policies_of(given: Sequence[str]) -> list[Policy]:
    """`METHOD=FOLDER` or `METHOD:POINT=FOLDER`, each; one that is given again is another seed of it.

    Raises:
        ConfigError: not of that form, or a name that is no folder's.
    """
    found: list[Policy] = []
    for text in given:
        parts = re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9_-]*)(?::([A-Za-z0-9_-]+))?=(.+)", text)
        if parts is None or parts[1] == START:
            raise ConfigError(
                f"--policy {text!r}",
                f"METHOD=FOLDER or METHOD:POINT=FOLDER, of letters, digits, - and _; {START!r} is the start's own",
                "write e.g. --policy dpo=runs/dpo/checkpoints/version-0003/model",
            )
        method, point, folder = parts[1], parts[2] or "", parts[3]
        count = sum((one.method, one.point) == (method, point) for one in found)
        name = f"{method}-{point}" if point else method
        found.append(Policy(name if not count else f"{name}.{count + 1}", method, folder, point))
    return found


def policies_of_run(config: RunConfig) -> list[Policy]:
    """The best and the last version of a run, of those that are kept; of an offline run its only one.

    Raises:
        DataError: no trained version is there.
    """
    folder = RunFolder(config)
    history = folder.history()
    if kind_of(folder.root) == "offline":
        versions = set(checkpoint.complete_versions(folder.root))
    else:
        versions = {history[-1].version, best_version(history, config.online.kl_bound)} - {0} if history else set()
    kept = [version for version in sorted(versions) if Path(folder.model(version)).is_dir()]
    if not kept:
        raise DataError(f"{folder.root} has no trained version", "a run that trained", "let it run on")
    return [Policy(f"{config.name}-v{one}", config.name, folder.model(one), f"v{one}") for one in kept]


def config_of_run(path: Path) -> RunConfig:
    """The config that a run's folder was made with.

    Raises:
        DataError: the folder holds no run.
    """
    known = record_at(str(path.absolute()))
    if known is None:
        raise DataError(f"{path} has no run.json", "the folder of a run", "give output/name of the run")
    place = path.absolute()
    return build(known["config"] | {"output": str(place.parent), "name": place.name})


def evaluate_policies(
    config: RunConfig, policies: Sequence[Policy], out: Path, console: Console | None = None
) -> dict[str, Any]:
    """Sample, score and measure policies beside the start (policy.path), and compare them. Returns all figures.

    Args:
        config: prompts, rewards, sampling, engines and the evaluation's settings.
        policies: at least one.
        out: folder for tables and figures.
        console: where progress goes; standard output by default.

    Raises:
        UserError: the input cannot be run, or another driver writes to the folder; nothing was started.
        RunError: sampling or scoring broke; what was committed stays, and the same command continues.
    """
    everyone = [Policy(START, START, config.policy.path), *policies]
    check(config, everyone)
    with owned(str(out)):
        return _evaluated(config, everyone, out, console or Console())


def _evaluated(config: RunConfig, everyone: Sequence[Policy], out: Path, console: Console) -> dict[str, Any]:
    """As `evaluate_policies`, in a folder that is this driver's alone."""
    began = time.monotonic()
    read = read_prompts(config, out)  # first: what is refused takes no folder
    judge = config.evaluation.judge
    asker = None if judge is None else Judge(judge, out / "judge.sqlite")
    open_folder(config, everyone, out)
    prompts = commit_prompts(config, out, read)
    console.print(f"{len(everyone)} policies on {prompts.num_rows} held-out prompts: {out}", highlight=False)
    drawn = draw_all(config, everyone, prompts, out, console)
    verdicts = {} if asker is None or judge is None else ask(drawn, asker, judge, console)
    found = compare(drawn, config, verdicts)
    told = found.to_dict() | {
        "folders": {one.name: one.folder for one in everyone},
        "prompts": prompts.num_rows,
        "wall_seconds": round(time.monotonic() - began, 1),
    }
    write_figures(out, told)
    page = write_comparison_page(out)
    for sheet in sheets(told, config.evaluation.confidence):
        console.print(sheet.drawn())
    for text in meanings(told):
        console.print(text, highlight=False, markup=False, style="dim", soft_wrap=True)
    for name, one in found.policies.items():
        for text in one.warnings:
            console.print(f"warning, {name}: {text}", highlight=False, markup=False, soft_wrap=True)
    for text in found.warnings:
        console.print(f"warning: {text}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"all figures: {out / FIGURES}\nreport {page}", highlight=False, soft_wrap=True)
    return told


def check(config: RunConfig, everyone: Sequence[Policy]) -> None:
    """Refuse, before anything starts, what cannot be compared.

    Raises:
        ModelError: a policy cannot be read, or is of another shape than the start.
        ConfigError: there is no reward that has a weight.
    """
    if not any(source.weight for source in config.rewards):
        raise ConfigError(
            "no reward source with a weight",
            "one, to compare policies by",
            "add it to rewards: in a YAML file; beside that, a run's model is given by --policy METHOD=FOLDER",
        )
    check_sources(config, policy_exists=True)
    shapes = {}
    for one in everyone:
        check_folder(one.folder)
        read = load_config(one.folder, config.policy.revision if one.name == START else None)
        shapes[one.name] = {key: getattr(read, key, None) for key in SHAPE}
    for name, shape in shapes.items():
        other = [
            f"{key} {shapes[START][key]} -> {value}" for key, value in shape.items() if value != shapes[START][key]
        ]
        if other:
            raise ModelError(
                f"policy {name!r} is of another shape than the start: {', '.join(other)}",
                "policies that came from policy.path",
                "give the model that it came from as policy.path",
            )


def open_folder(config: RunConfig, everyone: Sequence[Policy], out: Path) -> None:
    """Write what is compared; the same comparison keeps what it has.

    Raises:
        ConfigError: the folder holds another comparison, or one by other versions; what differs is named.
        IntegrityError: its record is damaged.
        OutputError: the folder cannot be written.
    """
    record = {
        "config": json.loads(config.model_dump_json()),
        "policies": {one.name: {"folder": one.folder, "files": weights_of(one.folder)} for one in everyone},
        "versions": versions(),
    }
    keep_record(out, COMPARED, record, what="another comparison")


def weights_of(folder: str) -> dict[str, str]:
    """Size and time of each weights file: a policy that was written again is another policy."""
    files = sorted(Path(folder).glob("*.safetensors"))
    return {file.name.replace(".", "_"): f"{file.stat().st_size} {file.stat().st_mtime_ns}" for file in files}


def places(one: Policy, out: Path) -> list[str]:
    """Folders of a policy's tables: scored, measured, and moved but for the start."""
    parts = ("scored", "measured") if one.name == START else ("scored", "measured", "moved")
    return [str(out / "policies" / one.name / part) for part in parts]


def missing(everyone: Sequence[Policy], out: Path) -> list[Policy]:
    """Policies to draw: those without all their tables, a torn one counted as none; with the start, all of them.

    The other tables of such a policy are set aside: all are of the same responses, and `moved` is of the start's.
    """
    kept = {one.name: [(place, tables.whole(place)) for place in places(one, out)] for one in everyone}
    torn = {name for name, found in kept.items() if any(table is None for _, table in found)}
    left = [one for one in everyone if one.name in torn or START in torn]
    for one in left:
        for place, table in kept[one.name]:
            if table is not None:
                tables.set_aside(place)
    return left


def draw_all(
    config: RunConfig, everyone: Sequence[Policy], prompts: pa.Table, out: Path, console: Console
) -> dict[str, Drawn]:
    """What is measured of each policy, from committed tables that are whole; Ray starts only for the rest."""
    if left := missing(everyone, out):
        ours = cluster.start(config, search_path=cluster.search_path())
        try:
            cluster.check_resources(config, trains=False)
            actors = create(config, *engine_setup(config))
            try:
                for one in left:
                    draw(one, everyone.index(one), prompts, actors, config, out, console)
            finally:
                actors.shutdown()
        finally:
            if ours:
                ray.shutdown()
    found = {}
    for one in everyone:
        read = [tables.read(place) for place in places(one, out)]
        found[one.name] = Drawn(one.method, one.point, *(table[0] for table in read if table is not None))
    return found


def draw(
    one: Policy, version: int, prompts: pa.Table, actors: Actors, config: RunConfig, out: Path, console: Console
) -> None:
    """Sample, score and measure one policy, and commit its tables."""
    began, place = time.monotonic(), out / "policies" / one.name
    actors.engines.bring_up(one.folder, version)
    initial = config.policy.path
    scored, measured, _ = heldout.draw(
        prompts, actors, config, version=version, policy=one.folder, initial=initial, progress=silent
    )
    tables.commit(str(place / "scored"), scored, "scored")
    tables.commit(str(place / "measured"), measured, "measured")
    if one.name != START:
        start = tables.read(str(out / "policies" / START / "scored"))
        assert start is not None  # it is the first to be drawn
        moved = heldout.measure(
            start[0], actors, config, policy=one.folder, initial=initial, progress=lambda chunk: None
        )
        tables.commit(str(place / "moved"), moved, "measured")
    console.print(f"{one.name}: sampled and measured, {time.monotonic() - began:.1f} s", highlight=False)


def silent(stage: str) -> Callable[[pa.Table], None]:
    """No progress within a policy: each is told when it is done."""
    return lambda chunk: None


def ask(drawn: dict[str, Drawn], asker: Judge, config: JudgeConfig, console: Console) -> dict[str, Verdicts]:
    """Verdicts of the judge on each policy against the start, on responses of the same prompt and seed."""
    start = drawn[START].rows.to_pylist()
    found = {}
    for name, one in drawn.items():
        if name == START:
            continue
        rows = list(zip(one.rows.to_pylist(), start, strict=True))
        pairs = [
            [
                Pair(ours["prompt"], mine, theirs)
                for mine, theirs in zip(ours["responses"], other["responses"], strict=True)
            ][: config.responses]
            for ours, other in rows
        ]
        verdicts = iter(asker([pair for row in pairs for pair in row]))
        told = [[next(verdicts) for _ in row] for row in pairs]
        found[name] = Verdicts(
            [[verdict.ours_first for verdict in row] for row in told],
            [[verdict.ours_second for verdict in row] for row in told],
            [[float(len(pair.ours) - len(pair.theirs)) for pair in row] for row in pairs],
        )
        console.print(f"{name}: judged by {config.model}", highlight=False)
    return found
