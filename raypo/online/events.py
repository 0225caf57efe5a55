"""What a run tells while it goes on: finished stages, and what is under way."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from raypo.online.metrics import Metrics
from raypo.stages import verbs


class Events:
    """Finished stages in order, and a gauge of the present one; metrics are told of both.

    Args:
        metrics: of the run.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics, self._finished = metrics, list[dict[str, Any]]()
        self.gauge: dict[str, Any] = {}

    def since(self, number: int) -> list[dict[str, Any]]:
        """Finished stages from a number on."""
        return self._finished[number:]

    def note(self, stage: str, text: str, **fields: Any) -> None:
        """A stage is over."""
        self._finished.append({"time": time.time(), "stage": stage, "text": text, **fields})
        self.gauge = {}
        self._metrics.finished(stage, fields.get("seconds"))

    def progress(self, stage: str, total: int) -> Callable[[pa.Table], None]:
        """A stage of so many rows begins; returns what is told each finished chunk."""
        began, done = time.monotonic(), {"rows": 0, "tokens": 0}
        self.gauge = {"stage": stage, "rows": 0, "total": total}

        def advance(chunk: pa.Table) -> None:
            done["rows"] += chunk.num_rows
            if "response_token_ids" in chunk.column_names:
                done["tokens"] += verbs.count_tokens(chunk)
            rate = done["tokens"] / (time.monotonic() - began)
            self.gauge = {"stage": stage, "rows": done["rows"], "total": total, "tokens_per_s": rate}
            self._metrics.under_way(stage, tokens_per_s=rate, waiting=total - done["rows"])

        return advance
