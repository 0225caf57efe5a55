"""Where probability went: the start's best and worst responses to held-out prompts, under the start and under a policy.

Training on preferences only pushes the chosen above the rejected; both may fall (likelihood displacement,
arXiv 2410.08847), and pairs that are far apart teach nothing any more (saturated margins).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raypo.evaluation.significance import Floats

SATURATED = 4.0
"""beta times a margin above this leaves a logistic loss less than 2 % of its gradient: 1 / (1 + e^4) = 0.018."""


@dataclass(frozen=True)
class Likelihoods:
    """Log-ratios of the policy to the start, one per prompt that has a best and a worst response; else NaN.

    Args:
        chosen: log-ratio of the response of highest reward, nats: below 0 the policy makes it less likely.
        rejected: log-ratio of the response of lowest reward, nats.
        saturated: 1 where beta (chosen - rejected) is above SATURATED, else 0.
    """

    chosen: Floats
    rejected: Floats
    saturated: Floats


def likelihoods(
    rewards: Sequence[Sequence[float | None]],
    policy_logps: Sequence[Sequence[float]],
    start_logps: Sequence[Sequence[float]],
    *,
    beta: float,
) -> Likelihoods:
    """Log-ratios of the best and the worst response of each prompt.

    Args:
        rewards: of the start's responses, per prompt and response. A prompt whose rewards are all equal tells nothing.
        policy_logps: of the same responses under the policy, sums over tokens, nats.
        start_logps: the same under the start.
        beta: of the objective: margins are saturated in units of 1 / beta.
    """
    found = []
    for row, policy, start in zip(rewards, policy_logps, start_logps, strict=True):
        known = [k for k, value in enumerate(row) if value is not None and math.isfinite(value)]
        values = [float(row[k]) for k in known]  # type: ignore[arg-type]  # known ones are numbers
        if len(known) < 2 or max(values) == min(values):
            found.append((math.nan, math.nan, math.nan))
            continue
        best, worst = known[int(np.argmax(values))], known[int(np.argmin(values))]
        chosen, rejected = policy[best] - start[best], policy[worst] - start[worst]
        found.append((chosen, rejected, float(beta * (chosen - rejected) > SATURATED)))
    columns = np.array(found, dtype=np.float64).reshape(-1, 3)
    return Likelihoods(columns[:, 0], columns[:, 1], columns[:, 2])
