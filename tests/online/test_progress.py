"""What a run says while it goes: lines for people, JSON objects for machines."""

from __future__ import annotations

import io
import json
from datetime import datetime
from typing import Any

import pytest
from rich.console import Console

from raypo.online.progress import JsonConsole, Terminal, console_of_choice, describe, line

EVENTS = [
    {"time": 1.0, "stage": "engine", "text": "1 engine(s) hold version 0", "seconds": 3.25, "version": 0},
    {"time": 2.0, "stage": "score", "text": "reward [0.5]", "round": 1, "seconds": 0.125},
]


def status(since: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Two stages are over; nothing is under way."""
    return EVENTS[since:], {}


def followed(console: Console) -> list[str]:
    """What a follower writes from its start to its end."""
    with Terminal(status, console):
        pass
    text: str = console.file.getvalue()
    return text.splitlines()


def test_people_get_one_line_per_stage_with_brackets_as_they_are() -> None:
    """Rounds are counted from 1 for people; seconds have one digit."""
    found = followed(Console(file=io.StringIO(), width=120))
    assert found == [
        "          engine       3.2 s  1 engine(s) hold version 0",
        "round 2   score        0.1 s  reward [0.5]",
    ]


def test_machines_get_one_object_per_stage_with_its_figures() -> None:
    """Ray's own names for time, level and message; the rest as the coordinator knows it."""
    found = [json.loads(text) for text in followed(JsonConsole(file=io.StringIO()))]
    for one in found:
        assert datetime.fromisoformat(one.pop("asctime")).tzinfo is not None
    assert found == [
        {
            "levelname": "INFO",
            "message": "1 engine(s) hold version 0",
            "stage": "engine",
            "seconds": 3.25,
            "version": 0,
        },
        {"levelname": "INFO", "message": "reward [0.5]", "stage": "score", "round": 1, "seconds": 0.125},
    ]


def test_any_other_line_is_an_object_too() -> None:
    """Styles, markup and line breaks within a text do not break the lines of the file."""
    console = JsonConsole(file=io.StringIO(), width=10)
    console.print("a [b]\nlong " + "x" * 40, highlight=False, style="dim")
    [only] = console.file.getvalue().splitlines()
    assert json.loads(only)["message"] == "a [b]\nlong " + "x" * 40


@pytest.mark.parametrize(("value", "kind"), [(None, Console), ("TEXT", Console), ("JSON", JsonConsole)])
def test_the_variable_that_ray_reads_chooses(value: str | None, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_LOGGING_CONFIG_ENCODING", raising=False)
    if value is not None:
        monkeypatch.setenv("RAY_LOGGING_CONFIG_ENCODING", value)
    assert type(console_of_choice()) is kind


@pytest.mark.parametrize(
    ("gauge", "expected"),
    [
        ({}, "..."),
        ({"stage": "sample", "rows": 64, "total": 128, "tokens_per_s": 3200.4}, "sample 64/128 rows, 3,200 tokens/s"),
        ({"stage": "train", "step": "3/8", "loss": 0.51236}, "train step 3/8, loss 0.5124"),
    ],
)
def test_what_is_under_way_is_one_line(gauge: dict[str, Any], expected: str) -> None:
    assert describe(gauge) == expected


def test_a_stage_outside_a_round_has_no_round() -> None:
    assert line({"stage": "stop", "text": "3 rounds are done"}) == "          stop                3 rounds are done"
