"""The driver of a study: checks, shared actors, the search, and what is written at its end.

STUDY/
    study.json                    the study and the versions that it ran with
    tables/  start/               what trials share
    trials/                       see `trial`
    tune/                         Ray Tune's own record
    trials.csv  trials.parquet    a row per trial
    best.yaml                     the winner, as a config of a run
    summary.json  study.html

The same command continues after the last rung that a trial finished. Once all is done it only says so, unless trials
crashed: a lost node or a process that was killed says nothing about a point, so those are tried again, each after its
last rung, and what was written at the end is written anew. A trial that failed by its input is not: it would again.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
from rich.console import Console

from raypo.config import RunConfig
from raypo.data.chat import load_sets
from raypo.data.known import check_known
from raypo.errors import ConfigError, DataError, OutputError, RunError
from raypo.models.load import load_tokenizer
from raypo.online.folder import RunFolder
from raypo.online.identity import changed_fields, versions
from raypo.online.progress import console_of_choice
from raypo.online.run import check_sources, coordinator_options, engine_setup
from raypo.stages import cluster, tables
from raypo.stages.actors import create
from raypo.stages.owner import owned
from raypo.tuning import search, space
from raypo.tuning.results import (
    Row,
    best_config,
    importances,
    rows_of,
    winner,
    write_best,
    write_tables,
)
from raypo.tuning.shared import NAME, Shared, ask
from raypo.tuning.space import trial_config
from raypo.tuning.study import StudyConfig, anchored, base_of, evaluation_of
from raypo.tuning.telling import show, warnings_of, write_page
from raypo.tuning.trial import read_records, rungs_of


def tune_study(study: StudyConfig, console: Console | None = None) -> dict[str, Any]:
    """Run a study, or what is left of it; returns the summary.

    Args:
        study: of `study.load`.
        console: where progress goes.

    Raises:
        UserError: the study cannot be run, or another process runs it; nothing was started.
        RunError: every trial failed.
    """
    study = anchored(study)
    root = os.path.join(study.output, study.name)
    with owned(root):
        return _tune_study(study, root, console or console_of_choice())


def _tune_study(study: StudyConfig, root: str, console: Console) -> dict[str, Any]:
    """As `tune_study`, as the study's only driver."""
    base = base_of(study)
    space.check(study)
    check_sources(evaluation_of(study, base), policy_exists=True)
    began = time.monotonic()
    if same_study(root, study) and (done := tables.read_json(f"{root}/summary.json")) is not None:
        if not (crashed := [row["trial"] for row in done["trials"] if row.get("crashed")]):
            console.print(f"study {study.name} is finished: {root}/summary.json", highlight=False, soft_wrap=True)
            return dict(done)
        told = f"study {study.name} is finished but for {len(crashed)} trials that crashed: they are tried again"
        console.print(told, highlight=False, soft_wrap=True)
    given = sets_of(study, base)
    open_folder(root, study)
    count = space.size(study.space) if study.algorithm == "grid" else study.trials
    console.print(
        f"study {study.name}: {count} trials over {', '.join(study.space)}, {study.algorithm}: {root}",
        highlight=False,
        soft_wrap=True,
    )
    owned = cluster.start(needed(study, base), search_path=cluster.search_path())
    try:
        outcome = run_trials(study, base, root, given)
    finally:
        if owned:
            ray.shutdown()
    summary = outcome | {"wall_seconds": round(time.monotonic() - began, 1)}
    tables.write_json(f"{root}/summary.json", summary)
    page = write_page(root)
    show(study, root, summary, console)
    console.print(f"report {page}", highlight=False, soft_wrap=True)
    return summary


def needed(study: StudyConfig, base: RunConfig) -> RunConfig:
    """The base as Ray is started for it.

    Ray's own cleaner of placement groups asks the dashboard: without it, what a killed Train controller held would
    never be free again. Trials of one process start no controller.
    """
    dashboard = study.form == "online" or base.training.workers > 1
    return base.model_copy(update={"cluster": base.cluster.model_copy(update={"dashboard": dashboard})})


def sets_of(study: StudyConfig, base: RunConfig) -> pa.Table | None:
    """The given sets of an offline study.

    Raises:
        DataError: they cannot be read, none is held out, or a trial's dispersion is to be given and is not.
    """
    if study.form == "online":
        return None
    policy = base.policy
    tokenizer = load_tokenizer(policy.path, policy.revision, policy.chat_template)
    longest, lone = base.sampling.max_response_tokens, space.needs_labels(study)
    given, _ = load_sets(base.prompts, tokenizer, max_response_tokens=longest, lone=lone)
    if (asked := space.given_dispersion(study)) is not None:
        check_known(given, asked)
    if not pc.any(pc.equal(given["split"], "heldout")).as_py():
        raise DataError(
            f"no prompt of {base.prompts.path} is held out",
            "some, to measure trials on",
            "raise prompts.heldout_fraction, or give prompts.heldout_path",
        )
    return given


def same_study(root: str, study: StudyConfig) -> bool:
    """Whether the folder holds exactly this study.

    Raises:
        ConfigError: it holds another one; the changed keys are named.
    """
    known = tables.read_json(f"{root}/study.json")
    if known is None:
        return False
    # more at once is another speed, not another study
    now = json.loads(study.model_dump_json())
    if changed := [key for key in changed_fields(known["study"], now) if key != "concurrency"]:
        raise ConfigError(
            f"study {study.name!r} exists with another definition; changed: {', '.join(changed[:5])}",
            "the study that the folder was made with",
            "choose another name, or remove the folder",
        )
    return True


def open_folder(root: str, study: StudyConfig) -> None:
    """Write what the study is.

    Raises:
        OutputError: the folder cannot be written.
    """
    try:
        record = {"study": json.loads(study.model_dump_json()), "versions": versions()}
        if tables.read_json(f"{root}/study.json") is None:
            tables.write_json(f"{root}/study.json", record)
    except OSError as error:
        raise OutputError(f"cannot write to {root}: {error}", "a writable folder", "choose another output") from error


def run_trials(study: StudyConfig, base: RunConfig, root: str, given: pa.Table | None) -> dict[str, Any]:
    """Start what is shared, search, measure the winner again; returns the summary.

    Raises:
        RunError: no trial finished a rung.
    """
    evaluation = evaluation_of(study, base)
    actors = create(evaluation, *engine_setup(evaluation)) if study.form == "offline" else None
    options = coordinator_options(base) | {"name": NAME, "max_concurrency": 1}
    shared = ray.remote(Shared).options(**options).remote(study, root, actors, given)
    try:
        if study.form == "offline":
            ask(shared.start.remote())
        own, whole = resources(study, base)
        search.search(study, root, rungs_of(study, base), own, search.concurrency(study, whole))
        rows = rows_of(study, read_records(root))
        if not any(row.rungs for row in rows):
            told = [row.error for row in rows if row.error]
            raise RunError(f"no trial finished a rung: {told[0] if told else 'none began'}", "one that trains")
        return finish(study, base, root, rows, shared)
    finally:
        ray.kill(shared)
        if actors is not None:
            actors.shutdown()


def resources(study: StudyConfig, base: RunConfig) -> tuple[dict[str, float], dict[str, float]]:
    """What Tune sets aside for a trial's own process, and that with all that the trial starts itself."""
    training = base.training
    if study.form == "online":
        asked = cluster.Asked.by(base, on_gpu=cluster.on_gpu(base))
        return {"CPU": 1.0}, {"CPU": 1.0 + asked.cpus, "GPU": asked.gpus}
    if training.workers == 1:
        own = {"CPU": 1.0, "GPU": float(training.gpus_per_worker)}
        return {kind: count for kind, count in own.items() if count}, own
    return {"CPU": 1.0}, {"CPU": 1.0 + training.workers, "GPU": float(training.gpus_per_worker * training.workers)}


def finish(
    study: StudyConfig,
    base: RunConfig,
    root: str,
    rows: list[Row],
    shared: Any,
) -> dict[str, Any]:
    """Choose, measure the winner on other prompts, write the files; returns the summary."""
    best, model, confirmed = winner(rows), None, None
    write_tables(root, rows)
    if best is not None:
        write_best(root, best_config(study, best, base))
        model = RunFolder(trial_config(study, best.point)).model(best.version)
        if study.form == "offline" and ask(shared.prompts.remote(other=True)).num_rows:
            place = f"{root}/confirmed/{best.name}"  # a crashed trial that is tried again may win later
            call = shared.evaluate.remote(place, model, version=best.version, other_prompts=True)
            confirmed = ask(call)["evaluation"]
    if study.keep == "front":
        drop_weights(root, rows, best)
    shares = {name: vars(importances(study.space, rows, name, study.seed)) for name in ("reward", "kl")}
    return {
        "name": study.name,
        "form": study.form,
        "start": start_of(study, root, rows),
        "best": None if best is None else best.flat(),
        "best_model": model,
        "confirmed": confirmed,
        "importance": shares,
        "trials": [plain(row.flat() | {"seconds": round(row.seconds, 1)}) for row in rows],
        "kl_bound": study.kl_bound,
        "warnings": warnings_of(rows, best, confirmed),
    }


def start_of(study: StudyConfig, root: str, rows: Sequence[Row]) -> dict[str, float]:
    """Held-out reward of the start; every online run has measured it, on the same prompts with the same seeds."""
    places = [f"{root}/start"] if study.form == "offline" else []
    places += [f"{root}/trials/{row.name}/evaluations/version-0000" for row in rows]
    found = next(manifest for place in places if (manifest := tables.manifest_of(place)) is not None)
    reward: dict[str, float] = found.facts["evaluation"]["reward"]
    return reward


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row for JSON, which has no NaN."""
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}


def drop_weights(root: str, rows: Sequence[Row], best: Row | None) -> None:
    """Remove the weights of trials that nobody will take: their config repeats them. A crashed one may go on."""
    for row in rows:
        if not row.front and row != best and not row.crashed:
            shutil.rmtree(Path(root, "trials", row.name, "checkpoints"), ignore_errors=True)
