"""Win rates by reward, paired by prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from raypo.evaluation.statistics import Floats


def win_shares(policy: Sequence[Sequence[float | None]], other: Sequence[Sequence[float | None]]) -> Floats:
    """Per prompt: the share of all pairs (own response, other's response) that the own one wins, a tie counting half.

    Args:
        policy: rewards per prompt and response.
        other: the other policy's, for the same prompts in the same order.

    Returns:
        one number in [0, 1] per prompt; NaN where either side has no finite reward.
    """
    shares = []
    for mine, theirs in zip(policy, other, strict=True):
        a = np.array([v for v in mine if v is not None and math.isfinite(v)])[:, None]
        b = np.array([v for v in theirs if v is not None and math.isfinite(v)])[None, :]
        if a.size == 0 or b.size == 0:
            shares.append(math.nan)
        else:
            shares.append(float(((a > b) + 0.5 * (a == b)).mean()))
    return np.array(shares, dtype=np.float64)
