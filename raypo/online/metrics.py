"""Figures of a run for Prometheus, through `ray.util.metrics`: what cluster/components/monitoring draws.

Ray puts `ray_` before each name and exports from every node's metrics port. A process that nobody scrapes loses
nothing: setting a gauge is a write to memory. Gauges alone, because each figure is a state that the coordinator knows;
sums over a run are in its folder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ray.util.metrics import Gauge


@dataclass(frozen=True)
class Figure:
    """One exported gauge.

    Args:
        meaning: with its unit.
        tags: beside `run`.
    """

    meaning: str
    tags: tuple[str, ...] = ()


FIGURES: dict[str, Figure] = {
    "raypo_tokens_per_second": Figure(
        "Response tokens per second of the stage under way; 0 once it is over", ("stage",)
    ),
    "raypo_rows_waiting": Figure("Prompts that the stage under way has not finished; 0 once it is over", ("stage",)),
    "raypo_stage_seconds": Figure("Seconds that the stage took when it was last done", ("stage",)),
    "raypo_reward": Figure("Mean training reward: of the last scored round, of the held-out prompts", ("prompts",)),
    "raypo_loss": Figure("Loss of the last optimizer step"),
    "raypo_kl_nats": Figure("KL divergence of the last evaluated version to the start, nats per response"),
    "raypo_weight_version": Figure("Newest durable weight version: finished training rounds"),
    "raypo_weight_version_lag": Figure(
        "Versions by which the furthest engine is behind; one that holds nothing has -1"
    ),
    "raypo_sync_seconds": Figure("Seconds of the last transfer of new weights into the live engines"),
}
"""By name, as given to Ray."""


class Metrics:
    """The gauges of one run, in one process. Picklable: a copy makes its own gauges.

    Args:
        run: name of the run; the tag `run` of every figure.
    """

    def __init__(self, run: str) -> None:
        self._run, self._stage = run, ""  # the stage whose flow the gauges show
        self._gauges: dict[str, Gauge] = {}

    def __reduce__(self) -> tuple[type[Metrics], tuple[str]]:
        return Metrics, (self._run,)

    def set(self, name: str, value: float | None, **tags: str) -> None:
        """Set a figure; what is not known (None, NaN, infinite) leaves it as it was.

        Raises:
            KeyError: no such figure.
            ValueError: tags other than the figure's.
        """
        figure = FIGURES[name]
        if set(tags) != set(figure.tags):
            raise ValueError(f"{name} has the tags {figure.tags}, got {tuple(tags)}")
        if value is None or not math.isfinite(value):
            return
        if name not in self._gauges:
            self._gauges[name] = Gauge(name, description=figure.meaning, tag_keys=("run", *figure.tags))
        self._gauges[name].set(float(value), tags={"run": self._run, **tags})

    def under_way(self, stage: str, *, tokens_per_s: float | None = None, waiting: int | None = None) -> None:
        """How a stage goes; of the stage before it nothing waits or flows any more."""
        if stage != self._stage:
            self._over()
        self._stage = stage
        self.set("raypo_tokens_per_second", tokens_per_s, stage=stage)
        self.set("raypo_rows_waiting", waiting, stage=stage)

    def finished(self, stage: str, seconds: float | None) -> None:
        """A stage is over: nothing waits or flows."""
        self.set("raypo_stage_seconds", seconds, stage=stage)
        self._over()

    def _over(self) -> None:
        if self._stage:
            for name in ("raypo_tokens_per_second", "raypo_rows_waiting"):
                self.set(name, 0.0, stage=self._stage)
        self._stage = ""

    def training(self, gauge: dict[str, Any]) -> None:
        """The trainer's last step, as it tells the terminal: `loss` and `tokens_per_s`."""
        self.set("raypo_loss", gauge.get("loss"))
        self.under_way("train", tokens_per_s=gauge.get("tokens_per_s"))

    def evaluated(self, evaluation: dict[str, Any]) -> None:
        """A version's held-out evaluation, as its manifest holds it."""
        self.set("raypo_reward", evaluation["reward"]["mean"], prompts="heldout")
        self.set("raypo_kl_nats", evaluation["kl_per_response"]["mean"])

    def engines(self, version: int, held: Sequence[int]) -> None:
        """Weight versions that the engines hold, against the newest durable one."""
        self.set("raypo_weight_version", version)
        self.set("raypo_weight_version_lag", version - min(held, default=version))
