"""A study on disk: result.json, table.csv, its figures as SVG, and one page that holds all of it."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from raypo.errors import ConfigError, OutputError
from raypo.online.comparison_figures import with_nulls
from raypo.report.plots import svg
from raypo.studies.catalogue import Entry
from raypo.studies.result import RULE, Result

WRITTEN_ABOUT_THE_RUN = ("command", "environment", "seconds", "seed", "quick", "settings")


def told(name: str, entry: Entry, result: Result, run: Mapping[str, Any]) -> dict[str, Any]:
    """Everything as plain JSON values; numbers that there are not are None.

    Args:
        name: of the study.
        entry: its claim.
        result: what was found.
        run: how: command, environment, seconds, seed, quick.
    """
    found: dict[str, Any] = {"study": name, "claim": entry.claim, "paper": entry.paper, "source": entry.source}
    found |= {"measured": entry.measured}
    found |= {"verdict": result.verdict, "finding": result.finding, "rule": result.rule or RULE, "rows": result.table()}
    found["figures"] = [one.name for one in result.drawings]
    found["headline"] = [at for at, row in enumerate(result.rows) if any(row is one for one in result.headline)]
    plain: dict[str, Any] = with_nulls(found | dict(run) | {"settings": dict(result.settings)})
    return plain


def figure(value: float | None) -> str:
    """Three significant digits; `-` for a number that there is not."""
    return "-" if value is None else f"{value:.3g}"


LEAD = 2
"""Sentences of a finding that a page shows: how many comparisons say what, and in words what was found."""


def clauses(finding: str) -> list[str]:
    """A finding's first LEAD sentences, and what follows them clause by clause: a page unfolds these."""
    sentences = finding.split(". ", LEAD)
    rest = sentences.pop() if len(sentences) > LEAD else ""
    lead = ". ".join(sentences) + ("." if rest else "")
    return [lead, *(one.rstrip(";") for one in re.split(r"(?<=[.;]) ", rest) if one)]


def prepare(folder: Path, name: str) -> list[Path]:
    """Make a study's folder and try to write to it, before anything is computed.

    Args:
        folder: that of `--out`.
        name: of the study.

    Returns:
        folders that were made, the innermost first.

    Raises:
        ConfigError: it holds another study, or a result.json that is no study's.
        OutputError: it is no folder, or cannot be written.
    """
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
        known = _known(folder)
    except OSError as error:
        raise OutputError(
            f"cannot write to {folder}: {error.strerror}", "a writable folder", "choose another --out"
        ) from error
    if known is not None and known.get("study") != name:
        told = f"the study {known['study']}" if "study" in known else "a result.json that is no study's"
        raise ConfigError(
            f"{folder} holds {told}", f"a new folder, or one of the study {name}", "choose another --out, or remove it"
        )
    return made


def _known(folder: Path) -> dict[str, Any] | None:
    """The result.json of a folder; None where there is none, and empty where it cannot be read as one."""
    try:
        found = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def write(folder: Path, found: Mapping[str, Any], result: Result) -> list[Path]:
    """Write the study's files; returns their paths. Figures that its last result named and that this one has not go.

    Args:
        folder: made when it is not there.
        found: from `told`.
        result: its figures are closed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    before = (_known(folder) or {}).get("figures", [])
    for name in set(before) - {one.name for one in result.drawings}:
        if Path(name).name == name:  # a figure of this folder, whatever the file says
            (folder / f"{name}.svg").unlink(missing_ok=True)
    drawn = [(one, svg(one.figure)) for one in result.drawings]
    paths = [folder / "result.json", folder / "table.csv", *(folder / f"{one.name}.svg" for one, _ in drawn)]
    paths[0].write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    with paths[1].open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, fieldnames=list(found["rows"][0]))
        table.writeheader()
        table.writerows(found["rows"])
    for path, (_, text) in zip(paths[2:], drawn, strict=True):
        # a picture of its own needs its name space; inside a page it has none to name
        path.write_text(text, encoding="utf-8")
    environment = Environment(
        loader=PackageLoader("raypo.studies", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["figure"] = figure
    page = folder / "page.html"
    plots = [{"svg": Markup(text), "caption": one.caption} for one, text in drawn]
    run = json.dumps({key: found[key] for key in WRITTEN_ABOUT_THE_RUN}, indent=2)
    lead, *numbers = clauses(found["finding"])
    template = environment.get_template("page.html.j2")
    page.write_text(template.render(told=found, lead=lead, numbers=numbers, plots=plots, run=run), encoding="utf-8")
    return [*paths, page]
