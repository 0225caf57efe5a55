"""Where Ray Train enters a worker. Light: Ray's controller unpickles the function too, and needs no model library."""

from __future__ import annotations

from typing import Any


def train(setup: dict[str, Any]) -> None:
    """`raypo.training.worker.train`, imported in the worker alone: elsewhere that costs seconds and 0.3 GB.

    Args:
        setup: as there.
    """
    from raypo.training import worker

    worker.train(setup)
