"""Scales that the first round fits and every later one takes as they are."""

from __future__ import annotations

from math import log, sqrt
from pathlib import Path

import pyarrow as pa
import pytest
from tiny import annotated, run_config

from raypo.records import ANNOTATED
from raypo.stages.annotation import finish_annotation
from raypo.tuning.shared import FINISHED


def judged(*spans: float) -> pa.Table:
    """Sets of two responses, rewarded by plus and minus a span, as the reference has left them."""
    rows = annotated(len(spans), responses=2, round_index=0).to_pylist()
    rows = [row | {"rewards": [span, -span]} for row, span in zip(rows, spans, strict=True)]
    return pa.Table.from_pylist(rows, schema=ANNOTATED).drop_columns(list(FINISHED))


def test_a_round_whose_rewards_all_lie_closer_is_believed_less_by_the_frozen_spread(tmp_path: Path) -> None:
    """Spans 1 and 3: rewards of scale sqrt((1 + 9) / 2) and average spread 2; d = 1 / (1 + 1/2) and 1 / (1 + 3/2), so
    c = 2 / (ln 1.5 + ln 2.5), and mean psi is 1.

    Halved: d = 1 / 1.25 and 1 / 1.75 beside the frozen 2, so mean psi is (ln 1.25 + ln 1.75) / (ln 1.5 + ln 2.5) =
    0.592; beside their own average the second round would look as the first.
    """
    config = run_config("policy", tmp_path, dispersion={"estimator": "reward_spread"})
    first, facts = finish_annotation(judged(1.0, 3.0), config, scales=None, vocabulary=10)
    assert facts["scales"] == pytest.approx({"reward": sqrt(5), "psi": 2 / (log(1.5) + log(2.5)), "spread": 2.0})
    assert first["dispersion"].to_pylist() == pytest.approx([1 / 1.5, 1 / 2.5])
    assert facts["psi_mean"] == pytest.approx(1.0)
    second, later = finish_annotation(judged(0.5, 1.5), config, scales=facts["scales"], vocabulary=10)
    assert later["scales"] == facts["scales"]
    assert second["dispersion"].to_pylist() == pytest.approx([1 / 1.25, 1 / 1.75])
    assert later["psi_mean"] == pytest.approx((log(1.25) + log(1.75)) / (log(1.5) + log(2.5)))


def test_another_estimator_reads_no_spread(tmp_path: Path) -> None:
    """Its scale is 1; entropy of 1 nat a response over its tokens, of ln 10, does not move with the rewards."""
    config = run_config("policy", tmp_path, dispersion={"estimator": "reference_entropy"})
    first, facts = finish_annotation(judged(1.0, 3.0), config, scales=None, vocabulary=10)
    second, _ = finish_annotation(judged(0.5, 1.5), config, scales=facts["scales"], vocabulary=10)
    assert facts["scales"]["spread"] == 1.0
    assert first["psi"].to_pylist() == second["psi"].to_pylist()
