"""What a check says: ok, or a warning, or a failure, with what was got, what was expected and what to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from raypo.errors import RaypoError

Verdict = Literal["ok", "warn", "fail", "skipped"]


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Args:
        name: of the check, in a word or two.
        verdict: "fail" is what would end a run; "warn" is what its user should know; "skipped" was not tried.
        got: what was found.
        expected: what would have been right; "" for "ok".
        remedy: what to do; "" for "ok".
    """

    name: str
    verdict: Verdict
    got: str
    expected: str = ""
    remedy: str = ""


def ok(name: str, got: str) -> Finding:
    """Nothing to do."""
    return Finding(name, "ok", got)


def warn(name: str, got: str, expected: str, remedy: str) -> Finding:
    """A run would start, and its user should know."""
    return Finding(name, "warn", got, expected, remedy)


def tried(name: str, check: Callable[[], Finding | Sequence[Finding]]) -> list[Finding]:
    """A check's outcome; an error of raypo's is a failure, also one that ends a run by itself: the others are told too.

    Args:
        name: of the check, for a failure.
        check: returns one finding or several.
    """
    try:
        found = check()
    except RaypoError as error:
        return [Finding(name, "fail", error.got, error.expected, error.remedy)]
    return [found] if isinstance(found, Finding) else list(found)


def failed(findings: Sequence[Finding]) -> bool:
    """Whether one of them would end a run."""
    return any(one.verdict == "fail" for one in findings)
