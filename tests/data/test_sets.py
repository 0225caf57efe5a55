"""raypo.data.sets: rows to sets, what is dropped and what is refused; the layouts are in test_formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raypo.config import PromptsConfig
from raypo.data.sets import read_sets
from raypo.errors import DataError

REAL = Path(__file__).parents[3] / "shared" / "data" / "alpaca_eval_16x805.jsonl.gz"


def config(folder: Path, rows: list[Any], **changes: Any) -> PromptsConfig:
    """A config for rows written as JSON lines."""
    (folder / "sets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return PromptsConfig(path=str(folder / "sets.jsonl"), **changes)


OBJECTS = {"prompt": "p", "completions": [{"output": "a", "overall": 2}, {"output": "b", "overall": None}]}
KEYS = {"responses_column": "completions", "response_text_key": "output", "response_score_key": "overall"}


def test_columns_and_keys_of_responses_are_those_of_the_settings(tmp_path: Path) -> None:
    """Two responses "a" and "b"; what was used does not become metadata."""
    table, facts = read_sets(config(tmp_path, [OBJECTS | {"k": 1}], **KEYS))
    found = table.to_pylist()[0]
    assert (found["prompt"], found["responses"], found["rewards"]) == ("p", ["a", "b"], [2.0, None])
    assert json.loads(found["metadata"]) == {"k": 1}
    assert facts == {"rows": 1, "formats": {"native": 1}, "dropped": {"too_few_responses": 0}, "duplicate_responses": 0}


def test_one_response_per_prompt_everywhere_is_refused_with_the_reason(tmp_path: Path) -> None:
    """Flat data: a row per response."""
    rows = [{"prompt": "p", "responses": [text], "rewards": [1]} for text in "ab"]
    with pytest.raises(DataError, match="a set of one has no preference in it") as caught:
        read_sets(config(tmp_path, rows))
    assert "no set of two responses in 2 rows, the first of which is sets.jsonl line 1" in str(caught.value)
    assert "read as {'native': 2}, dropped: {'too_few_responses': 2}" in str(caught.value)


def test_single_responses_among_sets_are_dropped_and_counted(tmp_path: Path) -> None:
    """3 rows = 1 kept + 2 dropped."""
    rows = [{"prompt": str(n), "responses": list("xy"[:n]), "rewards": [1] * n} for n in range(3)]
    table, facts = read_sets(config(tmp_path, rows))
    assert (table["prompt"].to_pylist(), facts["dropped"]) == (["2"], {"too_few_responses": 2})


@pytest.mark.parametrize(
    ("row", "changes", "told"),
    [
        ({"prompt": "p", "rewards": [1]}, {}, "of no known layout; its columns: 'prompt', 'rewards'"),
        ({"prompt": "p", "responses": ["a", "b"]}, {}, "has no column 'rewards'"),
        ({"prompt": "p", "responses": "a", "rewards": [1]}, {}, "'responses' is str 'a'"),
        ({"prompt": "p", "responses": ["a", "b"], "rewards": 1}, {}, "'rewards' is int 1"),
        ({"prompt": "p", "responses": ["a", "b"], "rewards": [1]}, {}, "has 2 responses and 1 rewards"),
        ({"prompt": "p", "responses": ["a", 3], "rewards": [1, 2]}, {}, "response 2 is int 3"),
        ({"prompt": "p", "responses": ["a", "b"], "rewards": [1, "2"]}, {}, "reward 2 is str '2'"),
        ({"prompt": "p", "responses": [{"text": "a"}, {"text": "b"}]}, {}, "prompts.response_score_key=..."),
        (OBJECTS, KEYS | {"response_text_key": "text"}, "an object with 'output', 'overall'"),
        ({"prompt": "p", "responses": [{"text": "a", "score": 1}, "b"]}, {}, "a response is str 'b'"),
        ({"responses": ["a", "b"], "rewards": [1, 2]}, {}, "has no column 'prompt'"),
    ],
)
def test_what_is_no_set_is_refused_with_its_place(
    row: dict[str, Any], changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    """The fault is in line 2; line 1 is sound."""
    good = {"prompt": "p", "responses": ["a", "b"], "rewards": [1, 2]}
    if changes:
        good = OBJECTS | {"completions": [{"output": t, "text": t, "overall": 1} for t in "ab"]}
    with pytest.raises(DataError) as caught:
        read_sets(config(tmp_path, [good, row], **changes))
    assert "sets.jsonl line 2" in str(caught.value)
    assert told in str(caught.value)


def test_a_set_is_named_by_its_prompt_its_responses_and_their_rewards(tmp_path: Path) -> None:
    """Other responses or another opinion of them are another set to the same prompt; another order is none."""
    sets = [
        (["a", "b"], [1, 0]),
        (["a", "b"], [1, 0]),
        (["b", "a"], [1, 0]),
        (["a", "c"], [1, 0]),
        (["a", "b"], [0, 1]),
    ]
    rows = [{"prompt": "p", "responses": texts, "rewards": rewards} for texts, rewards in sets]
    table, _ = read_sets(config(tmp_path, rows))
    ids = table["set_id"].to_pylist()
    assert (ids[0], ids[2]) == (ids[1], ids[4])
    assert len(set(ids)) == 3
    assert len(set(table["prompt_id"].to_pylist())) == 1


@pytest.mark.skipif(not REAL.exists(), reason="the shared data folder is absent here")
def test_the_real_sets_of_sixteen_responses_are_read_as_they_are() -> None:
    """README of the shared data: 584 prompts, up to 16 scored responses each."""
    table, facts = read_sets(PromptsConfig(path=str(REAL)))
    sizes = {len(row) for row in table["responses"].to_pylist()}
    assert (table.num_rows, max(sizes), facts["dropped"]) == (584, 16, {"too_few_responses": 0})
    assert table["rewards"][0].as_py()[0] == 2.813e-06


def test_a_response_that_is_labelled_both_ways_is_a_tie_and_out(tmp_path: Path) -> None:
    """Of a (true and false), b true and c false: b and c; and alone it is no set even where one response is enough."""
    labels = [("a", True), ("a", False), ("b", True), ("c", False)]
    rows = [{"prompt": "p", "completion": text, "label": label} for text, label in labels]
    table, facts = read_sets(config(tmp_path, [*rows, {"prompt": "q", "completion": "d", "label": True}]), lone=True)
    assert (table["responses"].to_pylist(), facts["duplicate_responses"]) == ([["b", "c"], ["d"]], 2)
    pair = [{"prompt": "p", "chosen": "a", "rejected": "a"}, {"prompt": "q", "chosen": "a", "rejected": "b"}]
    table, facts = read_sets(config(tmp_path, pair), lone=True)
    assert (table["prompt"].to_pylist(), facts["dropped"]["too_few_responses"]) == (["q"], 1)


def test_a_known_reward_of_a_text_comes_before_an_unknown_one(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "responses": ["a", "a", "b"], "rewards": [None, 5, 3]}]
    table, _ = read_sets(config(tmp_path, rows))
    assert (table["responses"].to_pylist(), table["rewards"].to_pylist()) == ([["a", "b"]], [[5.0, 3.0]])


def test_one_labelled_response_is_a_set_for_an_objective_that_compares_with_an_anchor(tmp_path: Path) -> None:
    """TRL's unpaired data, one completion per prompt: nothing for a pair, four sets for KTO."""
    rows = [{"prompt": f"p{i}", "completion": f"c{i}", "label": i < 2} for i in range(4)]
    with pytest.raises(DataError, match=r"no set of two responses(.|\n)*objective.preset=kto"):
        read_sets(config(tmp_path, rows))
    table, facts = read_sets(config(tmp_path, rows), lone=True)
    assert table["rewards"].to_pylist() == [[1.0], [1.0], [0.0], [0.0]]
    assert facts["dropped"]["too_few_responses"] == 0


def test_a_null_prompt_is_not_invented_from_what_two_answers_begin_with(tmp_path: Path) -> None:
    rows = [{"prompt": None, "chosen": "Once a", "rejected": "Once b"}]
    with pytest.raises(DataError, match="'prompt' is null beside two texts"):
        read_sets(config(tmp_path, rows))
    assert read_sets(config(tmp_path, rows, sets_format="pair"))[0]["responses"].to_pylist() == [[" a", " b"]]
