"""What a run's page shows, read back from the run's folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raypo.config import RunConfig, as_yaml
from raypo.evaluation.doubts import doubts_of_table
from raypo.evaluation.inputs import describe_table
from raypo.online.folder import RunFolder
from raypo.report.page import interval
from raypo.report.record import RunRecord, Sample
from raypo.stages import tables
from raypo.training.tracking import read_metrics

SAMPLES = 6
UNTOLD = "rewards do not differ"
INPUTS = "inputs.json"  # beside the annotated sets that it describes
SETS = 400  # points of a picture


def record_of(
    config: RunConfig,
    folder: RunFolder,
    summary: dict[str, Any],
    headline: list[str],
    seconds: list[dict[str, float]],
) -> RunRecord:
    """The record of a run's page.

    Args:
        config: of the run.
        folder: of the run.
        summary: as in summary.json.
        headline: sentences in plain words.
        seconds: of the start and of each round, seconds by stage.
    """
    evaluations, place = folder.evaluations(), folder.stage(0, INPUTS)
    return RunRecord(
        summary=summary,
        headline=headline,
        evaluations=[one["evaluation"] for one in evaluations],
        seconds=seconds,
        steps=read_metrics(Path(folder.path("metrics.jsonl"))),
        samples=samples(folder, len(evaluations) - 1),
        spread=spread(folder),
        inputs=inputs(place),
        histogram=histogram(place),
        dispersion=tables.read_json(folder.path("dispersion.json")),
        config=as_yaml(config),
    )


def samples(folder: RunFolder, version: int) -> list[Sample]:
    """The first held-out prompts, each with its first response at the start and at a version: same seeds."""
    before, after = tables.read(folder.evaluation(0)), tables.read(folder.evaluation(version))
    if before is None or after is None:
        return []
    rows = zip(before[0].slice(0, SAMPLES).to_pylist(), after[0].slice(0, SAMPLES).to_pylist(), strict=True)
    return [
        Sample(old["prompt"], old["responses"][0], new["responses"][0], old["rewards"][0], new["rewards"][0])
        for old, new in rows
    ]


def spread(folder: RunFolder) -> list[tuple[float, float]]:
    """Of the first round's training sets: standard deviation of usable scaled rewards, and dispersion index."""
    found = tables.read(folder.stage(0, "annotated"))
    if found is None:
        return []
    return points(found[0])


def points(annotated: pa.Table) -> list[tuple[float, float]]:
    """Of the first sets that can train: standard deviation of usable scaled rewards, and dispersion index."""
    made = []
    for row in annotated.slice(0, SETS).to_pylist():
        kept = [r for r, usable in zip(row["scaled_rewards"], row["usable"], strict=True) if usable and r is not None]
        if row["trainable"] and row["dispersion"] is not None:
            made.append((float(np.std(kept)), float(row["dispersion"])))
    return made


def write_inputs(place: str, annotated: pa.Table, config: RunConfig) -> list[str]:
    """Write inputs.json: figures of the rewards of annotated sets, and what is doubted of them; returns the doubts.

    Args:
        place: path of the file.
        annotated: records.ANNOTATED.
        config: of the run.
    """
    doubts = doubts_of_table(annotated)
    tables.write_json(place, describe_table(annotated, config).to_dict() | {"doubts": doubts})
    return _sentences(doubts)


def doubted(place: str) -> list[str]:
    """What an inputs.json doubts of each reward source, as sentences; none where there is no such file.

    Args:
        place: path of the file.
    """
    return _sentences((tables.read_json(place) or {}).get("doubts", {}))


def _sentences(doubts: Mapping[str, Sequence[str]]) -> list[str]:
    return [f"reward {name!r}: {one}" for name, those in doubts.items() for one in those]


def histogram(place: str) -> list[int]:
    """Sets by dispersion index, of an inputs.json; empty where there is no such file."""
    return list((tables.read_json(place) or {}).get("dispersion_histogram", []))


def inputs(place: str) -> list[tuple[str, str]]:
    """Ties, skew and agreement of an inputs.json's rewards, with intervals, and doubts, as label and value."""
    found = tables.read_json(place)
    if found is None:
        return []
    kinds = {"tie_rate": "tied pairs", "no_preference": "sets without a preference", "skew": "skew of rewards"}
    rows = [(f"{label}: {name}", one) for key, label in kinds.items() for name, one in found.get(key, {}).items()]
    rows += [(f"rank agreement: {name}", one) for name, one in found.get("agreement", {}).items()]
    told = [(label, interval(one, 2) if math.isfinite(one["mean"]) else UNTOLD) for label, one in rows if one]
    return told + [(f"doubt: {name}", one) for name, those in found.get("doubts", {}).items() for one in those]
