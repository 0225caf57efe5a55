"""Ties, skew, agreement and calibration of rewards; where probability went: literals and known truths."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from scipy.special import expit

from raypo.config import build
from raypo.evaluation.inputs import agreement, audited, calibration, describe, describe_table, skew
from raypo.evaluation.likelihood import SATURATED, likelihoods
from raypo.records import ANNOTATED

NAN = math.nan
OPTIONS = {"confidence": 0.95, "samples": 200}


def test_inputs_are_described_by_source() -> None:
    """Prompts (1 1 2), (3 3 3): ties (1/3 + 1) / 2 = 2/3, no preference in one of two."""
    rewards = {"a": [[1.0, 1.0, 2.0], [3.0, 3.0, 3.0]], "b": [[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]]}
    found = describe(rewards, [0.02, 0.03, 0.99, 1.0], **OPTIONS)
    assert found.tie_rate["a"].mean == pytest.approx(2 / 3)
    assert found.no_preference["a"].mean == 0.5
    assert found.no_preference["b"].mean == 0.0
    assert found.dispersion_histogram == [2, *[0] * 18, 2]
    # a's first prompt against b's: tau-b = 2 / sqrt(2 * 3); its second tells nothing apart
    assert found.agreement["a ~ b"].mean == pytest.approx(2 / math.sqrt(6))
    assert found.agreement["a ~ b"].n == 1
    assert set(found.to_dict()) == {"tie_rate", "no_preference", "skew", "agreement", "dispersion_histogram"}


def test_an_annotated_table_is_described_by_its_sources() -> None:
    """Two prompts, two sources, dispersion 0.5 and 0.99: bins 10 and 19 of 20."""
    rows = [
        {
            "prompt_id": str(number),
            "reward_values": [{"name": "a", "values": [1.0, 2.0]}, {"name": "b", "values": [2.0, None]}],
            "dispersion": dispersion,
        }
        for number, dispersion in enumerate((0.5, 0.99))
    ]
    found = describe_table(
        pa.Table.from_pylist(rows, schema=ANNOTATED),
        build({"policy": {"path": "nowhere"}, "prompts": {"path": "nowhere"}}),
    )
    assert found.tie_rate["a"].mean == 0.0
    assert found.tie_rate["b"].n == 0
    assert [number for number, count in enumerate(found.dispersion_histogram) if count] == [10, 19]


def test_skew_is_within_prompts() -> None:
    """0 0 3 less its mean is -1 -1 2: third moment (-1 - 1 + 8) / 3 = 2, variance 2: 2 / 2^1.5 = 0.7071.

    The prompts' own levels do not count; mirrored rewards have the opposite skew.
    """
    assert skew([[0.0, 0.0, 3.0], [100.0, 100.0, 103.0]], **OPTIONS).mean == pytest.approx(math.sqrt(0.5))
    assert skew([[0.0, 0.0, -3.0]], **OPTIONS).mean == pytest.approx(-math.sqrt(0.5))
    assert math.isnan(skew([[1.0, 1.0], [2.0]], **OPTIONS).mean)


def test_agreement_is_per_prompt() -> None:
    """1 2 3 against 1 3 2: two pairs agree, one does not: 1 / 3. Unknown rewards leave the comparison."""
    found = agreement([[1.0, 2.0, 3.0], [1.0, None, 2.0], [1.0, 2.0]], [[1.0, 3.0, 2.0], [5.0, 1.0, 6.0], [NAN, 1.0]])
    assert found[:2] == pytest.approx([1 / 3, 1.0])
    assert math.isnan(found[2])


@pytest.mark.parametrize("stretch", [0.5, 1.0, 3.0])
def test_a_reward_that_is_log_odds_stretched_has_the_slope_that_undoes_it(stretch: float) -> None:
    """Verdicts are drawn with log-odds d; the reward says stretch * d: the slope is 1 / stretch."""
    rng = np.random.default_rng(0)
    odds = rng.normal(size=20_000)
    verdict = (rng.random(20_000) < expit(odds)).astype(float)
    found = calibration(stretch * odds, verdict)
    assert found.slope == pytest.approx(1 / stretch, rel=0.06)
    assert (found.error < 0.02) == (stretch == 1.0)


def test_calibration_by_hand() -> None:
    """Differences 0 (verdict 1/2) and ln 3 (verdict 0): told 1/2 and 3/4. Errors 0 and 3/4: their mean 3/8; squares
    0 and 9/16: 9/32."""
    found = calibration(np.array([0.0, math.log(3), NAN]), np.array([0.5, 0.0, 1.0]))
    assert (found.error, found.brier, found.pairs) == (pytest.approx(3 / 8), pytest.approx(9 / 32), 2)
    assert math.isnan(calibration(np.array([0.0, 0.0]), np.array([1.0, 0.0])).slope)


def test_an_audit_by_hand() -> None:
    """Two sets. The first is known as 2 > 1 > 0 and rewarded 1, 3, 3: pairs (a, b) wrong, (a, c) wrong, (b, c) a tie:
    0 + 0 + 1/2 of 3. The second is known as 1 > 0 = 0, rewarded 5, 1 and unknown: (a, b) right, the rest left out.
    Mean over sets (1/6 + 1) / 2 = 7/12. Differences -2, -2, 0 and 4, each known as 1.
    """
    found = audited([[1.0, 3.0, 3.0], [5.0, 1.0, None]], [[2, 1, 0], [1, 0, 0]], confidence=0.95, samples=50)
    assert found.right.mean == pytest.approx(7 / 12)
    assert (found.right.n, found.pairs, found.calibration.pairs) == (2, 4, 4)
    assert found.difference.tolist() == [-2.0, -2.0, 0.0, 4.0]
    assert found.verdict.tolist() == [1.0, 1.0, 1.0, 1.0]
    turned = audited([[3.0, 3.0, 1.0], [None, 1.0, 5.0]], [[0, 1, 2], [0, 0, 1]], confidence=0.95, samples=50)
    assert turned.calibration.error == pytest.approx(found.calibration.error)
    assert turned.calibration.slope == pytest.approx(found.calibration.slope)
    none = audited([[1.0, 2.0]], [[1, 1]], confidence=0.95, samples=50)
    assert none.pairs == 0
    assert math.isnan(none.right.mean)


def test_an_audit_of_chosen_before_rejected_is_calibrated_all_the_same() -> None:
    """Known pairs come with the better one first: verdict 1 always. Differences that are log-odds still are."""
    rng = np.random.default_rng(1)
    odds = rng.normal(size=20_000)
    better = np.where(rng.random(20_000) < expit(odds), odds, -odds)
    found = audited([[float(d), 0.0] for d in better], [[1.0, 0.0]] * 20_000, confidence=0.95, samples=10)
    assert found.calibration.slope == pytest.approx(1.0, rel=0.06)
    assert found.calibration.error < 0.02


def test_where_probability_went() -> None:
    """Best is the second, worst the first: log-ratios 3 - 5 = -2 and 1 - 4 = -3, margin 1. With beta 5 it is 5 > 4.

    A prompt with equal rewards, and one with a single known reward, tell nothing.
    """
    rewards = [[0.0, 2.0, 1.0], [1.0, 1.0], [1.0, None]]
    policy, start = [[1.0, 3.0, 9.0], [0.0, 0.0], [0.0, 0.0]], [[4.0, 5.0, 9.0], [0.0, 0.0], [0.0, 0.0]]
    found = likelihoods(rewards, policy, start, beta=5.0)
    assert (found.chosen[0], found.rejected[0], found.saturated[0]) == (-2.0, -3.0, 1.0)
    assert np.isnan(found.chosen[1:]).all()
    assert likelihoods(rewards, policy, start, beta=4.0).saturated[0] == 0.0  # exactly at the bound
    assert expit(-SATURATED) == pytest.approx(0.018, abs=1e-4)
