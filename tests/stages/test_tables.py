"""Durable tables: whole or absent, whatever happens between two writes."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from raypo.errors import DataError, IntegrityError, OutputError
from raypo.records import PROMPTS
from raypo.stages import tables


def prompts(*ids: str) -> pa.Table:
    """A table of records.PROMPTS with the given ids."""
    rows = [
        {"prompt_id": i, "prompt": f"say {i}", "prompt_token_ids": [1, 2], "split": "train", "metadata": "{}"}
        for i in ids
    ]
    return pa.Table.from_pylist(rows, schema=PROMPTS)


def test_a_committed_table_is_read_back_in_the_order_of_its_ids(tmp_path: Path) -> None:
    """Rows b, a, c go in; a, b, c come out, with the facts of the stage."""
    tables.commit(str(tmp_path / "t"), prompts("b", "a", "c"), "prompts", {"dropped": 4})
    table, manifest = tables.read(str(tmp_path / "t"))
    assert table["prompt_id"].to_pylist() == ["a", "b", "c"]
    assert (manifest.rows, manifest.facts) == (3, {"dropped": 4})


def test_rows_without_a_manifest_are_as_good_as_none(tmp_path: Path) -> None:
    """A process that dies before the manifest is written leaves files that no reader opens."""
    folder = tmp_path / "t"
    tables.commit(str(folder), prompts("a"), "prompts")
    (folder / tables.MANIFEST).unlink()
    assert tables.read(str(folder)) is None
    assert list(folder.glob("attempt-*/part-*.parquet"))


def test_a_second_attempt_adds_no_rows_to_the_first(tmp_path: Path) -> None:
    """Both attempts' files lie in the folder; the manifest lists those of the second alone."""
    folder = str(tmp_path / "t")
    tables.commit(folder, prompts("a", "b"), "prompts")
    tables.commit(folder, prompts("c"), "prompts")
    assert tables.read(folder)[0]["prompt_id"].to_pylist() == ["c"]


def test_a_torn_file_is_refused_and_not_read(tmp_path: Path) -> None:
    """Half of a Parquet file is missing."""
    folder = str(tmp_path / "t")
    tables.commit(folder, prompts("a", "b"), "prompts")
    path = Path(tables.files_of(folder)[0])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(IntegrityError, match="delete the folder"):
        tables.read(folder)


def test_rows_other_than_those_committed_are_refused(tmp_path: Path) -> None:
    """A file of the right shape with another row in it has another content hash."""
    folder = str(tmp_path / "t")
    tables.commit(folder, prompts("a"), "prompts")
    tables.commit(str(tmp_path / "other"), prompts("z"), "prompts")
    Path(tables.files_of(folder)[0]).write_bytes(Path(tables.files_of(str(tmp_path / "other"))[0]).read_bytes())
    with pytest.raises(IntegrityError, match="rows differ"):
        tables.read(folder)


def test_the_content_hash_does_not_depend_on_order_or_chunks() -> None:
    """The same three rows, reversed and in three chunks."""
    whole = prompts("a", "b", "c")
    pieces = pa.concat_tables([prompts("c"), prompts("b"), prompts("a")])
    assert tables.content_hash(whole) == tables.content_hash(pieces)
    assert tables.content_hash(whole) != tables.content_hash(prompts("a", "b", "d"))


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    """Nothing is written, so nothing half-written can look whole."""
    with pytest.raises(DataError, match="'metadata'"):
        tables.commit(str(tmp_path / "t"), prompts("a").drop_columns(["metadata"]), "prompts")
    assert not (tmp_path / "t").exists()


def test_an_unwritable_place_is_an_output_error(tmp_path: Path) -> None:
    """The folder's parent is a file, so no rights are needed to make it fail."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        tables.commit(str(tmp_path / "file" / "t"), prompts("a"), "prompts")


def test_a_json_file_is_whole_or_absent(tmp_path: Path) -> None:
    """A value that cannot be encoded leaves the older file as it was, and no temporary file."""
    path = tmp_path / "facts.json"
    tables.write_json(str(path), {"rows": 1})
    with pytest.raises(TypeError):
        tables.write_json(str(path), {"rows": object()})
    assert json.loads(path.read_text()) == {"rows": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["facts.json"]
