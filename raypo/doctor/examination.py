"""`raypo doctor`: every check of a config in one table, and texts as they would be trained."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
from rich.console import Console
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from raypo.config import RunConfig
from raypo.doctor import checks, data, rehearsal, surroundings, trust
from raypo.doctor.findings import Finding, failed, ok, tried
from raypo.errors import RaypoError
from raypo.stages import cluster

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "skipped": "dim"}


def examine(config: RunConfig, *, sampled: bool, console: Console, audit: Path | None = None) -> list[Finding]:
    """Do every check, print the table, and return what was found.

    What would not be safe or would not mean anything after a failure is not tried, and the table says so.

    Args:
        config: of the run.
        sampled: whether Ray and an engine are started, to sample and score sixteen responses.
        console: where the table goes.
        audit: sets whose better responses are known; the run's rewards are compared with them, which starts Ray.
    """
    began = time.monotonic()
    online = checks.samples(config)
    found: list[Finding] = []
    for name, check in checks.cheap(samples=online).items():
        found += tried(name, partial(check, config))
    read = data.Data()

    def rows() -> list[Finding]:
        nonlocal read
        read = data.prompts(config) if online else data.sets(config)
        return read.findings

    found += tried("data", rows)
    known: list[pa.Table] = []
    if audit is not None:
        found += tried("audit", partial(audit_sets, config, audit, known))
    texts = read.shown
    if failed(found):
        found.append(Finding("Ray and responses", "skipped", "not tried: mend the failures first"))
    elif sampled or known or os.environ.get("RAY_ADDRESS"):
        told, more = with_ray(config, read if sampled else data.Data(), known)
        found, texts = [*found, *told], [*texts, *more]
    else:
        found += tried("resources", lambda: surroundings.logical(config, engines=online))
    if not sampled:
        found.append(Finding("responses", "skipped", "none was sampled: --no-sample"))
    show(found, texts, console)
    console.print(f"checked in {time.monotonic() - began:.1f} s", highlight=False)
    return found


def audit_sets(config: RunConfig, path: Path, known: list[pa.Table]) -> Finding:
    """Read the sets of an audit into a list."""
    known.append(trust.known_sets(config, path))
    return ok("audit", f"{known[-1].num_rows} sets of {path}, at most {trust.AUDITED} are read")


def with_ray(config: RunConfig, read: data.Data, known: Sequence[pa.Table] = ()) -> tuple[list[Finding], list[Text]]:
    """The checks that take Ray; responses too, where there are prompts and places for the run's processes.

    Args:
        config: of the run.
        read: with the prompts to sample for.
        known: the sets of an audit, if there is one.
    """
    texts: list[Text] = []
    try:
        owned = cluster.start(config, search_path=cluster.search_path())
    except RaypoError as error:
        return [Finding("Ray", "fail", error.got, error.expected, error.remedy)], texts
    try:
        found = rehearsal.places(config)
        if read.prompts is not None and not failed(found):
            prompts = read.prompts

            def responses() -> list[Finding]:
                told, shown = rehearsal.rehearse(config, prompts)
                texts.extend(shown)
                return told

            found += tried("responses", responses)
        if not failed(found):
            for sets in known:
                found += tried("audit", partial(trust.audit, rehearsal.one_of_each(config), sets))
        return found, texts
    finally:
        if owned:
            cluster.stop()


def show(found: Sequence[Finding], shown: Sequence[Text], console: Console) -> None:
    """The table, then what is to be done, then the texts."""
    table = Table(Column("check", no_wrap=True), Column("", no_wrap=True), Column("found", overflow="fold"), box=None)
    for one in found:
        table.add_row(one.name, Text(one.verdict, style=STYLES[one.verdict]), Text(one.got))
    console.print(table)
    for one in found:
        if one.verdict in ("warn", "fail"):
            console.print(Text(f"{one.verdict}: {one.name}", style=STYLES[one.verdict]))
            for title, text in (("expected", one.expected), ("what to do", one.remedy)):
                if text:
                    console.print(Padding(Text(f"{title}: {text}"), (0, 0, 0, 2)))
    if shown:
        console.print(Text("as trained; the loss is on the bold part alone, special tokens and all:"))
    for row in shown:
        console.print(Padding(row, (0, 0, 0, 2)))
