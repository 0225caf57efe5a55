"""One trial that is a whole online run, held back after each round until Ray Tune asks for the next.

A rung is a round. The run evaluates its versions itself, on its own engines; what it would hand over after a round is
its best version within the KL bound, which may be the start.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from raypo.config import RunConfig
from raypo.errors import RunError
from raypo.online.decisions import best_version, stop_reason
from raypo.online.folder import RunFolder
from raypo.online.pace import Pace
from raypo.online.run import run
from raypo.stages import tables

POLL_S = 0.2
STOPPED = "the study stopped this trial"


class Online:
    """Runs in a thread of the trial's process; its engines and workers are processes of their own.

    Args:
        config: of the trial.
    """

    def __init__(self, config: RunConfig) -> None:
        self._config, self._folder = config, RunFolder(config)
        self._pace, self._error = Pace(), list[BaseException]()
        self._thread: threading.Thread | None = None

    def rung(self, version: int) -> dict[str, Any]:
        """Let the run make a version; returns the facts of the best one by then, and whether the run ends with this.

        Raises:
            RaypoError: as raised by the run.
        """
        self._pace.allowed = version
        while tables.manifest_of(self._folder.evaluation(version)) is None:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()
            if not self._thread.is_alive():
                self._raise(version)
            time.sleep(POLL_S)
        history = self._folder.history()[: version + 1]
        facts = self._folder.evaluations()[best_version(history, self._config.online.kl_bound)]
        return facts | {"over": stop_reason(history, self._config.online) is not None}

    def _raise(self, version: int) -> None:
        if tables.manifest_of(self._folder.evaluation(version)) is not None:
            return  # it was written between the two looks
        if self._error:
            raise self._error[0]
        raise RunError(f"the run ended before version {version}", "an evaluated version", f"see {self._folder.root}")

    def _run(self) -> None:
        try:
            with Path(self._folder.path("output.txt")).open("a", encoding="utf-8") as file:
                run(self._config, console=Console(file=file, width=120), pace=self._pace)
        except BaseException as error:  # noqa: BLE001 - told by whoever waits for a version
            self._error.append(error)

    def over(self) -> None:
        """Let the run write its summary."""
        if self._thread is not None:
            self._thread.join()

    def close(self) -> None:
        """End the run at the version that it has, and wait until its actors and workers are gone."""
        self._pace.stopped = STOPPED
        self.over()
