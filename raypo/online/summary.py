"""What a finished run says of itself: `summary.json`, `report.html`, and twelve lines on the terminal.

Everything is read back from the run's folder, so `raypo report` makes the same page from a run that ended long ago.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from raypo.config import RunConfig, build
from raypo.errors import DataError, IntegrityError
from raypo.online.decisions import best_version
from raypo.online.folder import RunFolder
from raypo.online.identity import record_at
from raypo.online.offline_page import write_offline_page
from raypo.online.record import INPUTS, doubted, record_of
from raypo.report.page import interval, write_report
from raypo.stages import cluster, tables
from raypo.training import checkpoint
from raypo.training.tracking import read_metrics

STUDIED, PAGE = "result.json", "page.html"  # of a folder of `raypo study`
STAGES = ("sample", "score", "annotate", "train", "save", "sync", "evaluate")


def summarize(config: RunConfig, folder: RunFolder) -> dict[str, Any]:
    """Figures of a run, from its folder alone; plain JSON values.

    Args:
        config: of the run.
        folder: with at least the evaluation of version 0.
    """
    evaluations = folder.evaluations()
    first, last = evaluations[0]["evaluation"], evaluations[-1]["evaluation"]
    stages, trained = folder.stage_facts(), folder.trained()
    untrained = [source.name for source in config.rewards if source.weight == 0]
    run = tables.read_json(folder.path("run.json")) or {}
    prompts = tables.manifest_of(folder.path("prompts"))
    summary: dict[str, Any] = {
        "name": config.name,
        "preset": config.objective.preset,
        "rounds": len(trained),
        "num_responses": config.sampling.num_responses,
        "confidence": config.evaluation.confidence,
        "reward_before": figures(first["reward"]),
        "reward_after": figures(last["reward"]),
        "reward_gain": figures(last["reward_gain"]) | {"p": last["reward_gain_p"]},
        "reward_win_rate": figures(last["reward_win_rate"]),
        "kl_per_response": figures(last["kl_per_response"]),
        "distinct_2": [one["evaluation"]["distinct_2"] for one in evaluations],
        "length": [one["evaluation"]["length"]["mean"] for one in evaluations],
        "seconds": seconds_by_stage(evaluations, stages, trained),
        "engines": config.engine.count,
        "weight_versions": [one["version"] for one in evaluations],
        "best_version": best_version(folder.history(), config.online.kl_bound),
        "sets_in": sum(one["annotated"]["sets"] for one in stages if "annotated" in one),
        "sets_trained": sum(one["annotated"]["trainable"] for one in stages if "annotated" in one),
        "dropped": dropped(prompts.facts["dropped"] if prompts else {}, stages),
        "scales": stages[0]["annotated"]["scales"] if stages and "annotated" in stages[0] else None,
        "changed_fraction": [one["changed_fraction"] for one in trained],
        "engine_gap_per_token": [one["evaluation"]["engine_gap"] for one in evaluations],
        "stopped": (tables.read_json(folder.path("stop.json")) or {}).get("reason"),
        "warnings": [*last["warnings"], *unmoved(config, folder), *resent(folder), *doubted(folder.stage(0, INPUTS))],
        "versions": run.get("versions", {}),
        "seed": config.seed,
        "model": folder.model(evaluations[-1]["version"]),
    }
    for when, one in (("before", first), ("after", last)):
        summary[f"untrained_reward_{when}"] = (
            figures(one["reward_by_source"][untrained[0]]) | {"name": untrained[0]} if untrained else None
        )
    return summary


def figures(interval: dict[str, float]) -> dict[str, float]:
    """Mean, low and high of an interval."""
    return {name: interval[name] for name in ("mean", "low", "high")}


def seconds_by_stage(
    evaluations: list[dict[str, Any]], stages: list[dict[str, dict[str, Any]]], trained: list[dict[str, Any]]
) -> dict[str, float]:
    """Seconds over all rounds, by stage."""
    total = dict.fromkeys(STAGES, 0.0)
    names = {"sampled": "sample", "scored": "score", "annotated": "annotate"}
    for one in stages:
        for stage, facts in one.items():
            total[names[stage]] += facts["seconds"]
    for done in trained:
        total["train"] += done["seconds"]
        total["save"] += done["save_seconds"]
        total["sync"] += done["sync_seconds"]
    total["evaluate"] = sum(one["seconds"] for one in evaluations)
    return {stage: round(value, 2) for stage, value in total.items()}


def seconds_by_round(folder: RunFolder) -> list[dict[str, float]]:
    """Of the start and of each finished round, seconds by stage.

    The evaluation of the version that a round made belongs to it, and that of the source policy to the start.
    """
    evaluations, stages, trained = folder.evaluations(), folder.stage_facts(), folder.trained()
    return [seconds_by_stage(evaluations[:1], [], [])] + [
        seconds_by_stage(evaluations[i + 1 : i + 2], stages[i : i + 1], trained[i : i + 1]) for i in range(len(trained))
    ]


def unmoved(config: RunConfig, folder: RunFolder) -> list[str]:
    """A warning where a preset's moving reference never moved: too few sets could train, or the run was stopped."""
    steps = [line["step"] for line in read_metrics(Path(folder.path("metrics.jsonl")))]
    every, done = config.training.reference_steps, max(steps, default=0)
    if cluster.objective_of(config).reference != "moving" or done >= every:
        return []
    return [f"the reference never moved: training.reference_steps = {every}, and the run had {done} optimizer steps"]


def resent(folder: RunFolder) -> list[str]:
    """A warning where new weights did not reach every live engine: then those were started anew, which takes longer."""
    failed = [str(done["round"] + 1) for done in folder.trained() if done.get("sync_failed")]
    if not failed:
        return []
    told = f"an engine failed while the weights of round {', '.join(failed)} came to it"
    return [f"{told}; it was brought up from their folder"]


def dropped(prompts: dict[str, int], stages: list[dict[str, dict[str, Any]]]) -> dict[str, int]:
    """Counts by reason: prompts that were not used, responses that could not train, sets that could not."""
    total = {f"prompt: {reason}": count for reason, count in prompts.items() if count}
    for one in stages:
        for reason, count in one.get("scored", {}).get("unusable", {}).items():
            total[f"response: {reason}"] = total.get(f"response: {reason}", 0) + count
        for reason, count in one.get("annotated", {}).get("untrainable", {}).items():
            total[f"set: {reason}"] = total.get(f"set: {reason}", 0) + count
    return total


def write(config: RunConfig, folder: RunFolder, summary: dict[str, Any]) -> str:
    """Write report.html and then summary.json, by which a run is known to have ended; returns the report's path."""
    path = write_page(config, folder, summary)
    tables.write_json(folder.path("summary.json"), summary)
    return path


def write_page(config: RunConfig, folder: RunFolder, summary: dict[str, Any]) -> str:
    """Write report.html alone; returns its path."""
    path = folder.path("report.html")
    untrained = [source.name for source in config.rewards if source.weight == 0]
    beginning, *rounds = seconds_by_round(folder)
    beginning |= {"start": summary["seconds"].get("start", 0.0)}
    record = record_of(config, folder, summary, headline(summary), [beginning, *rounds])
    write_report(record, path, confidence=config.evaluation.confidence, untrained=untrained)
    return path


def keep_versions(config: RunConfig, folder: RunFolder) -> None:
    """Remove the checkpoints that are neither the best under the KL bound nor the last."""
    history = folder.history()
    checkpoint.prune(folder.root, keep={best_version(history, config.online.kl_bound), history[-1].version})


def lines(summary: dict[str, Any], report: str) -> list[str]:
    """The end of a run in plain words."""
    first, *rest = headline(summary)
    told = [first, *(f"  {text}" for text in rest)]
    told += [
        f"  {summary['sets_trained']} of {summary['sets_in']} sets trained in {summary['rounds']} rounds of "
        f"{summary['num_responses']} responses per prompt; stopped: {summary['stopped']}",
        "  seconds: " + ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in summary["seconds"].items()),
        f"  model {summary['model']}",
        f"  report {report}",
    ]
    return told + [f"  warning: {text}" for text in summary["warnings"]]


def headline(summary: dict[str, Any]) -> list[str]:
    """What happened, in sentences that need no other page."""
    gain, after, before = summary["reward_gain"], summary["reward_after"], summary["reward_before"]
    low, high = gain["low"], gain["high"]
    verdict, bounds = "no clear change", f" [{low:+.3f}, {high:+.3f}]"
    if math.isnan(low):
        verdict, bounds = "one held-out prompt: no interval can be told", ""
    elif gain["p"] < 1 - summary["confidence"]:  # of few prompts the interval alone may be clear of 0
        verdict = "the policy got better" if low > 0 else "the policy got worse" if high < 0 else verdict
    told = [
        f"{verdict}: held-out reward {interval(before)} -> {interval(after)}",
        f"gain per prompt {gain['mean']:+.3f}{bounds}, p = {gain['p']:.2g}",
    ]
    if summary["untrained_reward_before"]:
        name = summary["untrained_reward_before"]["name"]
        told.append(
            f"{name} (never trained on) {interval(summary['untrained_reward_before'])} -> "
            f"{interval(summary['untrained_reward_after'])}"
        )
    return [
        *told,
        f"win rate against the start {interval(summary['reward_win_rate'])} by the training reward",
        f"KL to the start {interval(summary['kl_per_response'])} nats per response",
    ]


def rewrite_report(path: str | Path) -> str:
    """Write a run's report again, from its folder, and its summary if it has ended; returns the report's path.

    A folder of `raypo study` has a page already, whose figures the folder does not hold: its path is returned.

    Raises:
        DataError: the folder holds no run, one on given sets that has not ended, or no evaluated version.
        IntegrityError: tables of a finished round are gone, or the summary of a run on given sets is damaged.
    """
    place = Path(path).absolute()
    known = record_at(str(place))
    if known is None and (place / STUDIED).is_file() and (place / PAGE).is_file():
        return str(place / PAGE)
    if known is None:
        raise DataError(
            f"{path} has no run.json with a config",
            "the folder of a run, or of a study",
            "give output/name of the run, or the study's --out",
        )
    config = build(known["config"] | {"output": str(place.parent), "name": place.name})
    folder = RunFolder(config)
    if known["kind"] == "offline":
        summary, damage = folder.summary()
        if damage is not None:
            raise IntegrityError(damage, "the summary of a run of raypo train", "give the same raypo train again")
        if summary is None:
            raise DataError(f"{path} has not ended", "a run of raypo train that has", "let it run on")
        return write_offline_page(config, folder, summary)
    if not folder.evaluations():
        raise DataError(f"{path} has no evaluated version yet", "a run whose start was evaluated", "let it run on")
    older = folder.summary()[0] or {}  # a damaged one is written again from the tables
    made = summarize(config, folder)
    seconds = older.get("seconds", {}) | made["seconds"]  # of what is not a stage, only the older knows
    ended = os.path.exists(folder.path("summary.json"))  # one of a run that has not would say that it has
    return (write if ended else write_page)(config, folder, older | made | {"seconds": seconds})
