"""What a run's page shows, read back from the run's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raypo.config import RunConfig, as_yaml
from raypo.evaluation.doubts import doubts_of_table
from raypo.evaluation.inputs import describe_table
from raypo.online.folder import RunFolder
from raypo.report.record import RunRecord, Sample
from raypo.stages import tables
from raypo.training.tracking import read_metrics

SAMPLES = 6
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
    evaluations = folder.evaluations()
    return RunRecord(
        summary=summary,
        headline=headline,
        evaluations=[one["evaluation"] for one in evaluations],
        seconds=seconds,
        steps=read_metrics(Path(folder.path("metrics.jsonl"))),
        samples=samples(folder, len(evaluations) - 1),
        spread=spread(folder),
        inputs=inputs(folder),
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
    points = []
    for row in found[0].slice(0, SETS).to_pylist():
        kept = [r for r, usable in zip(row["scaled_rewards"], row["usable"], strict=True) if usable and r is not None]
        if row["trainable"] and row["dispersion"] is not None:
            points.append((float(np.std(kept)), float(row["dispersion"])))
    return points


def inputs_of(annotated: pa.Table, config: RunConfig) -> dict[str, Any]:
    """What inputs.json says of a round's sets: figures of their rewards, and what is doubted of them."""
    return describe_table(annotated, config).to_dict() | {"doubts": doubts_of_table(annotated)}


def inputs(folder: RunFolder) -> list[tuple[str, str]]:
    """Ties, skew and agreement of the first round's rewards, with intervals, and doubts, as label and value."""
    found = tables.read_json(folder.path("rounds", "round-0000", "inputs.json"))
    if found is None:
        return []
    kinds = {"tie_rate": "tied pairs", "no_preference": "sets without a preference", "skew": "skew of rewards"}
    rows = [(f"{label}: {name}", one) for key, label in kinds.items() for name, one in found.get(key, {}).items()]
    rows += [(f"rank agreement: {name}", one) for name, one in found.get("agreement", {}).items()]
    told = [(label, f"{one['mean']:.2f} [{one['low']:.2f}, {one['high']:.2f}]") for label, one in rows if one]
    return told + [(f"doubt: {name}", one) for name, those in found.get("doubts", {}).items() for one in those]
