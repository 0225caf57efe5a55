"""A user's error met by the train workers, told to the driver.

Raised in a worker it would make Ray Train start new ones, which meet it again. Every rank meets the same: what is read
and checked is the same on all of them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from raypo import errors
from raypo.errors import UserError

FILE = "refused.json"


def tell(run_dir: str, error: UserError) -> None:
    """Leave an error for the driver."""
    place = Path(run_dir) / FILE
    torn = place.with_suffix(f".{os.getpid()}")
    told = {"kind": type(error).__name__, "got": error.got, "expected": error.expected, "remedy": error.remedy}
    torn.write_text(json.dumps(told), encoding="utf-8")
    torn.replace(place)


def taken(run_dir: str) -> UserError | None:
    """The error that was left, once."""
    place = Path(run_dir) / FILE
    if not place.is_file():
        return None
    told = json.loads(place.read_text(encoding="utf-8"))
    place.unlink()
    kind: type[UserError] = getattr(errors, told.pop("kind"))
    return kind(**told)
