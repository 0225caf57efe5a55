"""`raypo doctor`: every check of a config in one table, and texts as they would be trained."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import partial

from rich.console import Console
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from raypo.config import RunConfig
from raypo.doctor import checks, data, rehearsal, surroundings
from raypo.doctor.findings import Finding, failed, tried
from raypo.errors import RaypoError
from raypo.stages import cluster

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "skipped": "dim"}


def examine(config: RunConfig, *, sampled: bool, console: Console) -> list[Finding]:
    """Do every check, print the table, and return what was found.

    What would not be safe or would not mean anything after a failure is not tried, and the table says so.

    Args:
        config: of the run.
        sampled: whether Ray and an engine are started, to sample and score sixteen responses.
        console: where the table goes.
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
    texts = read.shown
    if failed(found):
        found.append(Finding("Ray and responses", "skipped", "not tried: mend the failures first"))
    elif sampled or os.environ.get("RAY_ADDRESS"):
        told, more = with_ray(config, read if sampled else data.Data())
        found, texts = [*found, *told], [*texts, *more]
    else:
        found += tried("resources", lambda: surroundings.logical(config, engines=online))
    if not sampled:
        found.append(Finding("responses", "skipped", "none was sampled: --no-sample"))
    show(found, texts, console)
    console.print(f"checked in {time.monotonic() - began:.1f} s", highlight=False)
    return found


def with_ray(config: RunConfig, read: data.Data) -> tuple[list[Finding], list[Text]]:
    """The checks that take Ray; responses too, where there are prompts and places for the run's processes."""
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
