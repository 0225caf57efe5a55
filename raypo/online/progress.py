"""The view of a run: one line per finished stage, and one live line for what is under way.

With RAY_LOGGING_CONFIG_ENCODING=JSON, the variable that turns Ray's own logs into JSON, every line is one JSON object
under Ray's names (`asctime`, `levelname`, `message`); that of a finished stage has its figures as further keys.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
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


class JsonConsole(Console):
    """A console whose lines are JSON objects; nothing is wrapped, styled or redrawn.

    Args:
        options: of rich's Console, e.g. `file`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, force_terminal=False)

    def print(self, *objects: Any, **style: Any) -> None:
        """One object for what would be one call's text; the style is not told."""
        self.tell(" ".join(str(one) for one in objects))

    def tell(self, message: str, **fields: Any) -> None:
        """One line: a message and what is known beside it."""
        told = {"asctime": datetime.now(UTC).isoformat(timespec="milliseconds"), "levelname": "INFO"}
        self.file.write(json.dumps(told | {"message": message} | fields) + "\n")
        self.file.flush()


def console_of_choice(*, stderr: bool = False) -> Console:
    """Standard output, or standard error: lines for people, or JSON objects where the environment asks for them."""
    kind = JsonConsole if os.environ.get("RAY_LOGGING_CONFIG_ENCODING") == "JSON" else Console
    return kind(stderr=stderr)


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
                    self._console.print(text, highlight=False, markup=False, style="dim")
                    spoke = time.monotonic()
                self._stop.wait(POLL_S)
            self._print_new()

    def _print_new(self) -> dict[str, Any]:
        events, gauge = self._status(self._seen)
        self._seen += len(events)
        for event in events:
            if isinstance(self._console, JsonConsole):
                self._console.tell(event["text"], **{key: event[key] for key in event.keys() - {"text", "time"}})
            else:
                self._console.print(line(event), highlight=False, soft_wrap=True, markup=False)
        return gauge
