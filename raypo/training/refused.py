"""A user's error met by the train workers, told to the driver.

Raised in a worker it would make Ray Train start new ones, which meet it again. Every rank meets the same: what is read
and checked is the same on all of them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from raypo import errors
from raypo.errors import RunError, UserError

FILE = "refused.json"


def tell(run_dir: str, error: UserError) -> None:
    """Leave an error for the driver."""
    place = Path(run_dir) / FILE
    torn = place.with_suffix(f".{os.getpid()}")
    told = {"kind": type(error).__name__, "got": error.got, "expected": error.expected, "remedy": error.remedy}
    torn.write_text(json.dumps(told), encoding="utf-8")
    torn.replace(place)


def forget(run_dir: str) -> None:
    """Remove the error of an attempt whose driver died before it read it."""
    (Path(run_dir) / FILE).unlink(missing_ok=True)


def taken(run_dir: str) -> UserError | None:
    """The error that was left, once.

    Raises:
        RunError: one was left, and what it says cannot be read.
    """
    place = Path(run_dir) / FILE
    if not place.is_file():
        return None
    text = place.read_bytes()
    place.unlink()
    try:
        told = json.loads(text)
        kind: type[UserError] = getattr(errors, told.pop("kind"))
        return kind(**told)
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise RunError(
            f"the train workers refused the run, and what they left in {place} cannot be read: {error}",
            "a whole file",
            "run the same command again: they will tell it again",
        ) from error
