"""raypo.stages.mirror against a real S3 server on this machine: what is copied, when, and what comes back."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import httpx
import pyarrow.fs as pafs
import pytest
from test_storage import endpoint as endpoint
from test_tables import prompts
from tiny import run_config

from raypo.errors import OutputError
from raypo.online.folder import keeps_a_mirror
from raypo.stages import mirror, tables
from raypo.stages.mirror import Mirror, Unit, units

URI = "s3://bucket/kept/run"


def checkpoint(root: Path, version: int, *, weights: str, state: bool = True) -> None:
    """A checkpoint folder as the registry writes it: its manifest last."""
    place = root / "checkpoints" / f"version-{version:04d}"
    files = {"model/model.safetensors": weights} | ({"state/shard": "moments"} if state else {})
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    manifest = {"version": version, "weights": weights, "files": {name: len(text) for name, text in files.items()}}
    (place / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def empty(endpoint: str) -> None:
    """The server with an empty bucket: it keeps its objects for the life of the process."""
    httpx.post(f"{endpoint}/moto-api/reset").raise_for_status()
    httpx.put(f"{endpoint}/bucket").raise_for_status()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A run that has trained one version, and is about to commit another table and checkpoint."""
    place = tmp_path / "run"
    tables.write_json(str(place / "run.json"), {"config": {"seed": 0}})
    tables.commit(str(place / "prompts"), prompts("a", "b"), "prompts")
    checkpoint(place, 1, weights="one")
    (place / "metrics.jsonl").write_text('{"step": 1}\n')
    for name in ("rounds/round-0001/sampled/attempt-0/part.parquet", "checkpoints/version-0002/state/shard", "ray/x"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text("torn")
    return place


def stored() -> set[str]:
    """Names below the copy."""
    selector = pafs.FileSelector("bucket/kept/run", recursive=True, allow_not_found=True)
    found = pafs.FileSystem.from_uri("s3://bucket")[0].get_file_info(selector)
    return {info.path.removeprefix("bucket/kept/run/") for info in found if info.type == pafs.FileType.File}


def content(root: Path) -> dict[str, bytes]:
    """Files of a folder by name."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_units_are_what_was_committed_together() -> None:
    """A checkpoint inside another has its own manifest; what has none is not committed."""
    names = ["run.json", "c/manifest.json", "c/a", "c/in/manifest.json", "c/in/b", "t/attempt-1/x", "checkpoints/v/y"]
    assert set(units(dict.fromkeys(names))) == {
        Unit("run.json", ()),
        Unit("c/manifest.json", ("c/a",)),
        Unit("c/in/manifest.json", ("c/in/b",)),
    }


@pytest.mark.usefixtures("empty")
def test_what_is_committed_is_copied_and_comes_back_where_there_is_nothing(root: Path, tmp_path: Path) -> None:
    """Six files: run.json, metrics, the table and its manifest, two of the checkpoint and its manifest: seven. What is
    torn and Ray's own record stay behind; a second push copies nothing.
    """
    kept = Mirror(str(root), URI)
    assert kept.restore() == 0
    assert kept.push() == 7
    assert kept.push() == 0
    assert not {name for name in stored() if name.startswith(("ray", "rounds", "checkpoints/version-0002"))}
    fetched = tmp_path / "elsewhere" / "run"
    assert Mirror(str(fetched), URI).restore() == 7
    assert content(fetched) == {name: data for name, data in content(root).items() if name in stored()}
    assert tables.read(str(fetched / "prompts"))[0]["prompt_id"].to_pylist() == ["a", "b"]


@pytest.mark.usefixtures("empty")
def test_only_what_is_new_is_copied_and_what_was_pruned_goes(root: Path) -> None:
    """A second version; then the first loses its resume state, and then itself."""
    kept = Mirror(str(root), URI)
    kept.push()
    checkpoint(root, 2, weights="two")
    assert kept.push() == 3
    (root / "checkpoints/version-0001/state/shard").unlink()
    checkpoint(root, 1, weights="one", state=False)
    os.utime(root / "checkpoints/version-0001/manifest.json")
    kept.push()
    assert "checkpoints/version-0001/state/shard" not in stored()
    assert "checkpoints/version-0001/model/model.safetensors" in stored()
    shutil.rmtree(root / "checkpoints/version-0001")
    kept.push()
    assert not {name for name in stored() if "version-0001" in name}


@pytest.mark.usefixtures("empty")
def test_a_copy_that_was_cut_short_has_no_manifest_of_what_it_lacks(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store fails at the third file; what comes back is what was whole before. The next push ends it."""
    kept, send, sent = Mirror(str(root), URI), Mirror._send, []

    def failing(self: Mirror, name: str) -> None:
        if len(sent) == 5:
            raise OSError("away")
        sent.append(name)
        send(self, name)

    monkeypatch.setattr(Mirror, "_send", failing)
    with pytest.raises(OSError, match="away"):
        kept.push()
    assert "checkpoints/version-0001/manifest.json" not in stored()
    fetched = tmp_path / "elsewhere" / "run"
    Mirror(str(fetched), URI).restore()
    assert tables.read(str(fetched / "prompts")) is not None
    monkeypatch.setattr(Mirror, "_send", send)
    kept.push()
    assert "checkpoints/version-0001/manifest.json" in stored()


@pytest.mark.usefixtures("empty")
def test_a_folder_that_has_more_than_its_copy_stays(root: Path) -> None:
    """It died before the last push; pruned versions in the copy do not bring it back."""
    Mirror(str(root), URI).push()
    checkpoint(root, 2, weights="two")
    shutil.rmtree(root / "checkpoints/version-0001")
    before = content(root)
    assert Mirror(str(root), URI).restore() == 0
    assert content(root) == before


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize("other", ["behind", "different"])
def test_a_folder_that_was_left_behind_is_moved_aside_and_not_mixed(other: str, root: Path, tmp_path: Path) -> None:
    """The run went on elsewhere: another version 1, or a version 2 that is not here."""
    elsewhere = shutil.copytree(root, tmp_path / "elsewhere")
    checkpoint(elsewhere, 2 if other == "behind" else 1, weights="theirs")
    Mirror(str(elsewhere), URI).push()
    assert Mirror(str(root), URI).restore() > 0
    [aside] = tmp_path.glob("run.stale-*")
    assert (aside / "checkpoints/version-0001/model/model.safetensors").read_text() == "one"
    newest = max((root / "checkpoints").iterdir())
    assert (newest / "model/model.safetensors").read_text() == "theirs"


@pytest.mark.usefixtures("empty")
def test_a_run_fetches_its_folder_first_and_leaves_a_whole_copy(tmp_path: Path) -> None:
    """Two verbs in one config: the first writes a table, the second finds it on an empty disk; a verb that fails leaves
    what it committed too.
    """
    config = run_config("m", tmp_path / "one").model_copy(update={"mirror": "s3://bucket/kept"})

    @keeps_a_mirror
    def verb(config: object, root: Path, names: str) -> list[str]:
        found = tables.read(str(root / "prompts"))
        tables.write_json(str(root / "run.json"), {})
        tables.commit(str(root / f"prompts-{names}"), prompts(*names), "prompts")
        if found is None:
            tables.commit(str(root / "prompts"), prompts(*names), "prompts")
            raise ValueError("after it was committed")
        return found[0]["prompt_id"].to_pylist()

    with pytest.raises(ValueError, match="after it was committed"):
        verb(config, tmp_path / "one" / "run", "ab")
    moved = config.model_copy(update={"output": str(tmp_path / "two")})
    assert verb(moved, tmp_path / "two" / "run", "c") == ["a", "b"]
    assert {name.split("/")[0] for name in stored()} == {"run.json", "prompts", "prompts-ab", "prompts-c"}


@pytest.mark.usefixtures("empty")
def test_a_bucket_that_is_not_there_ends_a_run_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that goes away under it is an error at its end, with the folder whole."""
    monkeypatch.setattr(mirror, "ATTEMPTS", 1)
    monkeypatch.setattr(mirror.time, "sleep", lambda seconds: None)
    config = run_config("m", tmp_path).model_copy(update={"mirror": "s3://other"})
    with pytest.raises(OutputError, match="s3://other cannot be written"), mirror.mirrored(config, str(tmp_path / "r")):
        tables.write_json(str(tmp_path / "r" / "run.json"), {})
    assert (tmp_path / "r" / "run.json").is_file()
