"""The page of a comparison, from its folder alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from raypo.config import as_yaml, build
from raypo.errors import DataError
from raypo.evaluation.comparison import START, Comparison
from raypo.online.comparison_figures import FIGURES, read_figures
from raypo.online.comparison_tables import meanings, sheets
from raypo.report.comparison import Answered, ComparisonRecord, render_comparison
from raypo.report.page import write_html
from raypo.stages import tables

COMPARED, PAGE = "evaluate.json", "evaluation.html"
SAMPLES = 6


@dataclass(frozen=True)
class Told(Comparison):
    """What FIGURES holds.

    Args:
        folders: of each policy.
        prompts: on which all were compared.
    """

    folders: dict[str, str]
    prompts: int


@dataclass(frozen=True)
class Compared:
    """What COMPARED holds that the page shows.

    Args:
        config: of the comparison.
        versions: of what it ran with.
    """

    config: dict[str, Any]
    versions: dict[str, str]


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
    check(out, known, found)
    write_html(rendered(out, known, found), out / PAGE)
    return str(out / PAGE)


def check(out: Path, known: Any, found: Mapping[str, Any]) -> None:
    """Refuse files that are not what `raypo evaluate` writes, before anything is made of them.

    Raises:
        DataError: a figure lacks or is of another kind, or is of a policy that is not there.
    """
    try:
        TypeAdapter(Compared).validate_python(known)
        told = TypeAdapter(Told).validate_python(found)
    except ValidationError as error:
        first = error.errors()[0]
        wrong = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    else:
        others = told.policies.keys() - {START}
        of = {"length_controlled": told.length_controlled, "judged": told.judged or others}
        of["judged_controlled"] = told.judged_controlled or others
        odd = [name for name, each in of.items() if set(each) != others]
        odd += [] if told.policies.keys() >= {START, *told.frontier} else ["frontier"]
        wrong = f"{', '.join(odd)} of other policies than {', '.join(told.policies)}" if odd else ""
    if wrong:
        raise DataError(
            f"{out} holds figures that cannot be shown: {wrong}",
            f"{COMPARED} and {FIGURES} as this version of raypo writes them",
            "give the same raypo evaluate again with another --out",
        )


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
