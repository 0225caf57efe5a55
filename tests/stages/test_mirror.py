"""raypo.stages.mirror against a real S3 server on this machine: what is copied, when, and what comes back."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import httpx
import pyarrow.fs as pafs
import pytest
from test_storage import endpoint as endpoint
from test_tables import prompts
from tiny import run_config

from raypo.errors import OutputError
from raypo.online.folder import keeps_a_mirror
from raypo.stages import mirror, tables
from raypo.stages.mirror import Mirror
from raypo.stages.units import Unit, units
from raypo.training.checkpoint import (
    Checkpoint,
    commit,
    drop_inside,
    drop_states,
    folder_of,
    prune,
    resumable,
)

URI = "s3://bucket/kept/run"


def checkpoint(root: Path, version: int, *, weights: str, step: int | None = None) -> None:
    """A version of its own weights; with a step, what is kept inside the round that makes it."""
    place = folder_of(root, version, step)
    files = {"state/.metadata": f"moments of {weights}"} | ({} if step else {"model/model.safetensors": weights})
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    commit(root, Checkpoint(version, 0.0, step or 10 * version), inside=step is not None)


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
    for name in (
        "rounds/round-0001/sampled/attempt-0/part.parquet",
        "checkpoints/version-0002/state/.metadata",
        "ray/x",
    ):
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
def test_a_push_that_is_cut_short_has_the_record_and_the_metrics_of_what_it_has(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is gone after two files; by their times the metrics are the newest of all."""
    kept, copied = Mirror(str(root), URI), []
    replace = Mirror._replace

    def cut(self: Mirror, unit: Unit, marks: Any) -> int:
        if len(copied) == 2:
            raise OSError("the store is gone")
        copied.append(unit.manifest)
        return replace(self, unit, marks)

    monkeypatch.setattr(Mirror, "_replace", cut)
    with pytest.raises(OSError, match="the store is gone"):
        kept.push()
    assert copied == ["run.json", "metrics.jsonl"]
    assert stored() == {"run.json", "metrics.jsonl"}


@pytest.mark.usefixtures("empty")
def test_only_what_is_new_is_copied_and_what_was_pruned_goes(root: Path) -> None:
    """A second version; then the first loses its resume state, and then itself."""
    kept = Mirror(str(root), URI)
    kept.push()
    checkpoint(root, 2, weights="two")
    assert kept.push() == 3
    drop_states(root, older_than=2)
    kept.push()
    assert "checkpoints/version-0001/state/.metadata" not in stored()
    assert "checkpoints/version-0001/model/model.safetensors" in stored()
    prune(root, keep=set())
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
def test_a_folder_that_goes_away_does_not_take_its_copy_with_it(root: Path, tmp_path: Path) -> None:
    """The volume leaves under a run, with all of the folder, its record or its checkpoints; a run of the whole says so,
    one of less keeps what there is, and a damaged record is not copied over the whole one.
    """
    config = run_config("m", tmp_path).model_copy(update={"mirror": "s3://bucket/kept", "name": "run"})
    kept = Mirror(str(root), URI)
    kept.push()
    whole = stored()

    def fail() -> None:
        with mirror.mirrored(config, str(root)):
            root.rename(tmp_path / "unmounted")
            raise OSError("the volume went")

    with pytest.raises(OSError, match="the volume went"):
        fail()
    with pytest.raises(OSError, match=r"run\.json is gone or damaged"):
        kept.push()
    (root / "summary.json").parent.mkdir()
    (root / "summary.json").write_text("{}")
    (root / "run.json").write_text("")
    with pytest.raises(OSError, match=r"run\.json is gone or damaged"):
        kept.push()
    assert stored() == whole
    shutil.rmtree(root)
    (tmp_path / "unmounted").rename(root)
    shutil.rmtree(root / "checkpoints")
    kept.push()
    assert stored() == whole


@pytest.mark.usefixtures("empty")
def test_what_the_folder_has_torn_or_lost_stays_whole_in_the_copy(root: Path, tmp_path: Path) -> None:
    """Versions 3 and 2 are torn here, and set aside when the run starts; then version 1 is lost. None of it happens to
    the copy, of which version 3 comes back. Of a table that is set aside the copy has the whole one.
    """
    for version in (2, 3):
        checkpoint(root, version, weights=f"of {version}")
    kept = Mirror(str(root), URI)
    kept.push()
    whole = stored()
    (folder_of(root, 3) / "state/.metadata").write_text("torn")
    (folder_of(root, 2) / "state/.metadata").unlink()
    for version in (2, 3):
        os.utime(folder_of(root, version) / "manifest.json")
    tables.set_aside(str(root / "prompts"))
    kept.push()
    shutil.rmtree(folder_of(root, 1))
    assert resumable(root) is None
    kept.push()
    assert whole <= stored()
    fetched = tmp_path / "elsewhere" / "run"
    Mirror(str(fetched), URI).restore()
    assert resumable(fetched).version == 3
    assert tables.read(str(fetched / "prompts")) is not None


@pytest.mark.usefixtures("empty")
def test_a_version_that_is_made_again_is_never_mixed_with_the_first(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store fails when the weights are there and the manifest is not: the copy has no version 2 then."""
    checkpoint(root, 2, weights="two")
    kept, send = Mirror(str(root), URI), Mirror._send
    kept.push()
    checkpoint(root, 2, weights="again")

    def failing(self: Mirror, name: str) -> None:
        if name == "checkpoints/version-0002/manifest.json":
            raise OSError("away")
        send(self, name)

    monkeypatch.setattr(Mirror, "_send", failing)
    with pytest.raises(OSError, match="away"):
        kept.push()
    fetched = tmp_path / "elsewhere" / "run"
    Mirror(str(fetched), URI).restore()
    assert resumable(fetched).version == 1
    assert Mirror(str(root), URI).restore() == 0
    assert resumable(root).version == 2


@pytest.mark.usefixtures("empty")
def test_a_folder_that_is_ahead_of_its_copy_stays_with_less_state(root: Path) -> None:
    """It saved version 3, and with it dropped the state of version 1, and was killed before the copy had either."""
    checkpoint(root, 2, weights="two")
    Mirror(str(root), URI).push()
    checkpoint(root, 3, weights="three")
    drop_states(root, older_than=2)
    assert Mirror(str(root), URI).restore() == 0
    assert resumable(root).version == 3


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize("step", [None, 14])
def test_a_folder_that_is_ahead_by_a_step_or_a_version_stays(step: int | None, root: Path) -> None:
    """Version 2 took the place of its step 12, or step 14 did; of the version itself a later step does not."""
    checkpoint(root, 2, weights="inside", step=12)
    Mirror(str(root), URI).push()
    checkpoint(root, 2, weights="two", step=step)
    drop_inside(root, 2, keep=step)
    kept = Mirror(str(root), URI)
    assert kept.restore() == 0
    kept.push()
    assert not {name for name in stored() if "step-000012" in name}
    if step is not None:
        shutil.rmtree(folder_of(root, 1))
        assert Mirror(str(root), URI).restore() > 0
        assert resumable(root).version == 1


@pytest.mark.usefixtures("empty")
def test_a_table_that_was_set_aside_here_does_not_bring_an_older_copy_back(root: Path) -> None:
    """It is made again, and until then the copy keeps it; version 2 is here alone."""
    Mirror(str(root), URI).push()
    checkpoint(root, 2, weights="two")
    tables.set_aside(str(root / "prompts"))
    again = Mirror(str(root), URI)
    assert again.restore() == 0
    again.push()
    assert {"prompts/_manifest.json", "checkpoints/version-0002/manifest.json"} <= stored()


@pytest.mark.usefixtures("empty")
def test_the_next_start_copies_what_the_copy_lacks(root: Path, tmp_path: Path) -> None:
    """Loose files: run.json and metrics.jsonl; the new version's three; the manifest of the one that lost its state. A
    file that the store lost is copied again with its manifest. On a new disk all is known.
    """
    checkpoint(root, 2, weights="two")
    Mirror(str(root), URI).push()
    checkpoint(root, 3, weights="three")
    drop_states(root, older_than=2)
    again = Mirror(str(root), URI)
    assert (again.restore(), again.push()) == (0, 6)
    pafs.FileSystem.from_uri("s3://bucket")[0].delete_file("bucket/kept/run/checkpoints/version-0003/state/.metadata")
    again = Mirror(str(root), URI)
    assert (again.restore(), again.push()) == (0, 4)
    elsewhere = Mirror(str(tmp_path / "elsewhere" / "run"), URI)
    assert elsewhere.restore() > 0
    assert elsewhere.push() == 0


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


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize("again", [(), ("a", "c")], ids=["set aside", "made again"])
def test_a_folder_that_makes_a_table_again_is_not_behind_its_copy(root: Path, again: tuple[str, ...]) -> None:
    """The driver is killed before the copy has the second table, of other rows: the folder goes on with those."""
    Mirror(str(root), URI).push()
    tables.set_aside(str(root / "prompts"))
    if again:
        tables.commit(str(root / "prompts"), prompts(*again), "prompts")
    kept = Mirror(str(root), URI)
    assert kept.restore() == 0
    assert not list(root.parent.glob("*.stale-*"))
    kept.push()
    found = tables.read(str(root / "prompts"))
    assert (found and found[0]["prompt_id"].to_pylist()) == (list(again) or None)
    later = Mirror(str(root), URI)
    assert (later.restore(), later.push()) == (0, 2), "a later start sends the two files without a manifest alone"
    assert not [name for name in stored() if tables.TORN in name], "what was set aside stays where it was"


@pytest.mark.usefixtures("empty")
def test_a_folder_that_once_made_a_table_again_can_still_be_behind(root: Path, tmp_path: Path) -> None:
    """It makes the table again, as a, c; elsewhere the run goes on with a, d: back here it is not a, c that counts."""
    Mirror(str(root), URI).push()
    make_again(root, "a", "c")
    first = Mirror(str(root), URI)
    first.restore()
    first.push()
    elsewhere = tmp_path / "elsewhere" / "run"
    second = Mirror(str(elsewhere), URI)
    second.restore()
    make_again(elsewhere, "a", "d")
    second.push()
    assert Mirror(str(root), URI).restore() > 0
    assert tables.read(str(root / "prompts"))[0]["prompt_id"].to_pylist() == ["a", "d"]


def make_again(root: Path, *ids: str) -> None:
    """Set the prompts aside, and commit others."""
    tables.set_aside(str(root / "prompts"))
    tables.commit(str(root / "prompts"), prompts(*ids), "prompts")


@pytest.mark.usefixtures("empty")
def test_a_folder_with_another_table_than_its_copy_is_behind_it(root: Path) -> None:
    """Nothing was set aside here: somebody else went on from the copy."""
    Mirror(str(root), URI).push()
    shutil.rmtree(root / "prompts")
    tables.commit(str(root / "prompts"), prompts("a", "c"), "prompts")
    assert Mirror(str(root), URI).restore() > 0
    assert len(list(root.parent.glob("*.stale-*"))) == 1
    assert tables.read(str(root / "prompts"))[0]["prompt_id"].to_pylist() == ["a", "b"]
