"""Doubts about rewards, each raised by rewards made to deserve it and by no others."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raypo.config import build
from raypo.evaluation.doubts import SKEWED, TAIL, doubts, doubts_of_table
from raypo.online.folder import RunFolder
from raypo.online.record import INPUTS, doubted, histogram, inputs, write_inputs
from raypo.records import ANNOTATED

RNG = np.random.default_rng(0)
NORMAL = RNG.normal(size=(64, 8))


def test_normal_rewards_raise_no_doubt() -> None:
    """The farthest hundredth of 512 normal deviates: 0.036 of all distance."""
    found = doubts(NORMAL.tolist(), list(RNG.normal(size=(64, 8))))
    assert found.warnings == ()
    assert found.tail == pytest.approx(0.036, abs=0.01)
    assert abs(found.skew) < 0.3
    assert math.isnan(found.right)


def test_skewed_rewards_and_outliers_are_doubted() -> None:
    skewed = doubts(np.exp(NORMAL).tolist())
    assert skewed.skew > SKEWED
    assert any("skewed" in told for told in skewed.warnings)
    struck = NORMAL.copy()
    struck[:, 0] += np.where(np.arange(64) % 8 == 0, 12 * (-1.0) ** (np.arange(64) // 8), 0.0)  # 4 up, 4 down
    outliers = doubts(struck.tolist())
    assert outliers.tail > TAIL
    assert len(outliers.warnings) == 1
    assert "outliers" in outliers.warnings[0]


def test_few_responses_are_no_ground_for_outliers() -> None:
    """Of 16 responses the farthest alone holds more than 6 % of all distance, whatever the law."""
    assert math.isnan(doubts(NORMAL[:2].tolist()).tail)
    assert doubts(NORMAL[:2].tolist()).warnings == ()


def test_reward_that_follows_length_is_doubted() -> None:
    lengths = list(NORMAL + 0.1 * RNG.normal(size=NORMAL.shape))
    assert ["length" in told for told in doubts(NORMAL.tolist(), lengths).warnings] == [True]
    assert doubts(NORMAL.tolist(), [-one for one in lengths]).warnings == ()


def test_an_audit_counts_the_pairs_that_are_ordered_rightly() -> None:
    """Four pairs: right, wrong, a tie of the judge (half), a tie of the reward (half): 2 of 4."""
    found = doubts([[0.0, 1.0]], None, np.array([1.0, 1.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.5, 1.0]))
    assert found.right == pytest.approx(0.5)
    assert "orders only 50% of audited pairs" in found.warnings[-1]
    assert doubts([[0.0, 1.0]], None, np.array([2.0, -1.0]), np.array([1.0, 0.0])).right == 1.0


def test_what_is_not_known_raises_no_doubt() -> None:
    found = doubts([[None, 1.0], [], [2.0, 2.0]])
    assert found.warnings == ()
    assert math.isnan(found.skew)


def test_a_round_tells_its_doubts(tmp_path: Path) -> None:
    """Written beside the round's figures, and read back for the page by source."""
    rewards = {"plain": NORMAL, "steep": np.exp(2 * NORMAL)}
    rows = [
        {
            "prompt_id": f"{number:04d}",
            "reward_values": [{"name": name, "values": values[number].tolist()} for name, values in rewards.items()],
            "response_lengths": [int(length) for length in RNG.integers(1, 9, 8)],
            "dispersion": 0.5,
        }
        for number in range(len(NORMAL))
    ]
    table = pa.Table.from_pylist(rows, schema=ANNOTATED)
    assert doubts_of_table(table)["plain"] == ()
    config = build({"output": str(tmp_path), "policy": {"path": "nowhere"}, "prompts": {"path": "nowhere"}})
    place = RunFolder(config).stage(0, INPUTS)
    assert doubted(place) == []
    warned = write_inputs(place, table, config)
    assert warned[0].startswith("reward 'steep': rewards are skewed (")
    assert warned == doubted(place)
    assert not any("plain" in one for one in warned)
    told = [value for label, value in inputs(place) if label == "doubt: steep"]
    assert any("skewed" in one for one in told)
    assert not any(label == "doubt: plain" for label, _ in inputs(place))
    assert histogram(place)[10] == len(NORMAL)  # all sets have a dispersion of 0.5: the bin from 0.50 to 0.55 of 20
