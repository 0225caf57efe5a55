"""The terminal's view of a run: one line per finished stage, and one live line for what is under way."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event, Thread
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape

POLL_S = 0.3
QUIET_S = 15.0  # without a terminal: at most one line so often for what is under way

Status = Callable[[int], tuple[list[dict[str, Any]], dict[str, Any]]]


def describe(gauge: dict[str, Any]) -> str:
    """One line for what is under way, e.g. `sample 64/128 rows, 3,200 tokens/s`."""
    if not gauge:
        return "..."
    text = str(gauge["stage"])
    if "total" in gauge:
        text += f" {gauge['rows']}/{gauge['total']} rows"
    if "step" in gauge:
        text += f" step {gauge['step']}"
    if gauge.get("loss") is not None:
        text += f", loss {gauge['loss']:.4f}"
    if gauge.get("tokens_per_s"):
        text += f", {gauge['tokens_per_s']:,.0f} tokens/s"
    return text


def line(event: dict[str, Any]) -> str:
    """One line for a finished stage."""
    where = f"round {event['round'] + 1}" if "round" in event else ""
    seconds = f"{event['seconds']:6.1f} s" if "seconds" in event else ""
    return f"{where:9} {event['stage']:9} {seconds:9} {event['text']}".rstrip()


class Terminal:
    """Follows a coordinator's status in a thread, until closed.

    Args:
        status: given a number of events already seen, returns the later ones and the gauge; None before there is one.
        console: where to write.
    """

    def __init__(self, status: Status, console: Console) -> None:
        self._status, self._console = status, console
        self._stop, self._seen = Event(), 0
        self._thread = Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Terminal:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=5.0)

    def _follow(self) -> None:
        began, spoke = time.monotonic(), time.monotonic()
        with self._console.status("starting") as live:
            while not self._stop.is_set():
                gauge = self._print_new()
                text = f"{describe(gauge)}   [{time.monotonic() - began:.0f} s]"
                live.update(escape(text))
                if not self._console.is_terminal and time.monotonic() - spoke > QUIET_S:
                    self._console.print(escape(text), highlight=False, style="dim")
                    spoke = time.monotonic()
                self._stop.wait(POLL_S)
            self._print_new()

    def _print_new(self) -> dict[str, Any]:
        events, gauge = self._status(self._seen)
        self._seen += len(events)
        for event in events:
            self._console.print(escape(line(event)), highlight=False, soft_wrap=True)
        return gauge
