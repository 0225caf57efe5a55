"""Stop and keep rules: values in, a decision out. No Ray, no files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raypo.config import OnlineConfig


@dataclass(frozen=True)
class Measured:
    """What the rules need to know of one evaluated weight version.

    Args:
        version: weight version; 0 is the start.
        reward: held-out training reward, mean.
        kl: KL to the initial policy, nats per response.
    """

    version: int
    reward: float
    kl: float


def stop_reason(history: Sequence[Measured], config: OnlineConfig) -> str | None:
    """Why the run should stop before another round; None to go on.

    Args:
        history: every version measured so far, in order; the last is the newest.
        config: `rounds`, `kl_bound` and `patience` are read.
    """
    newest = history[-1]
    if newest.version >= config.rounds:
        return f"all {config.rounds} rounds are done"
    if config.kl_bound is not None and newest.kl > config.kl_bound:
        return (
            f"KL of version {newest.version} is {newest.kl:.3g} nats per response, above the bound {config.kl_bound:g}"
        )
    if config.patience is not None:
        since = newest.version - max(history, key=lambda m: (m.reward, -m.version)).version
        if since >= config.patience:
            return f"no better held-out reward for {since} rounds"
    return None


def best_version(history: Sequence[Measured], kl_bound: float | None) -> int:
    """Version with the highest held-out reward among those within the KL bound; the earliest of equals.

    Version 0 is always within the bound.
    """
    allowed = [m for m in history if m.version == 0 or kl_bound is None or m.kl <= kl_bound]
    return max(allowed, key=lambda m: (m.reward, -m.version)).version
