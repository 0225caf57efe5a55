"""What a train worker is given: rounds by a source of tables, and a way for new weights to reach the engines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from raypo.errors import ConfigError


@dataclass(frozen=True)
class RoundTask:
    """One round's training.

    Args:
        round: index of the round; it makes weight version round + 1.
        tables: Parquet files of records.ANNOTATED.
        progress_start: share of the job's planned prompts that is done before the round.
        progress_end: and after it.
        epochs: passes over the sets.
        seed: of the run; the order of sets depends on it, the round and the epoch alone.
        rung: which of `rungs` equal parts of the round's steps this is; a part makes a weight version of its own.
        rungs: parts. The steps of all of them together are those of the whole round.
        frozen: what the first round fixed for all, kept by every checkpoint: `scales` (reward, psi, spread) and the
            hash of the chat template, `template`.
    """

    round: int
    tables: tuple[str, ...]
    progress_start: float
    progress_end: float
    epochs: int
    seed: int
    rung: int = 0
    rungs: int = 1
    frozen: dict[str, Any] = field(default_factory=dict)


def rung_steps(total: int, rung: int, rungs: int) -> range:
    """The steps of one part of a round, numbered from 0.

    Raises:
        ConfigError: a part would have none.
    """
    if total < rungs:
        raise ConfigError(
            f"{total} optimizer steps in {rungs} parts",
            "at least a step in each",
            "ask for fewer parts (rungs), or smaller steps (training.sets_per_step)",
        )
    return range(total * rung // rungs, total * (rung + 1) // rungs)


@dataclass(frozen=True)
class Stop:
    """No further round, and why."""

    reason: str


class TableSource(Protocol):
    """Where the next round comes from; every rank asks and gets the same answer."""

    def ready(self) -> None:
        """Block until the source policy can be read."""

    def next(self, version: int) -> RoundTask | Stop:
        """Block until the round after a version is annotated, or there is none."""

    def note(self, gauge: dict[str, Any]) -> None:
        """Tell how training goes; never blocks."""

    def trained(self, fields: dict[str, Any]) -> None:
        """A version is trained and durable."""


class SyncSender(Protocol):
    """How new weights reach the live engines; called on every rank."""

    def send(self, version: int, weights: Iterable[tuple[str, Tensor]], *, sender: bool) -> dict[str, float]:
        """Exhaust the weights; the sender passes them to the engines.

        Returns `seconds` and `bytes`, and `failed` where an engine failed that is brought up later.
        """
