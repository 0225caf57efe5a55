"""The coordinator as the train workers see it. Light: a worker imports this and not the driver."""

from __future__ import annotations

from typing import Any

import ray

from raypo.training import rounds


class Tables:
    """The train workers' table source: the coordinator as plain blocking calls. Picklable."""

    def __init__(self, coordinator: Any) -> None:
        self._coordinator = coordinator

    def ready(self) -> None:
        """Block until the source policy can be read."""
        ray.get(self._coordinator.ready.remote())

    def next(self, version: int) -> rounds.RoundTask | rounds.Stop:
        """What comes after a version; the same answer on every rank."""
        return ray.get(self._coordinator.next.remote(version))

    def note(self, gauge: dict[str, Any]) -> None:
        """Tell the terminal how training goes; never waits."""
        self._coordinator.note.remote(gauge)

    def trained(self, fields: dict[str, Any]) -> None:
        """Tell the coordinator that a round is trained and durable."""
        ray.get(self._coordinator.trained.remote(fields))
