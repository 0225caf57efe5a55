"""Whether a moving reference would ever move: known before anything is sampled."""

from __future__ import annotations

from math import ceil

from raypo.config import RunConfig
from raypo.errors import ConfigError
from raypo.objective import AnyObjective


def most_steps(config: RunConfig, sets: int | None, *, sampled: bool) -> int | None:
    """Optimizer steps that a job can have at most: every set of its pool trains.

    Args:
        config: of the run.
        sets: training prompts of an online run, training sets of an offline one. None: not read yet.
        sampled: online, in rounds.

    Returns:
        None where the config alone does not say it.
    """
    online = config.online
    bounds = [bound for bound in (sets, online.prompts_per_round if sampled else None) if bound]
    if not bounds:
        return None
    of_round = [1 + done if online.data == "accumulate" else 1 for done in range(online.rounds)] if sampled else [1]
    steps = sum(ceil(min(bounds) * part / config.training.sets_per_step) for part in of_round)
    return steps * online.epochs_per_round


def check_moves(objective: AnyObjective, *, every: int, steps: int | None) -> None:
    """Refuse a moving reference that never would.

    Args:
        objective: of the run.
        every: optimizer steps between two updates.
        steps: optimizer steps that the whole job will have, about; None: not known yet.

    Raises:
        ConfigError: it has fewer than lie between two updates.
    """
    if objective.reference == "moving" and steps is not None and every > steps:
        raise ConfigError(
            f"training.reference_steps = {every} in a job of about {steps} optimizer steps",
            "at most that many: the reference would never move, and the preset be one with a fixed reference",
            f"set training.reference_steps={max(1, steps // 10)}, or train longer",
        )


def check_job(objective: AnyObjective, config: RunConfig, sets: int | None, *, sampled: bool) -> None:
    """`check_moves` with the most steps that a run can have; see `most_steps` for the arguments.

    Raises:
        ConfigError: not even these are enough.
    """
    check_moves(objective, every=config.training.reference_steps, steps=most_steps(config, sets, sampled=sampled))
