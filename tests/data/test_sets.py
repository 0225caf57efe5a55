"""raypo.data.sets: the three shapes of offline sets, and what is refused."""

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


def turn(role: str, content: str) -> dict[str, str]:
    """One message."""
    return {"role": role, "content": content}


OBJECTS = {"prompt": "p", "completions": [{"output": "a", "overall": 2}, {"output": "b", "overall": None}]}
KEYS = {"responses_column": "completions", "response_text_key": "output", "response_score_key": "overall"}
WHOLE = {
    "chosen": [turn("user", "p"), turn("assistant", "a")],
    "rejected": [turn("user", "p"), turn("assistant", "b")],
}


@pytest.mark.parametrize(
    ("row", "changes", "prompt", "rewards"),
    [
        ({"prompt": "p", "responses": ["a", "b"], "rewards": [0.5, 2], "k": 1}, {}, "p", [0.5, 2.0]),
        (OBJECTS | {"k": 1}, KEYS, "p", [2.0, None]),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "k": 1}, {}, "p", [1.0, 0.0]),
        ({"prompt": "p", "k": 1} | WHOLE, {}, "p", [1.0, 0.0]),
        ({"k": 1} | WHOLE, {}, [turn("user", "p")], [1.0, 0.0]),
    ],
    ids=["two lists", "objects", "texts", "pair of conversations", "pair that holds its prompt"],
)
def test_every_shape_gives_responses_beside_rewards(
    row: dict[str, Any], changes: dict[str, Any], prompt: Any, rewards: list[float | None], tmp_path: Path
) -> None:
    """Two responses "a" and "b"; the columns that were used do not become metadata. Pairs are ordinal: 1 and 0."""
    table, dropped = read_sets(config(tmp_path, [row], **changes))
    found = table.to_pylist()[0]
    assert found["responses"] == ["a", "b"]
    assert found["rewards"] == rewards
    assert (json.loads(found["prompt"]) if found["conversational"] else found["prompt"]) == prompt
    assert json.loads(found["metadata"])["k"] == 1
    assert not json.loads(found["metadata"]).keys() & {"responses", "rewards", "completions", "chosen", "rejected"}
    assert dropped == {"too_few_responses": 0}


def test_one_response_per_prompt_everywhere_is_refused_with_the_reason(tmp_path: Path) -> None:
    """Flat data: a row per response."""
    rows = [{"prompt": "p", "responses": [text], "rewards": [1]} for text in "ab"]
    with pytest.raises(DataError, match="a set of one has no preference in it") as caught:
        read_sets(config(tmp_path, rows))
    assert "sets.jsonl line 1 has fewer than two responses, and so has every other row (2)" in str(caught.value)


def test_single_responses_among_sets_are_dropped_and_counted(tmp_path: Path) -> None:
    """3 rows = 1 kept + 2 dropped."""
    rows = [{"prompt": str(n), "responses": ["x"] * n, "rewards": [1] * n} for n in range(3)]
    table, dropped = read_sets(config(tmp_path, rows))
    assert (table["prompt"].to_pylist(), dropped) == (["2"], {"too_few_responses": 2})


@pytest.mark.parametrize(
    ("row", "changes", "told"),
    [
        ({"prompt": "p", "rewards": [1]}, {}, "has no column 'responses'; it has 'prompt', 'rewards'"),
        ({"prompt": "p", "responses": ["a", "b"]}, {}, "has no column 'rewards'"),
        ({"prompt": "p", "responses": "a", "rewards": [1]}, {}, "'responses' is str 'a'"),
        ({"prompt": "p", "responses": ["a", "b"], "rewards": 1}, {}, "'rewards' is int 1"),
        ({"prompt": "p", "responses": ["a", "b"], "rewards": [1]}, {}, "has 2 responses and 1 rewards"),
        ({"prompt": "p", "responses": ["a", 3], "rewards": [1, 2]}, {}, "response 2 is int 3"),
        ({"prompt": "p", "responses": ["a", "b"], "rewards": [1, "2"]}, {}, "reward 2 is str '2'"),
        ({"prompt": "p", "responses": [{"text": "a"}, {"text": "b"}]}, {}, "prompts.response_score_key=..."),
        (OBJECTS, KEYS | {"response_text_key": "text"}, "an object with 'output', 'overall'"),
        ({"prompt": "p", "responses": [{"text": "a", "score": 1}, "b"]}, {}, "a response is str 'b'"),
        ({"prompt": "p", "chosen": "a", "rejected": None}, {}, "'rejected' is null"),
        ({"chosen": "a", "rejected": "b"}, {}, "has no column 'prompt'"),
        (WHOLE | {"rejected": [turn("user", "q"), turn("assistant", "b")]}, {}, "do not begin alike"),
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


@pytest.mark.skipif(not REAL.exists(), reason="the shared data folder is absent here")
def test_the_real_sets_of_sixteen_responses_are_read_as_they_are() -> None:
    """README of the shared data: 584 prompts, up to 16 scored responses each."""
    table, dropped = read_sets(PromptsConfig(path=str(REAL)))
    sizes = {len(row) for row in table["responses"].to_pylist()}
    assert (table.num_rows, max(sizes), dropped) == (584, 16, {"too_few_responses": 0})
    assert table["rewards"][0].as_py()[0] == 2.813e-06
