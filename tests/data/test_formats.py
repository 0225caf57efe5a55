"""raypo.data.formats: one literal row per layout, what is dropped and counted, what is refused and how."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypo.config import PromptsConfig
from raypo.config.section import SetsFormat
from raypo.data.formats.table import FORMATS
from raypo.data.formats.turns import common_beginning, transcript_turns
from raypo.data.sets import read_sets
from raypo.errors import DataError


def turn(role: str, content: str) -> dict[str, str]:
    """One message."""
    return {"role": role, "content": content}


SYSTEM, USER = turn("system", "Be brief."), turn("user", "2+2?")
FOUR, FIVE = turn("assistant", "4"), turn("assistant", "5")
SPACED = turn("user", "2+2? ")


def read(folder: Path, *rows: dict[str, Any], **changes: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Sets and facts of rows written as JSON lines; prompts as they were given."""
    (folder / "sets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table, facts = read_sets(PromptsConfig(path=str(folder / "sets.jsonl"), **changes))
    found = table.to_pylist()
    for one in found:
        one["prompt"] = json.loads(one["prompt"]) if one["conversational"] else one["prompt"]
    return found, facts


HH = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: 2+2?\n\nAssistant:"
HH_TURNS = [turn("user", "Hi"), turn("assistant", "Hello."), turn("user", "2+2?")]

LAYOUTS: list[tuple[str, str, dict[str, Any], Any, list[str], list[float | None]]] = [
    (
        "objects",
        "native",
        {"prompt": "2+2?", "responses": [{"text": "4", "score": 2}, {"text": "5", "score": None}]},
        "2+2?",
        ["4", "5"],
        [2.0, None],
    ),
    (
        "strings",
        "native",
        {"prompt": "2+2?", "responses": ["4", "5"], "rewards": [0.5, 0]},
        "2+2?",
        ["4", "5"],
        [0.5, 0],
    ),
    (
        "text pair",
        "pair",
        {"prompt": "2+2?", "chosen": "4", "rejected": "5"},
        "2+2?",
        ["4", "5"],
        [1, 0],
    ),
    (
        "text pair that begins with its prompt",
        "pair",
        {"chosen": "The sky is blue.", "rejected": "The sky is green."},
        "The sky is",
        [" blue.", " green."],
        [1, 0],
    ),
    (
        "conversational pair",
        "pair",
        {"prompt": [SYSTEM, USER], "chosen": [FOUR], "rejected": [FIVE]},
        [SYSTEM, USER],
        ["4", "5"],
        [1, 0],
    ),
    (
        "conversational pair that repeats the last turn of its prompt",
        "pair",
        {"prompt": [SYSTEM, USER], "chosen": [USER, FOUR], "rejected": [USER, FIVE]},
        [SYSTEM, USER],
        ["4", "5"],
        [1, 0],
    ),
    (
        "conversational pair that begins before its prompt, spaced otherwise",
        "pair",
        {"prompt": [USER], "chosen": [SYSTEM, SPACED, FOUR], "rejected": [SYSTEM, SPACED, FIVE]},
        [SYSTEM, SPACED],
        ["4", "5"],
        [1, 0],
    ),
    (
        "a question as text beside conversations with a system prompt alone",
        "pair",
        {"prompt": USER["content"], "chosen": [SYSTEM, FOUR], "rejected": [SYSTEM, FIVE]},
        [SYSTEM, USER],
        ["4", "5"],
        [1, 0],
    ),
    (
        "conversational pair that holds its prompt",
        "pair",
        {"chosen": [SYSTEM, USER, FOUR], "rejected": [SYSTEM, USER, FIVE]},
        [SYSTEM, USER],
        ["4", "5"],
        [1, 0],
    ),
    (
        "whole conversations beside their first message as text",
        "pair",
        {"prompt": "2+2?", "chosen": [SYSTEM, USER, FOUR], "rejected": [SYSTEM, USER, FIVE]},
        [SYSTEM, USER],
        ["4", "5"],
        [1, 0],
    ),
    (
        "answers of several turns",
        "pair",
        {"prompt": [USER], "chosen": [FIVE, turn("user", "No."), FOUR], "rejected": [FIVE, turn("user", "No."), FIVE]},
        [USER, FIVE, turn("user", "No.")],
        ["4", "5"],
        [1, 0],
    ),
    ("transcripts", "hh", {"chosen": HH + " 4", "rejected": HH + " 5"}, HH_TURNS, ["4", "5"], [1, 0]),
    ("transcript as prompt", "pair", {"prompt": HH, "chosen": " 4", "rejected": " 5"}, HH, [" 4", " 5"], [1, 0]),
    (
        "UltraFeedback",
        "ultrafeedback",
        {
            "instruction": "2+2?",
            "completions": [
                {"model": "m", "response": "4", "overall_score": 7.5, "fine-grained_score": 4.75},
                {"model": "n", "response": "5", "overall_score": 10, "fine-grained_score": 1.25},
            ],
        },
        "2+2?",
        ["4", "5"],
        [4.75, 1.25],
    ),
    (
        "NeMo-RL",
        "nemo",
        {
            "context": [SYSTEM, USER],
            "completions": [{"rank": 1, "completion": [FIVE]}, {"rank": 0, "completion": [FOUR]}],
        },
        [SYSTEM, USER],
        ["5", "4"],
        [-1, 0],
    ),
    (
        "columns, the third without a text",
        "columns",
        {"prompt": "2+2?", "A0": "4", "A1": "5", "A2": None, "score_A0": 3, "score_A1": 1.5, "score_A2": None},
        "2+2?",
        ["4", "5"],
        [3, 1.5],
    ),
    (
        "HALOs, A is the worse",
        "halos",
        {"prompt": [USER], "output_A": [FIVE], "output_B": [FOUR], "label": 0, "reward_A": -1, "reward_B": 2},
        [USER],
        ["5", "4"],
        [0, 1],
    ),
    (
        "HALOs, labels that pandas wrote",
        "halos",
        {"prompt": [USER], "output_A": [FIVE], "output_B": [FOUR], "label": 1.0},
        [USER],
        ["5", "4"],
        [1, 0],
    ),
    (
        "PandaLM: 2 of 3 raters for the first, one tie",
        "pandalm",
        {"id": "x", "prompt": "2+2?", "response1": "4", "response2": "5", "annotators": [1, 0, 1]},
        "2+2?",
        ["4", "5"],
        [2.5 / 3, 0.5 / 3],
    ),
    (
        "LLMBar: the second is better",
        "llmbar",
        {"subset": "Natural", "input": "2+2?", "output_1": "5", "output_2": "4", "label": 2},
        "2+2?",
        ["5", "4"],
        [0, 1],
    ),
    (
        "Auto-J: a tie",
        "autoj",
        {"scenario": "s", "label": 2, "prompt": "2+2?", "response 1": "4", "response 2": "four"},
        "2+2?",
        ["4", "four"],
        [0.5, 0.5],
    ),
]


@pytest.mark.parametrize(
    ("name", "row", "prompt", "texts", "rewards"), [one[1:] for one in LAYOUTS], ids=[one[0] for one in LAYOUTS]
)
def test_a_layout_is_known_by_its_columns_and_read_the_same_when_it_is_named(
    name: str, row: dict[str, Any], prompt: Any, texts: list[str], rewards: list[float | None], tmp_path: Path
) -> None:
    """Detected, and by prompts.sets_format; other columns become metadata, those that were read do not."""
    for changes in ({}, {"sets_format": name}):
        sets, facts = read(tmp_path, row | {"k": 1}, **changes)
        assert facts["formats"] == {name: 1}
        assert (sets[0]["prompt"], sets[0]["responses"]) == (prompt, texts)
        assert sets[0]["rewards"] == pytest.approx(rewards)
        metadata = json.loads(sets[0]["metadata"])
        assert metadata["k"] == 1
        assert not metadata.keys() & {"prompt", "chosen", "rejected", "completions", "A0", "output_A", "label", "input"}


def test_the_setting_names_the_layouts_of_the_table() -> None:
    """And "auto"."""
    assert get_args(SetsFormat) == ("auto", *(one.name for one in FORMATS))


SINGLE: list[tuple[str, str, list[dict[str, Any]], Any, list[float]]] = [
    (
        "TRL",
        "unpaired",
        [{"prompt": "2+2?", "completion": "4", "label": True}, {"prompt": "2+2?", "completion": "5", "label": False}],
        "2+2?",
        [1, 0],
    ),
    (
        "TRL conversational",
        "unpaired",
        [
            {"prompt": [SYSTEM, USER], "completion": [FOUR], "label": True},
            {"prompt": [SYSTEM, USER], "completion": [FIVE], "label": False},
        ],
        [SYSTEM, USER],
        [1, 0],
    ),
    (
        "HALOs binary",
        "halos",
        [
            {"prompt": [USER], "output": [FOUR], "label": 1, "reward": 3.5, "type": "binary_feedback"},
            {"prompt": [USER], "output": [FIVE], "label": 0, "reward": -1, "type": "binary_feedback"},
        ],
        [USER],
        [1, 0],
    ),
    (
        "HALOs scalar",
        "halos",
        [{"prompt": [USER], "output": [FOUR], "reward": 3.5}, {"prompt": [USER], "output": [FIVE], "reward": -1}],
        [USER],
        [3.5, -1],
    ),
]


@pytest.mark.parametrize(
    ("name", "rows", "prompt", "rewards"), [one[1:] for one in SINGLE], ids=[one[0] for one in SINGLE]
)
def test_rows_with_one_response_make_up_one_set_per_prompt(
    name: str, rows: list[dict[str, Any]], prompt: Any, rewards: list[float], tmp_path: Path
) -> None:
    """Another prompt stands between the two rows, and is dropped: one response contrasts nothing."""
    other = rows[0] | {"prompt": [turn("user", "1+1?")] if isinstance(prompt, list) else "1+1?"}
    sets, facts = read(tmp_path, rows[0], other, rows[1])
    assert [(one["prompt"], one["responses"], one["rewards"]) for one in sets] == [(prompt, ["4", "5"], rewards)]
    assert facts["formats"] == {name: 3}
    assert facts["dropped"] == {"too_few_responses": 1}


def test_a_prompt_whose_labels_are_all_the_same_is_dropped_and_counted(tmp_path: Path) -> None:
    """Both completions to "a" are good; "b" has one of each. Scalar rewards that agree are a tie, found later."""
    rows = [{"prompt": p, "completion": c, "label": y} for p, c, y in (("a", "x", 1), ("a", "y", 1), ("b", "x", 1))]
    sets, facts = read(tmp_path, *rows, {"prompt": "b", "completion": "y", "label": 0})
    assert [one["prompt"] for one in sets] == ["b"]
    assert facts["dropped"] == {"too_few_responses": 0, "one_label": 1}
    sets, facts = read(tmp_path, *({"prompt": "a", "output": text, "reward": 1} for text in "xy"))
    assert [one["rewards"] for one in sets] == [[1.0, 1.0]]


def test_a_response_that_repeats_another_leaves_its_set_and_the_first_keeps_its_reward(tmp_path: Path) -> None:
    """Of x, x, y two stay; of x, x one, which is a set no more. Two repeated responses, one set dropped."""
    rows = [{"prompt": "p", "responses": list(t), "rewards": list(range(len(t)))} for t in ("xxy", "xx")]
    sets, facts = read(tmp_path, *rows)
    assert [(one["responses"], one["rewards"]) for one in sets] == [(["x", "y"], [0.0, 2.0])]
    assert facts["duplicate_responses"] == 2
    assert facts["dropped"] == {"too_few_responses": 1}


def test_ranks_of_several_raters_count_as_their_mean(tmp_path: Path) -> None:
    """(1 + 2 + 6) / 3 = 3 and (0 + 1) / 2 = 0.5: the layout of CoBBLEr, by the name of its key."""
    responses = [{"model": "m", "text": "4", "points": [1, 2, 6]}, {"model": "n", "text": "5", "points": [0, 1]}]
    sets, _ = read(tmp_path, {"prompt": "2+2?", "responses": responses}, response_score_key="points")
    assert sets[0]["rewards"] == [3.0, 0.5]


def test_other_columns_and_keys_are_named_by_settings(tmp_path: Path) -> None:
    """R0 and R1 for A0 and A1; `overall_score` for UltraFeedback's own."""
    sets, facts = read(
        tmp_path, {"q": "p", "R0": "a", "R1": "b", "score_R0": 1, "score_R1": 2}, numbered_prefix="R", column="q"
    )
    assert (sets[0]["prompt"], sets[0]["rewards"], facts["formats"]) == ("p", [1.0, 2.0], {"columns": 1})
    row = next(row for _, layout, row, *_ in LAYOUTS if layout == "ultrafeedback")
    sets, _ = read(tmp_path, row, response_score_key="overall_score")
    assert sets[0]["rewards"] == [7.5, 10.0]


def test_keys_that_parquet_fills_with_nulls_are_not_there(tmp_path: Path) -> None:
    """Of one score in both completions and one in the first alone, the first is read, from Parquet as from JSON."""
    scores = [{"overall_score": 8.0, "fine-grained_score": 4.0}, {"overall_score": 6.0}]
    texts = [{"response": text} | one for text, one in zip("ab", scores, strict=True)]
    pq.write_table(pa.Table.from_pylist([{"instruction": "p", "completions": texts}]), tmp_path / "rows.parquet")
    table, _ = read_sets(PromptsConfig(path=str(tmp_path / "rows.parquet")))
    assert table["rewards"].to_pylist() == [[8.0, 6.0]]


def test_columns_are_ordered_by_number(tmp_path: Path) -> None:
    """A10 comes after A2."""
    row = {"prompt": "p"} | {f"A{n}": str(n) for n in (10, 0, 2)} | {f"score_A{n}": n for n in (10, 0, 2)}
    assert read(tmp_path, row)[0][0]["responses"] == ["0", "2", "10"]


def test_where_columns_of_two_layouts_stand_the_table_decides(tmp_path: Path) -> None:
    """`responses` are read before `chosen` and `rejected`, unless the setting says so."""
    row = {"prompt": "p", "responses": ["a", "b", "c"], "rewards": [1, 2, 3], "chosen": "c", "rejected": "a"}
    assert read(tmp_path, row)[0][0]["responses"] == ["a", "b", "c"]
    assert read(tmp_path, row, sets_format="pair")[0][0]["responses"] == ["c", "a"]


def test_a_transcript_in_the_prompt_column_becomes_messages_when_it_is_asked_for(tmp_path: Path) -> None:
    """The space after "Assistant:" is the layout's and not the answer's."""
    sets, _ = read(tmp_path, {"prompt": HH, "chosen": " 4", "rejected": " 5"}, sets_format="hh")
    assert (sets[0]["prompt"], sets[0]["responses"]) == (HH_TURNS, ["4", "5"])


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        (HH + " 4", "\n\nHuman: 3+3?\n\nAssistant: 6", "prompts_differ"),
        (HH + " 4", HH, "empty_turn"),
        ("\n\nHuman:\n\nAssistant: 4", "\n\nHuman:\n\nAssistant: 5", "empty_turn"),
        ("\n\nHuman: a\n\nHuman: b\n\nAssistant: 4", "\n\nHuman: a\n\nHuman: b\n\nAssistant: 5", "not_a_dialogue"),
        (HH + " 4\n\nHuman: Thanks.", HH + " 5\n\nHuman: Thanks.", "not_a_dialogue"),
    ],
)
def test_a_transcript_that_is_no_pair_is_dropped_and_counted(
    chosen: str, rejected: str, reason: str, tmp_path: Path
) -> None:
    """The other row is sound: 2 rows = 1 set + 1 dropped."""
    sets, facts = read(tmp_path, {"chosen": HH + " 4", "rejected": HH + " 5"}, {"chosen": chosen, "rejected": rejected})
    assert len(sets) == 1
    assert facts["dropped"] == {"too_few_responses": 0, reason: 1}


def test_conversations_that_part_before_their_last_message_are_dropped_and_counted(tmp_path: Path) -> None:
    """Pairs, and NeMo-RL's completions of several turns."""
    good = {"chosen": [USER, FOUR], "rejected": [USER, FIVE]}
    bad = {"chosen": [USER, FOUR], "rejected": [SYSTEM, USER, FIVE]}
    nemo = {
        "context": [USER],
        "completions": [{"rank": 0, "completion": [FOUR]}, {"rank": 1, "completion": [FIVE, USER, FOUR]}],
    }
    sets, facts = read(tmp_path, good, bad, nemo)
    assert len(sets) == 1
    assert facts["dropped"] == {"too_few_responses": 0, "prompts_differ": 2}


@pytest.mark.parametrize(
    ("prompt", "before"),
    [
        ([SYSTEM, USER], [turn("system", "Be long."), USER]),
        ([SYSTEM, USER], [turn("system", "Be long.")]),
        ([SYSTEM, USER], [SYSTEM]),
        ([SYSTEM], [turn("system", "Be long."), USER]),
        ([SYSTEM, *HH_TURNS], [SYSTEM, HH_TURNS[0]]),
        (HH_TURNS, HH_TURNS[:1]),
        ([SYSTEM, *HH_TURNS], HH_TURNS[:1]),
    ],
    ids=["another system", "another, alone", "system alone", "no question", "first turns", "first turn", "middle"],
)
def test_sides_that_begin_another_conversation_than_their_prompt_are_dropped_and_counted(
    prompt: list[dict[str, str]], before: list[dict[str, str]], tmp_path: Path
) -> None:
    """Joined, they would ask a question twice, or put a second system prompt after it."""
    good = {"prompt": [SYSTEM, USER], "chosen": [FOUR], "rejected": [FIVE]}
    sets, facts = read(tmp_path, good, {"prompt": prompt, "chosen": [*before, FOUR], "rejected": [*before, FIVE]})
    assert [one["prompt"] for one in sets] == [[SYSTEM, USER]]
    assert facts["dropped"] == {"too_few_responses": 0, "prompts_differ": 1}
    lone = [{"prompt": prompt, "completion": [*before, FOUR], "label": True}]
    lone += [{"prompt": [USER], "completion": [one], "label": one is FOUR} for one in (FOUR, FIVE)]
    sets, facts = read(tmp_path, *lone)
    assert [one["prompt"] for one in sets] == [[USER]]
    assert facts["dropped"]["prompts_differ"] == 1


def test_texts_without_a_common_beginning_and_responses_that_lost_their_text_are_counted(tmp_path: Path) -> None:
    """The JSON of PandaLM's test set has `true` for some responses "True"."""
    panda = {"prompt": "p", "response1": True, "response2": "No.", "annotators": [1]}
    sets, facts = read(tmp_path, {"chosen": "Yes", "rejected": "No"}, panda, LAYOUTS[2][2])
    assert len(sets) == 1
    assert facts["dropped"] == {"too_few_responses": 0, "no_common_beginning": 1, "response_not_text": 1}


@given(st.text("ab ", max_size=6), st.text("ab ", max_size=4), st.text("ab ", max_size=4))
def test_the_common_beginning_and_the_rests_are_the_texts(prompt: str, one: str, other: str) -> None:
    """Nothing is lost; after the beginning the texts differ, but for one space at most."""
    found = common_beginning([prompt + one, prompt + other])
    if isinstance(found, str):
        return
    beginning, rests = found
    assert [beginning + rest for rest in rests] == [prompt + one, prompt + other]
    if all(rest.startswith(" ") for rest in rests):
        rests = [rest[1:] for rest in rests]
    assert not all(rests) or rests[0][0] != rests[1][0]


@given(st.lists(st.tuples(st.text("abc", min_size=1), st.text("abc", min_size=1)), min_size=1, max_size=4))
def test_a_transcript_gives_back_the_turns_that_it_was_made_of(turns: list[tuple[str, str]]) -> None:
    """Written as hh-rlhf writes them."""
    text = "".join(f"\n\nHuman: {ask}\n\nAssistant: {answer}" for ask, answer in turns)
    assert transcript_turns(text) == [
        m for ask, answer in turns for m in (turn("user", ask), turn("assistant", answer))
    ]


PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}


@pytest.mark.parametrize(
    ("row", "changes", "told"),
    [
        (
            {"prompt": "p", "winner": "a"},
            {},
            ["no known layout", "'prompt', 'winner'", "pair (chosen + rejected)", "prompts.responses_column"],
        ),
        ({"prompt": "p", "responses": [[USER, FOUR], "5"], "rewards": [1, 0]}, {}, ["response 1 is list", "text"]),
        ({"prompt": "p"}, {"sets_format": "pair"}, ["no column 'chosen'", "prompts.sets_format"]),
        (PAIR | {"rejected": None}, {}, ["response 2 is null", "texts, or conversations"]),
        (PAIR | {"chosen": [FOUR]}, {}, ["response 2 is str 'b'"]),
        (PAIR | {"chosen": [USER], "rejected": [USER]}, {}, ["response 1 is list", "end with the assistant's turn"]),
        ({"chosen": [FOUR], "rejected": [FIVE]}, {}, ["no prompt column", "prompts.column"]),
        (
            {"question": "q", "chosen": "The a", "rejected": "The b"},
            {},
            ["one of 'question'", "prompts.column=question"],
        ),
        ({"prompt": [USER], "chosen": "a", "rejected": "b"}, {"sets_format": "hh"}, ["a transcript"]),
        ({"prompt": "p", "completion": "a", "label": 2}, {}, ["'label' is int 2", "true or false"]),
        ({"prompt": "p", "completion": 1, "label": 1}, {}, ["response 1 is int 1"]),
        ({"prompt": "p", "output_A": "a", "output_B": "b", "label": "A"}, {}, ["'label' is str 'A'", "one of 1, 0"]),
        ({"prompt": "p", "output": "a", "reward": "high"}, {}, ["reward 1 is str 'high'"]),
        ({"prompt": "p", "response1": "a", "response2": "b", "annotators": []}, {}, ["'annotators' is list []"]),
        ({"input": "p", "output_1": "a", "output_2": "b", "label": 0}, {}, ["'label' is int 0", "one of 1, 2"]),
        (
            {"prompt": "p", "A0": "a", "A1": "b", "score_A0": 1},
            {},
            ["has 'A1' and no 'score_A1'", "prompts.numbered_prefix"],
        ),
        ({"instruction": "p", "completions": "a"}, {}, ["'completions' is str 'a'"]),
        (
            {"instruction": "p", "completions": [{"response": "a"}]},
            {},
            ["no score in common", "prompts.response_score_key"],
        ),
        (
            {"instruction": "p", "completions": [{"text": "a", "overall_score": 1}]},
            {},
            ["an object with 'text', 'overall_score'", "an object with 'response'"],
        ),
        (
            {"context": "p", "completions": [{"rank": 0, "completion": [FOUR]}]},
            {},
            ["'context' is str 'p'", "messages"],
        ),
        ({"context": [USER], "completions": [{"completion": [FOUR]}]}, {}, ["an object with 'rank'"]),
        ({"context": [USER], "completions": [{"rank": 0, "completion": "4"}]}, {}, ["response 1 is str '4'"]),
        (
            {"instruction": "2+2?", "completions": [{"response": "4", "overall_score": 1.0}, None]},
            {},
            ["a response is null", "an object with 'response'"],
        ),
        (
            {"context": [USER, FOUR], "completions": [{"rank": 0, "completion": [FOUR]}]},
            {},
            ["ends with the assistant's turn"],
        ),
    ],
)
def test_what_is_no_set_of_its_layout_is_refused_with_place_and_remedy(
    row: dict[str, Any], changes: dict[str, Any], told: list[str], tmp_path: Path
) -> None:
    """Line 1 is at fault."""
    with pytest.raises(DataError) as caught:
        read(tmp_path, row, **changes)
    for part in ("sets.jsonl line 1", *told):
        assert part in str(caught.value)


def test_an_unknown_layout_is_refused_by_the_configuration() -> None:
    """The names there are stand in the message."""
    with pytest.raises(ValueError, match="'ultrafeedback'"):
        PromptsConfig(path="x", sets_format="dpo")
