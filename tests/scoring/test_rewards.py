"""raypo.scoring.rewards: several sources, one reward, and what cannot be used is marked and counted."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypo.config import FunctionReward, HttpReward, ModelReward, ScoringConfig
from raypo.errors import RewardError
from raypo.records import SAMPLED, SCORED
from raypo.scoring.rewards import (
    Scorer,
    combine,
    count_scores,
    finish_scores,
    reward_spread,
    score_given,
    trainability,
    unusable_reasons,
)

NAN = math.nan
KEEP = ScoringConfig(truncated="keep")


def by_path(name: str, **changes: Any) -> FunctionReward:
    """A function source by name; what it calls is put in its place by the test."""
    return FunctionReward(**{"name": name, "path": f"builtins:{name}"} | changes)


def length(prompts: list[str], responses: list[str], metadata: list[dict[str, Any]]) -> list[float]:
    """Characters of the response."""
    return [float(len(text)) for text in responses]


def bonus(prompts: list[str], responses: list[str], metadata: list[dict[str, Any]]) -> list[float]:
    """What the metadata says."""
    return [one["bonus"] for one in metadata]


def sampled(rows: list[list[str]], finish: list[list[str]] | None = None, **columns: Any) -> pa.Table:
    """Rows of records.SAMPLED; a response's tokens are its characters and the end, 0."""
    finish = [["stop"] * len(row) for row in rows] if finish is None else finish
    given_columns = {
        "prompt_id": [f"{i:016x}" for i in range(len(rows))],
        "prompt": [f"prompt {i}" for i in range(len(rows))],
        "prompt_token_ids": [[1, 2]] * len(rows),
        "metadata": ['{"bonus": 5}'] * len(rows),
        "round": [0] * len(rows),
        "weight_version": [0] * len(rows),
        "seed": [0] * len(rows),
        "sampling": ["{}"] * len(rows),
        "responses": rows,
        "response_token_ids": [[[*map(ord, text), 0] for text in row] for row in rows],
        "finish_reasons": finish,
        "engine_logps": [[-1.0] * len(row) for row in rows],
    }
    return pa.Table.from_pydict(given_columns | columns, schema=SAMPLED)


def column(table: pa.Table, name: str) -> list[Any]:
    """A column with NaN as None, so that lists can be compared."""
    return [
        [None if isinstance(v, float) and math.isnan(v) else v for v in row] if isinstance(row, list) else row
        for row in table[name].to_pylist()
    ]


def test_sources_are_divided_by_their_scale_and_weighted() -> None:
    """The text "abcd": 0.5 * 4 / 8 + 2 * 5 / 10 = 1.25; "ab": 0.5 * 2 / 8 + 1 = 1.125. Weight 0 adds nothing."""
    sources = [
        by_path("len", weight=0.5, scale=8.0),
        by_path("sum", weight=2.0, scale=10.0),
        by_path("max", weight=0.0, scale=0.1),
    ]
    scorer = Scorer(sources, KEEP, models={"len": length, "sum": bonus, "max": length})
    scored = scorer(sampled([["abcd", "ab"]]))
    assert scored.schema == SCORED
    assert scored["rewards"].to_pylist() == [[1.25, 1.125]]
    assert scored["reward_values"].to_pylist() == [
        [
            {"name": "len", "values": [4.0, 2.0]},
            {"name": "sum", "values": [5.0, 5.0]},
            {"name": "max", "values": [4.0, 2.0]},
        ]
    ]


def test_a_watched_source_may_fail_without_costing_a_response() -> None:
    """Weight 0 never enters the reward, not even as 0 * NaN."""
    assert combine({"a": [1.0, 2.0], "b": [None, 3.0]}, {"a": 1.0, "b": 0.0}) == [1.0, 2.0]


def test_a_trained_source_that_fails_fails_the_response() -> None:
    """Both must have a value; a sum beyond the largest float is none either."""
    rewards = combine({"a": [1.0, 2.0, 1e308], "b": [None, 3.0, 1e308]}, {"a": 1.0, "b": 1.0})
    assert [rewards[1], *map(math.isnan, rewards)] == [5.0, True, False, True]


def test_what_cannot_be_scored_is_marked_and_its_neighbours_are_not() -> None:
    """NaN, infinity and None; the set trains on the two that remain."""
    values = {"r": [1.0, None, 2.0, None]}
    scored = finish_scores(sampled([["a", "b", "c", "d"]]), values, {"r": 1.0}, KEEP)
    assert column(scored, "rewards") == [[1.0, None, 2.0, None]]
    assert scored["unusable_reason"].to_pylist() == [["", "reward_failed", "", "reward_failed"]]
    assert trainability(scored["rewards"][0].as_py(), scored["usable"][0].as_py(), 0.0) == (True, "")


def test_nan_from_a_function_everywhere_leaves_no_set_that_trains() -> None:
    """All are marked; who counts them can say that the reward is broken."""
    scorer = Scorer([by_path("len")], KEEP, models={"len": lambda p, r, m: [NAN] * len(r)})
    counts = count_scores(scorer(sampled([["a", "b"], ["c", "d"]])))
    assert (counts.usable, counts.unusable, counts.failed) == (0, {"reward_failed": 4}, {"len": 4})


def test_equal_token_ids_train_once_and_equal_texts_of_other_ids_twice() -> None:
    """The first of equals may train. Its reward stays known: an average over draws needs every draw."""
    table = sampled([["a", "a", "b"]], response_token_ids=[[[7, 0], [7, 0], [8, 0]]])
    scored = finish_scores(table, {"r": [1.0, 1.0, 2.0]}, {"r": 1.0}, KEEP)
    assert scored["unusable_reason"].to_pylist() == [["", "duplicate", ""]]
    assert scored["rewards"].to_pylist() == [[1.0, 1.0, 2.0]]
    assert unusable_reasons([[7, 0], [7, 1]], ["stop"] * 2, [1.0, 1.0], drop_truncated=False) == ["", ""]


def test_a_duplicate_of_a_response_that_failed_may_train() -> None:
    """A server may answer for the second of two equal responses only."""
    reasons = unusable_reasons([[7], [7], [7]], ["stop"] * 3, [NAN, 1.0, 1.0], drop_truncated=False)
    assert reasons == ["reward_failed", "", "duplicate"]


def test_a_response_of_no_token_is_empty_and_one_of_the_end_alone_is_not() -> None:
    """The end is a token that can be trained."""
    assert unusable_reasons([[], [0]], ["stop"] * 2, [1.0, 1.0], drop_truncated=False) == ["empty", ""]


@pytest.mark.parametrize(
    ("truncated", "rewards", "reasons"),
    [
        ("keep", [1.0, 2.0], ["", ""]),
        ("drop", [1.0, 2.0], ["", "truncated"]),
        ("penalty", [1.0, 0.5], ["", ""]),  # 2 - 1.5
    ],
)
def test_truncated_responses_are_kept_dropped_or_penalised(
    truncated: Any, rewards: list[float], reasons: list[str]
) -> None:
    """The second one met the limit; its source's own value is never changed."""
    config = ScoringConfig(truncated=truncated, truncation_penalty=1.5)
    table = sampled([["a", "b"]], [["stop", "length"]])
    scored = finish_scores(table, {"r": [1.0, 2.0]}, {"r": 1.0}, config)
    assert scored["rewards"].to_pylist() == [rewards]
    assert scored["unusable_reason"].to_pylist() == [reasons]
    assert scored["reward_values"][0].as_py() == [{"name": "r", "values": [1.0, 2.0]}]


def test_given_rewards_take_the_same_way() -> None:
    """Null and NaN are marked; the source is called "given"."""
    table = sampled([["a", "b", "c", "d"]]).append_column("rewards", pa.array([[1.0, None, NAN, 3.0]]))
    scored = score_given(table, KEEP)
    assert scored.schema == SCORED
    assert column(scored, "rewards") == [[1.0, None, None, 3.0]]
    assert scored["reward_values"][0].as_py()[0]["name"] == "given"
    assert scored["usable"].to_pylist() == [[True, False, False, True]]


VALUES = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True), st.sampled_from([0.0, 1.0]))
TEXTS = st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=5), min_size=1, max_size=6)


@settings(deadline=None)  # other work on the machine must not fail a test
@given(rows=TEXTS, data=st.data())
def test_rows_and_responses_are_conserved_in_any_order(rows: list[list[str]], data: st.DataObject) -> None:
    """Invariants 7 and 11: one row out per row in; usable + unusable = all; a permuted table gives permuted rows."""
    known = {"a": data.draw(VALUES), "b": data.draw(VALUES), "c": data.draw(VALUES)}
    scorer = Scorer([by_path("len")], KEEP, models={"len": lambda p, r, m: [known[text] for text in r]})
    table = sampled(rows)
    scored = scorer(table)
    counts = count_scores(scored)
    assert scored.select(SAMPLED.names).equals(table)
    assert (counts.rows, counts.responses) == (len(rows), sum(map(len, rows)))
    assert counts.usable + sum(counts.unusable.values()) == counts.responses
    assert counts.usable == sum(
        len({t for t in row if known[t] is not None and math.isfinite(known[t])}) for row in rows
    )
    order = pa.array(data.draw(st.permutations(range(len(rows)))))
    for name in SCORED.names:
        assert column(scorer(table.take(order)), name) == column(scored.take(order), name)
    alone = pa.concat_tables([scorer(table.slice(i, 1)) for i in range(len(rows))])
    assert column(alone, "rewards") == column(scored, "rewards")


def test_an_empty_table_is_scored_to_an_empty_table_without_a_call() -> None:
    """No source is asked for nothing."""
    scorer = Scorer([by_path("len")], KEEP, models={"len": lambda p, r, m: 1 / 0})  # type: ignore[arg-type]
    assert scorer(sampled([])).equals(pa.Table.from_pylist([], schema=SCORED))


def test_no_weighted_source_is_refused() -> None:
    """Watched sources alone train nothing."""
    with pytest.raises(RewardError, match="no reward source has a weight"):
        Scorer([by_path("len", weight=0.0)], KEEP)


def test_sources_are_made_from_their_configs_unless_they_live_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function and a server are made; the model is the one that was handed in."""
    from raypo.scoring.function import RewardFunction
    from raypo.scoring.http import HttpReward as Client

    server = HttpReward(type="http", name="h", url="http://x")
    sources = [by_path("len"), server, ModelReward(type="model", name="m", path="x")]
    made = Scorer(sources, KEEP, models={"m": length})._sources
    assert [type(made["len"]), type(made["h"]), made["m"]] == [RewardFunction, Client, length]


@pytest.mark.parametrize(
    ("rewards", "usable", "least", "expected"),
    [
        ([1.0, 2.0], [True, True], 0.0, (True, "")),
        ([1.0, 1.0, 1.0], [True] * 3, 0.0, (False, "ties")),
        ([1.0, 2.0], [True, True], 1.0, (False, "ties")),  # spans this much: a tie
        ([1.0, 2.0], [True, True], 0.999, (True, "")),
        ([1.0, 2.0, 9.0], [True, False, False], 0.0, (False, "too_few_usable")),
        ([1.0, NAN, 1.0], [True, False, True], 0.0, (False, "ties")),
        ([None, NAN], [False, False], 0.0, (False, "too_few_usable")),
        ([], [], 0.0, (False, "too_few_usable")),
        ([0.1 + 0.2, 0.3], [True, True], 0.0, (False, "ties")),  # 5.6e-17 apart: rounding
        ([1e6, 1e6 + 0.5], [True, True], 0.0, (False, "ties")),  # 5e-7 relative: below fp32's resolution at times
        ([1e-9, 2e-9], [True, True], 0.0, (True, "")),  # small, but twice as much
    ],
)
def test_a_set_trains_when_two_usable_rewards_differ(
    rewards: list[float | None], usable: list[bool], least: float, expected: tuple[bool, str]
) -> None:
    """The max - min of the usable rewards against the spread that counts as a tie."""
    assert trainability(rewards, usable, least) == expected


@settings(deadline=None)  # other work on the machine must not fail a test
@given(
    st.lists(st.tuples(st.floats(-1e3, 1e3, width=32), st.booleans()), max_size=8),
    st.floats(0, 10),
)
def test_a_set_that_trains_has_two_values_that_differ_in_fp32(rows: list[tuple[float, bool]], least: float) -> None:
    """The objective sees fp32: what is called trainable here spans more than the least spread there too."""
    trains, reason = trainability([r for r, _ in rows], [u for _, u in rows], least)
    kept = np.array([r for r, u in rows if u], dtype=np.float32)
    assert trains == (reason == "")
    if trains:
        assert kept.max() > kept.min()
        assert float(kept.max()) - float(kept.min()) > least
    if len(set(kept.tolist())) < 2:
        assert not trains


def test_the_spread_is_the_root_mean_variance_within_sets_that_train() -> None:
    """Variances of {0, 2}: 1, and of {0, 4, 8}: 32/3. Root of their mean (35/3)/2 = 5.8333 is 2.4152.

    The third set does not train; what is not usable in the second is not read.
    """
    table = pa.table(
        {
            "rewards": [[0.0, 2.0], [0.0, 4.0, NAN, 8.0], [100.0, 100.0]],
            "usable": [[True, True], [True, True, False, True], [True, True]],
        }
    )
    assert reward_spread(table, [True, True, False]) == pytest.approx(math.sqrt(35 / 6), rel=1e-12)


def test_there_is_no_spread_without_a_set_that_trains() -> None:
    """An error and not NaN, which would freeze into the run."""
    with pytest.raises(RewardError, match="no set can train"):
        reward_spread(pa.table({"rewards": [[1.0]], "usable": [[True]]}), [False])
