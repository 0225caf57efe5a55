"""The page of a run on given sets: what an online run's page has of it, by the same template and plots."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raypo.config import RunConfig, as_yaml
from raypo.evaluation.statistics import mean_interval
from raypo.online.folder import RunFolder
from raypo.online.record import INPUTS, doubted, histogram, inputs, points
from raypo.report.page import write_report
from raypo.report.record import RunRecord
from raypo.stages import tables
from raypo.training import checkpoint
from raypo.training.tracking import read_metrics

COIN = 0.5


def write_ended(config: RunConfig, folder: RunFolder, summary: dict[str, Any]) -> list[str]:
    """Add its warnings to a summary, write report.html and then summary.json, by which a run is known to have ended.

    Returns:
        lines for the terminal: where the page is, and the warnings.
    """
    summary["warnings"] = warnings_of(summary, folder)
    page = write_offline_page(config, folder, summary)
    tables.write_json(folder.path("summary.json"), summary)
    return [f"  report {page}", *(f"  warning: {one}" for one in summary["warnings"])]


def write_offline_page(config: RunConfig, folder: RunFolder, summary: dict[str, Any]) -> str:
    """Write report.html, from the run's folder and its summary; returns its path.

    Args:
        config: of the run.
        folder: with the annotated sets, and the checkpoint of version 1.
        summary: as of `raypo.online.offline.train_offline`.
    """
    path = folder.path("report.html")
    write_report(offline_record(config, folder, summary), path, confidence=config.evaluation.confidence, untrained=[])
    return path


def offline_record(config: RunConfig, folder: RunFolder, summary: dict[str, Any]) -> RunRecord:
    """The record of the page."""
    found = tables.read(folder.path("train", "annotated"))
    place = folder.path("train", INPUTS)
    run = tables.read_json(folder.path("run.json")) or {}
    told = {
        "warnings": warnings_of(summary, folder),
        "versions": run.get("versions", {}),
        "dropped": {f"set: {why}": n for part in ("dropped", "untrainable") for why, n in summary[part].items() if n},
    }
    table = None if found is None else found[0]
    return RunRecord(
        summary=summary | told,
        headline=headline(summary),
        evaluations=[],
        seconds=[seconds_by_stage(folder)],
        steps=read_metrics(Path(folder.path("metrics.jsonl"))),
        spread=[] if table is None else points(table),
        inputs=inputs(place),
        histogram=histogram(place),
        figures={"heldout_accuracy": summary["heldout_accuracy"]} | dispersion_of(table, config),
        config=as_yaml(config),
    )


def headline(summary: dict[str, Any]) -> list[str]:
    """What happened, in sentences that need no other page."""
    accuracy = summary["heldout_accuracy"]
    trained = (
        f"trained on {summary['sets_trained']} sets in {summary['steps']} steps, last loss {summary['loss']:.4f}; "
        f"model {summary['model']}"
    )
    if not accuracy["n"] or not math.isfinite(accuracy["mean"]):
        return ["no set was held out with rewards that differ: nothing tells how well the policy ranks", trained]
    low, high = accuracy["low"], accuracy["high"]
    if not math.isfinite(low):
        share = f"{accuracy['mean']:.3f} of one prompt's held-out pairs"
        return [f"the policy ranks {share} as the rewards do, which tells nothing of other prompts", trained]
    told = "better than" if low > COIN else "worse than" if high < COIN else "not clearly otherwise than"
    verdict = f"the policy ranks held-out pairs {told} a coin"
    ranked = (
        f"{verdict}: as the rewards do in {accuracy['mean']:.3f} [{low:.3f}, {high:.3f}] of them, "
        f"over {accuracy['n']} prompts"
    )
    return [ranked, trained]


def warnings_of(summary: dict[str, Any], folder: RunFolder) -> list[str]:
    """What a reader should know before taking the policy: how it was measured, and what is doubted of the rewards."""
    accuracy, told = summary["heldout_accuracy"], []
    if not accuracy["n"]:
        told.append("no set is held out: raise prompts.heldout_fraction to have the policy measured")
    elif not math.isfinite(accuracy["low"]):
        told.append("one prompt is held out: raise prompts.heldout_fraction to have the policy measured")
    elif accuracy["high"] < COIN:
        told.append("held-out pairs are ranked against the rewards more often than not")
    elif accuracy["low"] <= COIN:
        told.append("the share of held-out pairs that are ranked as the rewards rank them is not clear of 0.5, a coin")
    out = sum(summary["untrainable"].values())
    if out > summary["sets_trained"]:
        told.append(f"{out} sets could not train, more than the {summary['sets_trained']} that did")
    return told + doubted(folder.path("train", INPUTS))


def dispersion_of(table: pa.Table | None, config: RunConfig) -> dict[str, dict[str, float]]:
    """Mean dispersion of the training sets, where an estimator was asked for."""
    if table is None or config.dispersion.estimator == "none":
        return {}
    kept = table.filter(table["trainable"])
    values = np.array([value for value in kept["dispersion"].to_pylist() if value is not None], dtype=np.float64)
    options = config.evaluation
    found = mean_interval(values, confidence=options.confidence, samples=options.bootstrap_samples)
    return {"dispersion": dict(found.to_dict())}


def seconds_by_stage(folder: RunFolder) -> dict[str, float]:
    """Seconds of what told them: annotation of either split, and training."""
    found: dict[str, float] = {}
    for split, name in (("train", "annotate"), ("heldout", "annotate held out")):
        if (manifest := tables.manifest_of(folder.path(split, "annotated"))) is not None:
            found[name] = float(manifest.facts["seconds"])
    if (made := checkpoint.read(folder.root, 1)) is not None:
        found["train"] = float(made.facts.get("seconds", 0.0))
    return found
