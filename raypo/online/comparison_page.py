"""The page of a comparison, from its folder alone."""

from __future__ import annotations

from pathlib import Path

from raypo.config import as_yaml, build
from raypo.errors import DataError
from raypo.online.comparison_tables import meanings, sheets
from raypo.report.comparison import Answered, ComparisonRecord, write_comparison
from raypo.stages import tables

COMPARED, FIGURES, PAGE = "evaluate.json", "evaluation.json", "evaluation.html"
SAMPLES = 6


def write_comparison_page(out: Path) -> str:
    """Write evaluation.html; returns its path.

    Raises:
        DataError: the folder holds no comparison that has ended.
    """
    known, found = (tables.read_json(str(out / name)) for name in (COMPARED, FIGURES))
    if known is None or found is None:
        raise DataError(f"{out} has no comparison that ended", f"{COMPARED} and {FIGURES}", "let raypo evaluate run on")
    config = build(known["config"])
    confidence = config.evaluation.confidence
    record = ComparisonRecord(
        name=config.name,
        found=found,
        sheets=[(one.title, one.heads, one.rows) for one in sheets(found, confidence)],
        meanings=meanings(found),
        samples=samples(out, list(found["policies"])),
        config=as_yaml(config),
        versions=known["versions"],
    )
    write_comparison(record, out / PAGE, confidence=confidence)
    return str(out / PAGE)


def samples(out: Path, policies: list[str]) -> list[Answered]:
    """The first held-out prompts, each with the first response of each policy: same seeds."""
    read = {name: tables.read(str(out / "policies" / name / "scored")) for name in policies}
    rows = {name: table[0].slice(0, SAMPLES).to_pylist() for name, table in read.items() if table is not None}
    return [
        Answered(
            first[0]["prompt"],
            [(name, row["responses"][0], row["rewards"][0]) for name, row in zip(rows, first, strict=True)],
        )
        for first in zip(*rows.values(), strict=True)
    ]
