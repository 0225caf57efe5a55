"""Offline training: sets that somebody already has, annotated once and trained on. No engine, one weight version.

The stages are those of a round without sampling; the held-out sets tell how often the policy's implicit reward ranks
two responses as the given rewards do.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from rich.console import Console
from torch import Tensor

from raypo.config import RunConfig
from raypo.data.chat import load_sets
from raypo.data.known import check_known
from raypo.errors import DataError, IntegrityError, RewardError
from raypo.evaluation.intervals import SHARE, Interval
from raypo.evaluation.significance import Floats
from raypo.evaluation.statistics import mean_interval
from raypo.models.load import load_tokenizer
from raypo.online.folder import RunFolder, keeps_a_mirror, owns_its_folder
from raypo.online.identity import TRAIN, open_folder
from raypo.online.metrics import Metrics
from raypo.online.offline_page import write_ended
from raypo.online.progress import Terminal, console_of_choice
from raypo.online.record import INPUTS, write_inputs
from raypo.online.run import check_sources, finished, fit_workers
from raypo.scoring.rewards import score_given
from raypo.stages import cluster, tables, verbs
from raypo.stages.actors import Actors, create_scorers, get
from raypo.training import checkpoint
from raypo.training.moves import check_job
from raypo.training.rounds import RoundTask, Stop
from raypo.training.tracking import read_metrics

TOLD_EVERY_S = 10.0  # where nobody watches a bar, a line says that something moves


class GivenTables:
    """A table source with one round, known beforehand. Picklable.

    Args:
        task: the round.
        metrics: of the run; the train worker that notes its steps exports them.
    """

    def __init__(self, task: RoundTask, metrics: Metrics) -> None:
        self._task, self._metrics = task, metrics

    def ready(self) -> None:
        """The source policy is there."""

    def next(self, version: int) -> RoundTask | Stop:
        """The round for version 0, and nothing after it."""
        return self._task if version == 0 else Stop("the given sets are trained on")

    def note(self, gauge: dict[str, Any]) -> None:
        """The terminal reads the metrics file; Prometheus is told."""
        self._metrics.training(gauge)

    def trained(self, fields: dict[str, Any]) -> None:
        """The checkpoint's manifest says it."""
        self._metrics.set("raypo_weight_version", fields["round"] + 1)
        self._metrics.finished("train", fields["seconds"])


class NoEngines:
    """A sync without engines: the weights are gathered, because that is collective, and go nowhere."""

    def send(self, version: int, weights: Iterable[tuple[str, Tensor]], *, sender: bool) -> dict[str, float]:
        """Exhaust the weights."""
        for _ in weights:
            pass
        return {"seconds": 0.0, "bytes": 0.0}


@owns_its_folder
@keeps_a_mirror
def train_offline(
    config: RunConfig,
    console: Console | None = None,
    *,
    accept_pins: bool = False,
    preflight: Callable[[RunConfig], None] | None = None,
) -> dict[str, Any]:
    """Annotate given sets, train on them, and measure held-out ranking accuracy. Returns the summary.

    Args:
        config: of the run; `prompts` names the sets. Their rewards are used, or the run's reward sources if it has any.
        console: where progress goes.
        accept_pins: continue a run whose versions, world size, threads or types were others.
        preflight: as for `raypo.online.run.run`.

    Raises:
        UserError: the input cannot be run, or another driver runs it; nothing was started.
        RunError: the run broke; what was committed stays, and the same command continues.
    """
    console, folder = console or console_of_choice(), RunFolder(config)
    began = time.monotonic()
    if (done := finished(folder, config, console, TRAIN, accept_pins=accept_pins)) is not None:
        return done
    if preflight is not None:
        preflight(config)
    check_sources(config, policy_exists=True)
    given, facts = given_sets(config)
    console.print(
        f"sets: {facts['train']} train, {facts['heldout']} held out, read as {facts['formats']}; "
        f"dropped: {facts['dropped']}; responses that left their set: {facts['responses']}",
        highlight=False,
    )
    check_job(cluster.objective_of(config), config, facts["train"], sampled=False)
    same_sets(given, config, folder)
    # not before its sets are known to be good: a name is taken by what can run
    open_folder(folder, config, TRAIN, accept_pins=accept_pins)
    owned = cluster.start(config, search_path=cluster.search_path())
    try:
        cluster.check_resources(config, engines=False)
        actors = create_scorers(config)
        try:
            annotated = annotate(given, actors, config, folder, console, facts)
            checkpoint.resumable(folder.root)  # sets a torn one aside before the workers look
            with Terminal(status_of(folder), console):
                fit_workers(config, folder, GivenTables(task_of(config, folder), Metrics(config.name)), NoEngines())
            accuracy = ranking_accuracy(annotated["heldout"], actors, config, folder)
        finally:
            actors.shutdown()
    finally:
        if owned:
            ray.shutdown()
    made = tables.manifest_of(folder.path("train", "annotated")).facts  # type: ignore[union-attr]
    summary = {
        "name": config.name,
        "preset": config.objective.preset,
        "sets_in": facts["read"],
        "dropped": facts["dropped"],
        "data": {name: facts[name] for name in ("rows", "formats", "responses", "rendered", "template")},
        "sets_trained": made["trainable"],
        "untrainable": made["untrainable"],
        **trained(folder),
        "heldout_accuracy": accuracy.to_dict(),
        "wall_seconds": round(time.monotonic() - began, 1),
        "model": folder.model(1),
        "seed": config.seed,
    }
    lines = [told_at_the_end(summary, accuracy), *write_ended(config, folder, summary)]
    console.print("\n".join(lines), highlight=False, soft_wrap=True, markup=False)
    return summary


def trained(folder: RunFolder) -> dict[str, Any]:
    """Loss of the last step, and steps, as the checkpoint has them: metrics.jsonl is for people, and may be lost.

    Raises:
        IntegrityError: the checkpoint is gone or torn.
    """
    if (found := checkpoint.read(folder.root, 1)) is None:
        raise IntegrityError(
            f"{folder.checkpoint(1)} was made and is gone",
            "the version that was trained",
            "run the same command again: it is trained again from the annotated sets",
        )
    return {"loss": found.facts["metrics"]["loss"], "steps": found.step}


def given_sets(config: RunConfig) -> tuple[pa.Table, dict[str, Any]]:
    """The run's sets as its policy reads them, and what was counted on the way; see `raypo.data.chat.load_sets`.

    Raises:
        DataError: as of `load_sets`, or their dispersion is to be given and is not.
    """
    policy = config.policy
    tokenizer = load_tokenizer(policy.path, policy.revision, policy.chat_template)
    longest, lone = config.sampling.max_response_tokens, cluster.objective_of(config).needs_labels
    given, facts = load_sets(config.prompts, tokenizer, max_response_tokens=longest, lone=lone)
    check_known(given, config)
    return given, facts


def told_at_the_end(summary: dict[str, Any], accuracy: Interval) -> str:
    """What a finished run says: what it trained on, what it left out and why, how well it ranks, where the model is."""
    out = ", ".join(f"{count} {reason}" for reason, count in summary["untrainable"].items()) or "none"
    return (
        f"trained on {summary['sets_trained']} sets in {summary['steps']} steps, last loss {summary['loss']:.4f}; "
        f"sets that could not train: {out}\n"
        f"  held-out pairs ranked as the rewards rank them: {accuracy.mean:.3f} "
        f"[{accuracy.low:.3f}, {accuracy.high:.3f}] over {accuracy.n} prompts (0.5 is a coin)\n"
        f"  model {summary['model']}"
    )


def annotate(
    given: pa.Table, actors: Actors, config: RunConfig, folder: RunFolder, console: Console, data: dict[str, Any]
) -> dict[str, pa.Table]:
    """Score and annotate both splits; scales are fitted on the training sets. Returns the tables by split.

    Args:
        given: of `load_sets`.
        actors: that score.
        config: of the run.
        folder: where tables are committed.
        console: where progress goes.
        data: facts of `load_sets`, for the manifests: layouts, drops, the hash of template and arguments.
    """
    found: dict[str, pa.Table] = {}
    scales = None
    for split in ("train", "heldout"):
        place = folder.path(split, "annotated")
        if (known := tables.whole(place)) is None:
            rows = given.filter(pc.equal(given["split"], split))
            if rows.num_rows == 0:
                continue
            scored = scored_sets(rows, actors, config, told(console, f"score {split}", rows.num_rows))
            progress = told(console, f"annotate {split}", rows.num_rows)
            table, facts = verbs.annotate(
                scored, actors, config, reference=config.policy.path, scales=scales, progress=progress
            )
            facts |= {"data": data, "source": tables.content_hash(rows)}
            tables.commit(place, table, "annotated", facts)
            text = f"annotate {split}: {facts['trainable']} of {facts['sets']} sets can train, {facts['seconds']:.1f} s"
            console.print(text, highlight=False)
        else:
            table, facts = known[0], known[1].facts
        if known is None or not os.path.exists(folder.path(split, INPUTS)):
            doubts = write_inputs(folder.path(split, INPUTS), table, config)
            for one in doubts if split == "train" else []:
                console.print(f"warning: {one}", style="yellow", highlight=False, markup=False, soft_wrap=True)
        scales, found[split] = facts["scales"], table
        if split == "train" and not facts["trainable"]:
            raise RewardError(
                f"none of {facts['sets']} sets can train: {facts['untrainable']}",
                "rewards that differ within a set",
                "check prompts.rewards_column",
            )
    return found


def same_sets(given: pa.Table, config: RunConfig, folder: RunFolder) -> None:
    """Refuse to go on with a run over other sets than it annotated: one split would be of each, and the summary of one.

    Raises:
        DataError: the file has changed since.
    """
    for split in ("train", "heldout"):
        known = tables.manifest_of(folder.path(split, "annotated"))
        before = known.facts.get("source") if known else None
        rows = given.filter(pc.equal(given["split"], split))
        if known is not None and before is not None and before != tables.content_hash(rows):
            raise DataError(
                f"{config.prompts.path}: its {rows.num_rows} sets to {split} are not the {known.rows} that run "
                f"{config.name!r} has annotated",
                "the sets that the run was started with",
                "restore the file, or choose another name= for a run over these",
            )


def told(console: Console, what: str, total: int) -> verbs.Progress:
    """Progress of a stage as a line every `TOLD_EVERY_S` seconds."""
    began = last = time.monotonic()
    done = 0

    def advance(chunk: pa.Table) -> None:
        nonlocal last, done
        done += chunk.num_rows
        if (now := time.monotonic()) - last >= TOLD_EVERY_S:
            console.print(f"{what} {done}/{total} sets   [{now - began:.0f} s]", highlight=False)
            last = now

    return advance


def scored_sets(rows: pa.Table, actors: Actors, config: RunConfig, progress: verbs.Progress) -> pa.Table:
    """Given rewards, or those of the run's sources where it has any."""
    if not config.rewards:
        return score_given(rows, config.scoring)
    sampled = rows.drop_columns([name for name in ("rewards", "split") if name in rows.column_names])
    return verbs.score(sampled, actors, config, progress=progress)[0]


def task_of(config: RunConfig, folder: RunFolder) -> RoundTask:
    """The only round."""
    place = folder.path("train", "annotated")
    files, manifest = tuple(tables.files_of(place)), tables.manifest_of(place)
    facts = manifest.facts if manifest else {}
    frozen = {"scales": facts.get("scales"), "template": facts.get("data", {}).get("template")}
    return RoundTask(0, files, 0.0, 1.0, config.online.epochs_per_round, config.seed, frozen=frozen)


def status_of(folder: RunFolder) -> Any:
    """What the terminal shows: the last line of the metrics."""

    def status(since: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        lines = read_metrics(Path(folder.path("metrics.jsonl")))
        return [], ({"stage": "train", **lines[-1]} if lines else {"stage": "train workers start"})

    return status


def ranking_accuracy(heldout: pa.Table | None, actors: Actors, config: RunConfig, folder: RunFolder) -> Any:
    """Share of held-out pairs that the implicit reward ranks as the given rewards do, with an interval over prompts."""
    if heldout is None:
        return mean_interval(np.array([]), confidence=config.evaluation.confidence, samples=100)
    call = actors.references[0].call.remote(config.policy.path, "exact_kl", heldout, folder.model(1))
    measured = get(call, config.cluster.no_progress_timeout_s, "the reference")
    shares = pair_shares(
        measured["policy_logps"].to_pylist(), measured["reference_logps"].to_pylist(), heldout["rewards"].to_pylist()
    )
    options = config.evaluation
    by_prompt = prompt_means(heldout["prompt"].to_pylist(), shares)
    return mean_interval(by_prompt, confidence=options.confidence, samples=options.bootstrap_samples, within=SHARE)


def prompt_means(prompts: list[str], values: Floats) -> Floats:
    """Mean of the finite values of each prompt, NaN for one without: sets of one prompt are no independent draws."""
    rows: dict[str, list[float]] = {}
    for prompt, value in zip(prompts, values.tolist(), strict=True):
        rows.setdefault(prompt, []).extend([value] if np.isfinite(value) else [])
    return np.array([np.mean(found) if found else np.nan for found in rows.values()])


def pair_shares(policy: list[list[float]], reference: list[list[float]], rewards: list[list[float | None]]) -> Floats:
    """Per set, of pairs whose rewards differ, the share with log-ratios in the same order; NaN without a pair."""
    found = []
    for lp, lr, row in zip(policy, reference, rewards, strict=True):
        ratio, reward = np.array(lp) - np.array(lr), np.array(row, dtype=np.float64)
        better = reward[:, None] > reward[None, :]
        right = (ratio[:, None] > ratio[None, :]) + 0.5 * (ratio[:, None] == ratio[None, :])
        found.append(float(right[better].mean()) if better.any() else np.nan)
    return np.array(found)
