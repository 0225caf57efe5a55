"""How far a run is let go from outside, version by version: a study asks for the next round only when it wants one."""

from __future__ import annotations

import threading
from dataclasses import dataclass


@dataclass
class Pace:
    """What another thread of the driver allows; the driver passes it on to the coordinator.

    Args:
        allowed: newest weight version that may be made.
        stopped: why the run is to end at the version that it has; empty: it is not.
    """

    allowed: int = 0
    stopped: str = ""


class Brake:
    """The coordinator's side: blocks before a round that is not allowed.

    Args:
        on: whether anything is held back at all.
    """

    def __init__(self, *, on: bool) -> None:
        self._changed, self._pace = threading.Condition(), Pace() if on else None

    def set(self, pace: Pace) -> None:
        """What is allowed from now on."""
        with self._changed:
            self._pace = pace
            self._changed.notify_all()

    def wait(self, version: int) -> str:
        """Block until the round after a version is allowed; returns why it never will be, or nothing."""
        with self._changed:
            self._changed.wait_for(lambda: self._pace is None or self._pace.stopped or self._pace.allowed > version)
            return "" if self._pace is None else self._pace.stopped
