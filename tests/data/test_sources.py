"""raypo.data.sources and files: every format in, every fault in one clear message, the split by content."""

from __future__ import annotations

import datetime
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypo.config import PromptsConfig
from raypo.data.sources import MESSAGES_KEY, RAW, prompt_id, read_prompts, split
from raypo.errors import DataError

ROWS: list[dict[str, Any]] = [{"prompt": "Name a colour.", "id": 7}, {"prompt": "Name a fish.", "id": 8}]


def write_lines(path: Path, rows: list[Any]) -> str:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def write_as(kind: str, folder: Path) -> str:
    """ROWS in one of the formats that can be read."""
    path = folder / f"prompts.{kind}"
    if kind == "jsonl":
        return write_lines(path, ROWS)
    if kind == "jsonl.gz":
        path.write_bytes(gzip.compress("\n\n".join(map(json.dumps, ROWS)).encode()))
    elif kind == "json":
        path.write_text(json.dumps(ROWS))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif kind == "folder":
        path.mkdir()
        write_lines(path / "a.jsonl", ROWS[:1])
        pq.write_table(pa.Table.from_pylist(ROWS[1:]), path / "b.parquet")
        (path / "README.md").write_text("not a row")
    elif kind == "glob":
        for name, row in zip("ab", ROWS, strict=True):
            write_lines(folder / f"part-{name}.jsonl", [row])
        return str(folder / "part-*.jsonl")
    elif kind == "uri":
        return "file://" + write_lines(folder / "uri.jsonl", ROWS)
    else:
        import datasets

        rows = datasets.Dataset.from_list(ROWS)
        (rows if kind == "saved dataset" else datasets.DatasetDict({"train": rows})).save_to_disk(str(path))
    return str(path)


KINDS = ["jsonl", "jsonl.gz", "json", "parquet", "folder", "glob", "uri", "saved dataset", "saved splits"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_same_raw_rows(kind: str, tmp_path: Path) -> None:
    """Text, hash and the other columns as metadata, in source order."""
    table = read_prompts(PromptsConfig(path=write_as(kind, tmp_path)))
    assert table.schema == RAW
    assert table["prompt"].to_pylist() == ["Name a colour.", "Name a fish."]
    assert [json.loads(text) for text in table["metadata"].to_pylist()] == [{"id": 7}, {"id": 8}]
    assert table["prompt_id"].to_pylist() == [prompt_id("Name a colour."), prompt_id("Name a fish.")]


def test_a_prompt_id_is_a_hash_of_the_content_and_stays_what_it_is() -> None:
    r"""First 16 hex digits of sha256 of "text", NUL, the prompt: printf 'text\0hello' | sha256sum."""
    assert prompt_id("hello") == "306f89347195cc05"


def test_the_hash_of_messages_does_not_depend_on_the_order_of_keys() -> None:
    """Role before content or after: one prompt. Its text alone is another one."""
    one, other = [{"role": "user", "content": "hi"}], [{"content": "hi", "role": "user"}]
    assert prompt_id(one) == prompt_id(other)
    assert prompt_id(one) != prompt_id("hi")


def test_messages_stay_messages_and_are_kept_for_rewards(tmp_path: Path) -> None:
    """Parquet fills absent keys with null; they do not become part of the conversation."""
    turns = [{"role": "system", "content": "Be kind.", "name": "x"}, {"role": "user", "content": "hi"}]
    pq.write_table(pa.Table.from_pylist([{"prompt": turns}]), tmp_path / "p.parquet")
    row = read_prompts(PromptsConfig(path=str(tmp_path / "p.parquet"))).to_pylist()[0]
    assert row["conversational"] is True
    assert json.loads(row["prompt"]) == turns
    assert json.loads(row["metadata"]) == {MESSAGES_KEY: turns}


def test_metadata_is_json_whatever_the_columns_hold(tmp_path: Path) -> None:
    """NaN is no JSON and becomes null, also inside lists; dates become text."""
    columns = {"prompt": ["a"], "x": [float("nan")], "y": [[1.5, float("inf")]], "day": [datetime.date(2026, 1, 2)]}
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    text = read_prompts(PromptsConfig(path=str(tmp_path / "p.parquet")))["metadata"][0].as_py()
    assert json.loads(text, parse_constant=pytest.fail) == {"x": None, "y": [1.5, None], "day": "2026-01-02"}


def test_the_limit_is_for_training_prompts_and_not_for_the_heldout_file(tmp_path: Path) -> None:
    """Limit 1 of 2 rows; the same file given as another path is read whole."""
    path = write_lines(tmp_path / "p.jsonl", ROWS)
    config = PromptsConfig(path=path, limit=1)
    assert [read_prompts(config).num_rows, read_prompts(config, path).num_rows] == [1, 2]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("p.jsonl", "", ["p.jsonl is empty", "at least one row"]),
        ("p.json", "[]", ["p.json is empty"]),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": ', ["p.jsonl line 2 is not JSON"]),
        ("p.jsonl", '{"prompt": "a"}\n\n["b"]', ["p.jsonl line 3 is list ['b']", "a JSON object"]),
        ("p.json", '{"prompt": "a"}', ["p.json holds dict", "a JSON list"]),
        ("p.jsonl", '{"text": "a", "id": 1}', ["line 1 has no column 'prompt'", "'text', 'id'", "prompts.column=..."]),
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": 5}', ["line 2: 'prompt' is int 5", "a string, or a list"]),
        ("p.jsonl", '{"prompt": null}', ["line 1: 'prompt' is null"]),
        ("p.jsonl", '{"prompt": []}', ["line 1: 'prompt' is list []"]),
        ("p.jsonl", '{"prompt": [{"role": "user"}]}', ["message 1 is dict", "`role` and `content`"]),
        ("p.jsonl", '{"prompt": "\\ud800"}', ["line 1: 'prompt' is not Unicode text"]),
        (
            "p.jsonl",
            '{"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}',
            ["ends with the assistant's turn"],
        ),
        ("p.parquet", "no parquet", ["p.parquet cannot be read"]),
        ("p.jsonl.gz", "no gzip", ["p.jsonl.gz cannot be read"]),
        ("p.csv", "a,b", ["unknown kind of file", ".jsonl"]),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(
    name: str, content: str, told: list[str], tmp_path: Path
) -> None:
    """File, line or row, what was found, what was expected."""
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_prompts(PromptsConfig(path=str(tmp_path / name)))
    for part in told:
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["nothing.jsonl", "no/such/folder/of/prompts", "none-*.jsonl"])
def test_a_path_that_leads_nowhere_is_no_such_file(name: str, tmp_path: Path) -> None:
    """A name that ends like a file, has more than one slash or a star is never asked of a hub."""
    with pytest.raises(DataError, match="no such file or folder"):
        read_prompts(PromptsConfig(path=str(tmp_path / name)))


def test_a_folder_without_rows_says_which_files_it_looked_for(tmp_path: Path) -> None:
    """An empty folder."""
    with pytest.raises(DataError, match=r"no \.jsonl, .* file in this folder"):
        read_prompts(PromptsConfig(path=str(tmp_path)))


def test_a_split_that_a_saved_dataset_has_not_names_those_it_has(tmp_path: Path) -> None:
    """Only "train" was saved."""
    with pytest.raises(DataError, match="no split 'test'; it has 'train'"):
        read_prompts(PromptsConfig(path=write_as("saved splits", tmp_path), split="test"))


def test_a_dataset_that_cannot_be_reached_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, a hub name cannot be loaded; the message names the settings."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="as a Hugging Face dataset it cannot be loaded"):
        read_prompts(PromptsConfig(path="nobody/no-such-prompts"))


def write_repository(folder: Path) -> str:
    """A copy of a hub repository: a card that names the files of each split."""
    (folder / "data").mkdir(parents=True)
    write_lines(folder / "data" / "train-00000.jsonl", ROWS)
    write_lines(folder / "data" / "test-00000.jsonl", [{"prompt": "Name a test.", "id": 9}])
    splits = "".join(f"  - split: {name}\n    path: data/{name}-*.jsonl\n" for name in ("train", "test"))
    card = f"---\nconfigs:\n- config_name: default\n  data_files:\n{splits}---\n# Prompts\n"
    (folder / "README.md").write_text(card)
    return str(folder)


@pytest.mark.parametrize(("name", "ids"), [("train", [7, 8]), ("test", [9])])
def test_a_copy_of_a_hub_repository_is_read_split_by_split(
    name: str, ids: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through `datasets`, as the hub's name would be: what is there to test with never trains."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    table = read_prompts(PromptsConfig(path=write_repository(tmp_path / "prompts"), split=name))
    assert [json.loads(text)["id"] for text in table["metadata"].to_pylist()] == ids


def test_a_split_that_a_repository_has_not_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the setting."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.raises(DataError, match=r"Unknown split \"val\".*[\s\S]*prompts\.split"):
        read_prompts(PromptsConfig(path=write_repository(tmp_path / "prompts"), split="val"))


def raw(texts: list[str]) -> pa.Table:
    """Raw rows of plain prompts."""
    rows = [{"prompt_id": prompt_id(t), "prompt": t, "conversational": False, "metadata": "{}"} for t in texts]
    return pa.Table.from_pylist(rows, schema=RAW)


def sides(table: pa.Table) -> dict[str, str]:
    """Prompt to split."""
    return dict(zip(table["prompt"].to_pylist(), table["split"].to_pylist(), strict=True))


TEXTS = st.lists(st.text(max_size=4), min_size=1, max_size=30)


@settings(deadline=None)  # other work on the machine must not fail a test
@given(texts=TEXTS, fraction=st.floats(0, 1), data=st.data())
def test_the_split_conserves_rows_and_does_not_know_their_order(
    texts: list[str], fraction: float, data: st.DataObject
) -> None:
    """In = kept + dropped; each prompt once; any permutation gives each prompt the same side."""
    table, dropped = split(raw(texts), fraction)
    assert len(texts) == table.num_rows + sum(dropped.values())
    assert sorted(table["prompt"].to_pylist()) == sorted(set(texts))
    shuffled, _ = split(raw(data.draw(st.permutations(texts))), fraction)
    assert sides(table) == sides(shuffled)


@settings(deadline=None)  # other work on the machine must not fail a test
@given(texts=TEXTS, heldout=TEXTS)
def test_a_prompt_that_is_held_out_never_trains(texts: list[str], heldout: list[str]) -> None:
    """Held-out rows are all kept; overlap leaves training and is counted: in = kept + dropped over both files."""
    table, dropped = split(raw(texts), 0.5, heldout=raw(heldout))
    found = sides(table)
    assert {text for text, side in found.items() if side == "heldout"} == set(heldout)
    assert {text for text, side in found.items() if side == "train"} == set(texts) - set(heldout)
    assert dropped["overlap"] == len(set(texts) & set(heldout))
    assert len(texts) + len(heldout) == table.num_rows + sum(dropped.values())


@settings(deadline=None)  # other work on the machine must not fail a test
@given(pairs=st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("xyz")), min_size=1), fraction=st.floats(0, 1))
def test_rows_of_one_prompt_are_kept_by_their_own_key_and_stay_on_one_side(
    pairs: list[tuple[str, str]], fraction: float
) -> None:
    """(prompt, key) twice is a duplicate; two keys of one prompt are two rows, both train or both held out."""
    table = raw([prompt for prompt, _ in pairs])
    keys = pa.array([prompt + key for prompt, key in pairs])
    labelled, dropped = split(table.append_column("set_id", keys), fraction, key="set_id")
    assert sorted(labelled["set_id"].to_pylist()) == sorted({prompt + key for prompt, key in pairs})
    assert dropped["duplicate"] == len(pairs) - len(set(pairs))
    placed = set(zip(labelled["prompt"].to_pylist(), labelled["split"].to_pylist(), strict=True))
    assert len(placed) == len({prompt for prompt, _ in pairs})
    if 0.0 < fraction < 1.0 and len(placed) > 1:
        assert {side for _, side in placed} == {"train", "heldout"}


def test_more_prompts_do_not_move_a_prompt_to_the_other_side() -> None:
    """With 200 prompts neither side is empty, so each side is the hash's alone."""
    texts = [f"prompt {i}" for i in range(400)]
    few, many = sides(split(raw(texts[:200]), 0.1)[0]), sides(split(raw(texts), 0.1)[0])
    assert all(many[text] == side for text, side in few.items())
    assert 20 <= sum(side == "heldout" for side in many.values()) <= 60  # 40 expected, standard deviation 6


def test_two_prompts_give_one_to_each_side_at_any_fraction() -> None:
    """The lowest hash is held out and the highest is not, whatever 1 % or 99 % of two would round to."""
    for fraction in (0.01, 0.99):
        assert sorted(sides(split(raw(["a", "b"]), fraction)[0]).values()) == ["heldout", "train"]
    assert set(sides(split(raw(["a", "b"]), 0.0)[0]).values()) == {"train"}
