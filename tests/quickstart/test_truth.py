"""Estimators of dispersion against the truth, on tables whose numbers are made by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raypo.quickstart import truth
from raypo.quickstart.demonstration import make_config
from raypo.quickstart.language import all_prompts

VOCABULARY = 154


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """The comparison on a table of sixteen prompts a class, with two responses of ten tokens each.

    Rewards are 1 apart where readers agree and 0.1 where not; responses have 5 nats in plain styles and 9 in fancy
    ones; each number with noise of 1 %.
    """
    spreads, nats = {"low": 1.0, "high": 0.1}, {"low": 5.0, "high": 9.0}
    by_class: dict[tuple[str, str], list[str]] = {}
    for prompt in all_prompts():
        by_class.setdefault((prompt.entropy, prompt.dispersion), []).append(prompt.text)
    rng, rows = np.random.default_rng(0), []
    for (entropy, dispersion), texts in by_class.items():
        for text, noise in zip(texts[:16], rng.uniform(0.99, 1.01, 16), strict=True):
            rows.append(
                {
                    "prompt": text,
                    "rewards": [0.0, spreads[dispersion] * noise],
                    "usable": [True, True],
                    "reference_logps": [-nats[entropy] * noise] * 2,
                    "reference_entropies": [nats[entropy] * noise] * 2,
                    "response_lengths": [10, 10],
                }
            )
    return truth.compare(pa.Table.from_pylist(rows), make_config(Path("unused"), seed=0), VOCABULARY)


def test_an_estimator_that_sees_dispersion_reaches_the_ceiling_and_entropy_stays_at_chance(
    found: dict[str, Any],
) -> None:
    """Truth has two values, half each: a perfect ranking of 64 prompts has Spearman sqrt(3) / 2 = .866.

    Entropy is independent of dispersion, so its correlation is 0 up to what 64 prompts leave to chance.
    """
    by_name = {one["name"]: one for one in found["estimators"]}
    assert found["prompts"] == 64
    assert found["used"] == "reward_spread"
    assert found["ceiling"] == pytest.approx(math.sqrt(3) / 2, abs=1e-3)
    assert by_name["reward_spread"]["correlation"]["mean"] == pytest.approx(found["ceiling"], abs=0.002)
    for name in ("reference_entropy", "likelihood"):
        told = by_name[name]["correlation"]
        assert told["low"] < 0 < told["high"]
    chance = by_name["reward_spread"]["shuffled"]
    assert chance["low"] < chance["mean"] < chance["high"] < 0.4
    assert chance["mean"] == pytest.approx(0.0, abs=0.03)  # 500 shuffles, each of sd 1 / sqrt(63): 5 sigma of the mean


def test_each_class_is_told_with_its_truth_and_its_mean_estimate(found: dict[str, Any]) -> None:
    """reference_entropy: nats / 10 tokens / ln 154 (5.0370): 5 -> .0993, 9 -> .1787; truth exp(-2), exp(-.2)."""
    published = found["estimators"][1]
    classes = {(one["entropy"], one["dispersion"]): one for one in published["classes"]}
    assert published["name"] == "reference_entropy"
    assert [one["prompts"] for one in published["classes"]] == [16] * 4
    assert classes["low", "high"]["estimate"] == pytest.approx(0.0993, abs=0.001)
    assert classes["high", "low"]["estimate"] == pytest.approx(0.1787, abs=0.001)
    assert classes["low", "low"]["truth"] == pytest.approx(0.135335, abs=1e-6)
    assert classes["high", "high"]["truth"] == pytest.approx(0.818731, abs=1e-6)
    assert classes["low", "low"]["entropy_nats"] == classes["low", "high"]["entropy_nats"]


def test_the_comparison_is_told_in_one_line_an_estimator(found: dict[str, Any]) -> None:
    """The line of the estimator that trained says so."""
    lines = truth.lines(found)
    assert [line.split()[0] for line in lines[1:]] == list(truth.ESTIMATORS)
    assert ["used by this run" in line for line in lines[1:]] == [True, False, False]
