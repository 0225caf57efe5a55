"""The sentences at a run's end: the interval and the test must agree before anything is called better."""

from __future__ import annotations

from typing import Any

import pytest

from raypo.online.summary import headline

NAN = float("nan")


def summary(low: float, high: float, p: float) -> dict[str, Any]:
    def figure(mean: float, low: float, high: float) -> dict[str, float]:
        return {"mean": mean, "low": low, "high": high}

    return {
        "confidence": 0.95,
        "reward_before": figure(0.5, 0.4, 0.6),
        "reward_after": figure(0.75, 0.65, 0.85),
        "reward_gain": figure(0.25, low, high) | {"p": p},
        "reward_win_rate": figure(0.625, 0.5, 0.75),
        "kl_per_response": figure(1.0, NAN, NAN),
        "untrained_reward_before": None,
    }


@pytest.mark.parametrize(
    ("low", "high", "p", "verdict"),
    [
        (0.125, 0.375, 0.01, "the policy got better"),
        (-0.375, -0.125, 0.01, "the policy got worse"),
        (-0.125, 0.375, 0.3, "no clear change"),
        (0.016, 0.468, 0.08, "no clear change"),  # sixteen prompts, of which few moved
    ],
)
def test_a_change_is_called_one_where_interval_and_test_agree(low: float, high: float, p: float, verdict: str) -> None:
    told = headline(summary(low, high, p))
    assert told[0] == f"{verdict}: held-out reward 0.500 [0.400, 0.600] -> 0.750 [0.650, 0.850]"
    assert told[1] == f"gain per prompt +0.250 [{low:+.3f}, {high:+.3f}], p = {p:.2g}"
    assert told[-1] == "KL to the start 1.000 nats per response"


def test_one_prompt_has_no_bounds() -> None:
    told = headline(summary(NAN, NAN, 1.0))
    assert told[0].startswith("one held-out prompt: no interval can be told")
    assert told[1] == "gain per prompt +0.250, p = 1"
