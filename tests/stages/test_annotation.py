"""Scales that the first round fits and every later one takes as they are."""

from __future__ import annotations

import json
from math import log, sqrt
from pathlib import Path

import pyarrow as pa
import pytest
from tiny import annotated, run_config

from raypo.errors import DataError
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


def with_dispersion(*known: float | None) -> pa.Table:
    """Sets of two responses whose source rows had a column `dispersion`, as far as it was known."""
    rows = [
        row | {"metadata": json.dumps({} if d is None else {"dispersion": d})}
        for row, d in zip(judged(*[1.0] * len(known)).to_pylist(), known, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=ANNOTATED).drop_columns(list(FINISHED))


def test_a_dispersion_that_is_given_becomes_psi_without_a_scale(tmp_path: Path) -> None:
    """-ln 1/2 = ln 2 and -ln 1/4 = 2 ln 2, of mean 1.5 ln 2 and not 1. 1 is clamped to .999, 1e-9 to 1e-3.

    A frozen scale is 1 in every round, whatever comes: ln 8 is ln 8.
    """
    config = run_config("policy", tmp_path, dispersion={"estimator": "given"})
    first, facts = finish_annotation(with_dispersion(0.5, 0.25), config, scales=None, vocabulary=10)
    assert first["dispersion"].to_pylist() == [0.5, 0.25]
    assert first["psi"].to_pylist() == [log(2), log(4)]
    assert (facts["scales"]["psi"], facts["scales"]["spread"]) == (1.0, 1.0)
    assert facts["psi_mean"] == pytest.approx(1.5 * log(2))
    second, later = finish_annotation(with_dispersion(1, 1e-9, 0.125), config, scales=facts["scales"], vocabulary=10)
    assert second["psi"].to_pylist() == pytest.approx([-log(0.999), log(1000), log(8)])
    assert later["scales"] == facts["scales"]


def test_given_dispersions_are_exchanged_among_prompts_for_the_control(tmp_path: Path) -> None:
    """The same four psi, of other prompts."""
    config = run_config("policy", tmp_path, dispersion={"estimator": "given", "shuffle": True})
    table, _ = finish_annotation(with_dispersion(0.5, 0.25, 0.125, 0.0625), config, scales=None, vocabulary=10)
    assert table["dispersion"].to_pylist() == [0.5, 0.25, 0.125, 0.0625]
    psi = table["psi"].to_pylist()
    assert psi != sorted(psi)
    assert sorted(psi) == pytest.approx([log(2), log(4), log(8), log(16)])


def test_a_row_without_its_known_dispersion_ends_the_annotation(tmp_path: Path) -> None:
    """No estimate stands in for it."""
    config = run_config("policy", tmp_path, dispersion={"estimator": "given"})
    with pytest.raises(DataError, match=r"1 of 2 rows have no known dispersion; .* has no column 'dispersion'"):
        finish_annotation(with_dispersion(0.5, None), config, scales=None, vocabulary=10)
