"""The page of a comparison, from its folder alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import UndefinedError

from raypo.config import as_yaml, build
from raypo.errors import DataError
from raypo.online.comparison_figures import FIGURES, read_figures
from raypo.online.comparison_tables import meanings, sheets
from raypo.report.comparison import Answered, ComparisonRecord, render_comparison
from raypo.report.page import write_html
from raypo.stages import tables

COMPARED, PAGE = "evaluate.json", "evaluation.html"
SAMPLES = 6


def write_comparison_page(out: Path) -> str:
    """Write evaluation.html; returns its path.

    Raises:
        DataError: the folder holds no comparison that has ended, or figures without what the page shows.
        OutputError: the page cannot be written.
        IntegrityError: the record, the figures or a table are damaged.
    """
    known, found = tables.read_json(str(out / COMPARED)), read_figures(out)
    if known is None or found is None:
        raise DataError(f"{out} has no comparison that ended", f"{COMPARED} and {FIGURES}", "let raypo evaluate run on")
    try:
        page = rendered(out, known, found)
    except (UndefinedError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{out} holds figures that cannot be shown: {type(error).__name__}: {error}",
            f"{COMPARED} and {FIGURES} as this version of raypo writes them",
            "give the same raypo evaluate again with another --out",
        ) from error
    write_html(page, out / PAGE)
    return str(out / PAGE)


def rendered(out: Path, known: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """The page as HTML.

    Args:
        out: the comparison's folder, for its samples.
        known: what was compared, as in evaluate.json.
        found: as of `read_figures`.
    """
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
    return render_comparison(record, confidence=confidence)


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
