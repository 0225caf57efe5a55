"""An evaluation of small tables, figure by figure, and each warning with a case that earns it."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raypo.config import RunConfig, build
from raypo.evaluation.diagnostics import doublings, engine_gap, evaluate, reward_duel
from raypo.records import SCORED


def config(**changes: Any) -> RunConfig:
    return build(
        {
            "policy": {"path": "nowhere"},
            "prompts": {"path": "nowhere"},
            "evaluation": {"num_responses": 2, "bootstrap_samples": 200},
        }
        | changes
    )


def scored(rewards: list[list[float | None]], ids: list[list[list[int]]], reasons: str = "stop") -> pa.Table:
    """Rows of records.SCORED with the given rewards and responses."""
    rows = [
        {
            "prompt_id": f"{number:04d}",
            "response_token_ids": tokens,
            "finish_reasons": [reasons] * len(tokens),
            "engine_logps": [-1.0] * len(tokens),
            "rewards": row,
            "reward_values": [{"name": "watched", "values": [None if v is None else 10 * v for v in row]}],
        }
        for number, (row, tokens) in enumerate(zip(rewards, ids, strict=True))
    ]
    return pa.Table.from_pylist(rows, schema=SCORED)


def measured(table: pa.Table, kl: float = 0.5, entropy: float = 2.0, logp: float = -1.0) -> pa.Table:
    widths = [len(row) for row in table["response_token_ids"].to_pylist()]
    values = {"kl": kl, "policy_entropies": entropy, "policy_logps": logp}
    return pa.table({name: [[value] * width for width in widths] for name, value in values.items()})


START = scored([[1.0, 0.0], [2.0, 2.0], [0.0, 1.0]], [[[1, 2, 3], [4, 5]], [[6, 7], [8, 9]], [[10, 11], [12, 13]]])
LATER = scored(
    [[2.0, None], [2.0, 4.0], [1.0, 1.0]], [[[1, 2, 3, 4], [4, 5]], [[6, 7], [8, 9, 1]], [[10, 11, 2], [3, 13]]]
)


def test_every_figure_of_a_small_evaluation() -> None:
    """Prompt means 2, 3, 1 against 0.5, 2, 0.5: gains 1.5, 1, 0.5.

    Wins: 2 against 1, 0: 1; (2, 4) against (2, 2): (0.5 + 0.5 + 1 + 1) / 4 = 3/4; (1, 1) against (0, 1): 3/4.
    Tokens 6, 5, 5 of 6 responses; entropy 2 nats per response: 12 / 16. Ties: the last prompt's only pair, of two.
    """
    found = evaluate(LATER, START, measured(LATER, logp=-2.6), config())
    assert found.reward.mean == pytest.approx(2.0)
    assert found.reward_gain.mean == pytest.approx(1.0)
    assert found.reward_gain_p == pytest.approx(2 / 8)  # of 8 sign patterns two are as extreme
    assert found.reward_win_rate.mean == pytest.approx((1 + 0.75 + 0.75) / 3)
    assert found.reward_by_source["watched"].mean == pytest.approx(20.0)
    assert found.kl_per_response.mean == 0.5
    assert found.entropy_per_token.mean == pytest.approx(12 / 16)
    assert found.engine_gap == pytest.approx(6 * 1.6 / 16)
    assert found.length.mean == pytest.approx((3 + 2.5 + 2.5) / 3)
    assert found.tie_rate.mean == pytest.approx(1 / 2)
    assert found.best_of_n["1"].mean == pytest.approx(2.0)
    assert found.best_of_n["2"].mean == pytest.approx((4 + 1) / 2)  # the first prompt has one reward
    assert (found.truncated.mean, found.truncated.low) == (0.0, 0.0)
    assert found.truncated.high == pytest.approx(1 - 0.025 ** (1 / 3))  # none of three prompts
    assert found.reward_win_rate_p == pytest.approx(2 / 8)
    assert math.isnan(found.reward_win_rate_detectable)  # three prompts: no test finds anything
    assert found.reward_win_rate_controlled_p == pytest.approx(2 / 8)
    assert found.chosen_shift is None
    assert 0.5 < found.reward_win_rate_controlled.mean < 1
    json.dumps(found.to_dict())


def test_a_version_against_itself_gains_nothing_and_wins_half() -> None:
    found = evaluate(START, START, measured(START), config())
    assert (found.reward_gain.mean, found.reward_gain_p) == (0.0, 1.0)
    assert found.reward_win_rate.mean == 0.5
    assert found.reward_win_rate_controlled.mean == pytest.approx(0.5)
    assert (found.reward_win_rate_p, found.reward_win_rate_controlled_p) == (1.0, 1.0)
    assert found.warnings == []


def test_what_was_cut_off_has_an_interval_over_prompts() -> None:
    """Both responses of every second of 24 prompts: 1/2 -+ about 2.07 * 0.511 / sqrt(24) = 0.216."""
    table = synthetic([[5, 5]] * PROMPTS, [[0.0, 1.0]] * PROMPTS)
    reasons = pa.array([["length" if n % 2 else "stop"] * 2 for n in range(PROMPTS)], table["finish_reasons"].type)
    cut = table.set_column(table.column_names.index("finish_reasons"), "finish_reasons", reasons)
    found = evaluate(cut, table, measured(table), config()).truncated
    assert (found.mean, found.n) == (0.5, PROMPTS)
    assert 0.5 - found.low == pytest.approx(0.216, abs=0.06)
    assert found.high - 0.5 == pytest.approx(0.216, abs=0.06)


def test_pairs_of_a_duel_are_those_of_the_same_seed() -> None:
    """2 > 1; None; 2 = 2; 4 > 2; 1 > 0; 1 = 1. Lengths: 4 - 3, 2 - 2, 0, 1, 1, 0."""
    duel = reward_duel(LATER, START)
    assert duel.prompt.tolist() == [0, 0, 1, 1, 2, 2]
    assert duel.preference[[0, 2, 3, 4, 5]].tolist() == [1.0, 0.5, 1.0, 1.0, 0.5]
    assert math.isnan(duel.preference[1])
    assert duel.longer.tolist() == [1.0, 0.0, 0.0, 1.0, 1.0, 0.0]


def test_the_engine_gap_is_over_the_responses_that_an_engine_drew() -> None:
    """|-1 + 3| + |-2 + 2| over 4 tokens; without any it is not known."""
    assert engine_gap([[-1.0, None], [-2.0]], [[-3.0, -9.0], [-2.0]], 4.0) == 0.5
    assert math.isnan(engine_gap([[None]], [[-1.0]], 4.0))


def test_the_curve_of_n_doubles_up_to_all() -> None:
    assert [doublings(most) for most in (1, 2, 6, 8)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8]]


PROMPTS = 24


def synthetic(lengths: list[list[int]], rewards: list[list[float]], seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    return scored(rewards, [[rng.integers(0, 50, n).tolist() for n in row] for row in lengths])


def test_length_hacking_is_told() -> None:
    """Reward is length and noise, and the policy writes longer: at equal length nothing of the win rate is left."""
    rng = np.random.default_rng(0)
    short, long = rng.integers(4, 24, (60, 2)).tolist(), rng.integers(8, 28, (60, 2)).tolist()
    start, later = (synthetic(rows, [[n + rng.normal() for n in row] for row in rows]) for rows in (short, long))
    told = " ".join(evaluate(later, start, measured(later), config()).warnings)
    assert "reward follows length (rank correlation 0.9" in told
    assert "may be won by length" in told


def test_collapse_is_told() -> None:
    """The start says 5 random tokens of 50, the policy always the same."""
    rewards = [[0.0, 1.0]] * PROMPTS
    start = synthetic([[5, 5]] * PROMPTS, rewards)
    later = scored(rewards, [[[1, 2, 3, 4, 5]] * 2] * PROMPTS)
    found = evaluate(later, start, measured(later), config())
    assert any("became alike" in text for text in found.warnings)
    assert found.self_similarity.mean == pytest.approx(1.0)
    assert found.distinct_within["2"].mean == 0.5


def moved(chosen: float, rejected: float) -> pa.Table:
    """Log-probs of the start's responses: the second is always the best."""
    return pa.table(
        {
            "policy_logps": [[rejected + 0.01 * n, chosen + 0.01 * n] for n in range(PROMPTS)],
            "reference_logps": [[0.0, 0.0]] * PROMPTS,
        }
    )


@pytest.mark.parametrize(
    ("chosen", "rejected", "told"),
    [(-2.0, -5.0, "likelihood displacement"), (30.0, -30.0, "margins are saturated"), (1.0, -1.0, None)],
)
def test_displacement_and_saturation_are_told(chosen: float, rejected: float, told: str | None) -> None:
    """beta is 0.1: a margin of 60 nats is 6 > 4, one of 3 or 2 is not."""
    table = synthetic([[5, 5]] * PROMPTS, [[0.0, 1.0]] * PROMPTS)
    found = evaluate(table, table, measured(table), config(), moved(chosen, rejected))
    assert found.chosen_shift is not None
    assert found.chosen_shift.mean == pytest.approx(chosen + 0.115)  # mean of 0.01 n over 24
    assert found.rejected_shift is not None
    assert found.rejected_shift.mean == pytest.approx(rejected + 0.115)
    assert [told] * bool(told) == [text[: len(told or "")] for text in found.warnings]


def test_a_bound_that_is_passed_and_unfinished_text_are_told() -> None:
    table = scored([[0.0, 1.0]] * 3, [[[1, 2], [3, 4]]] * 3, reasons="length")
    found = evaluate(table, table, measured(table, kl=5.0), config(online={"kl_bound": 2.0}))
    assert found.truncated.mean == 1.0
    assert any("above the bound of 2" in text for text in found.warnings)
    assert any("100% of responses met the length limit" in text for text in found.warnings)
