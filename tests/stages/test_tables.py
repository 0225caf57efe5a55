"""Durable tables: whole or absent, whatever happens between two writes."""

from __future__ import annotations

import errno
import json
import os
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
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


class Failing:
    """Stands for storage: a function of pyarrow that fails so many times, and then is itself."""

    def __init__(self, real: Any, error: OSError, times: int) -> None:
        self.real, self.error, self.left = real, error, times

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.left:
            self.left -= 1
            raise self.error
        return self.real(*args, **kwargs)


STALE = OSError(errno.ESTALE, "Stale file handle")


@pytest.mark.parametrize("name", ["write_table", "read_table"])
def test_storage_that_fails_once_costs_a_second_attempt_and_no_rows(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One ESTALE while rows are written, or while they are read."""
    fault = Failing(getattr(pq, name), STALE, 1)
    monkeypatch.setattr(pq, name, fault)
    tables.commit(str(tmp_path / "t"), prompts("a", "b"), "prompts")
    assert tables.read(str(tmp_path / "t"))[0].num_rows == 2
    assert fault.left == 0


def test_a_manifest_that_cannot_be_put_in_place_once_is_put_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rename fails with EIO; the second attempt leaves no temporary file."""
    monkeypatch.setattr(tables.os, "replace", Failing(os.replace, OSError(errno.EIO, "I/O error"), 1))
    tables.commit(str(tmp_path / "t"), prompts("a"), "prompts")
    assert not list((tmp_path / "t").glob("*.tmp"))
    assert tables.read(str(tmp_path / "t")) is not None


def test_storage_that_fails_for_good_is_told_after_three_attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = Failing(pq.write_table, STALE, 9)
    monkeypatch.setattr(pq, "write_table", fault)
    with pytest.raises(OutputError, match="Stale file handle"):
        tables.commit(str(tmp_path / "t"), prompts("a"), "prompts")
    assert fault.left == 9 - tables.ATTEMPTS
    assert tables.read(str(tmp_path / "t")) is None


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
def test_a_table_whose_storage_is_away_is_not_taken_for_torn(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For longer than the attempts: its stage is not made again, and the table is there when the storage is."""
    folder = str(tmp_path / "t")
    tables.commit(folder, prompts("a", "b"), "prompts")
    with monkeypatch.context() as away:
        away.setattr(pq, "read_table", Failing(pq.read_table, OSError(number, os.strerror(number)), 9))
        for reader in (tables.read, tables.whole):
            with pytest.raises(OutputError, match=r"(?s)cannot be read.*nothing was changed"):
                reader(folder)
    assert tables.whole(folder)[0].num_rows == 2
    Path(tables.files_of(folder)[0]).unlink()
    assert tables.whole(folder) is None


def test_a_torn_output_is_set_aside_and_can_be_made_again(tmp_path: Path) -> None:
    """Half a manifest, and half a file: each time the folder is empty to its reader, and takes a new table."""
    folder = tmp_path / "t"
    for fault in ("manifest", "rows"):
        tables.commit(str(folder), prompts("a", "b"), "prompts")
        path = folder / tables.MANIFEST if fault == "manifest" else Path(tables.files_of(str(folder))[0])
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert tables.whole(str(folder)) is None
        assert tables.manifest_of(str(folder)) is None
    assert len(list(folder.glob(f"{tables.TORN}-*"))) == 2
    tables.commit(str(folder), prompts("c"), "prompts")
    assert tables.whole(str(folder))[0]["prompt_id"].to_pylist() == ["c"]


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "prompt"},
        {"schema": ["prompts"]},
        {"files": {}},
        {"files": 3},
        {"files": [1]},
        {"facts": []},
        {"content": None},
        {"rows": "2"},
        {"more": 1},
    ],
)
def test_a_manifest_that_is_none_of_a_table_is_torn(changes: dict[str, Any], tmp_path: Path) -> None:
    """Also one without a seal, which hides nothing: it is set aside, and takes a new table."""
    folder = tmp_path / "t"
    tables.commit(str(folder), prompts("a"), "prompts")
    tree = json.loads((folder / tables.MANIFEST).read_text())
    del tree["seal"]
    tables.write_json(str(folder / tables.MANIFEST), tree)
    assert tables.read(str(folder))[1].rows == 1
    tables.write_json(str(folder / tables.MANIFEST), tree | changes)
    with pytest.raises(IntegrityError, match="its manifest is torn"):
        tables.read(str(folder))
    assert tables.whole(str(folder)) is None
    assert tables.manifest_of(str(folder)) is None


@pytest.mark.parametrize("what", ["rows", "manifest"])
def test_one_wrong_bit_anywhere_is_a_torn_table_or_none_at_all(what: str, tmp_path: Path) -> None:
    """A seeded bit at each byte of the Parquet file and of the manifest: the committed rows and facts, or refused.

    Rows can come back whole in spite of it: Parquet holds statistics and names that nobody reads.
    """
    folder, table = tmp_path / "t", prompts("a", "b", "c")
    facts = {"source": "abc/start", "scales": {"reward": 1.25, "psi": 0.5}}
    made = tables.commit(str(folder), table, "prompts", facts)
    path = folder / (tables.MANIFEST if what == "manifest" else next(iter(made.files)))
    whole, draw = path.read_bytes(), random.Random(0)
    torn = 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            found = tables.read(str(folder))
        except IntegrityError:
            torn += 1
            continue
        assert found is not None
        assert found[0].equals(table)
        assert found[1] == made
    assert torn > len(whole) // 3
    path.write_bytes(whole)
    assert tables.read(str(folder)) is not None
