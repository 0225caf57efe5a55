"""Which run a folder holds: changed configs, changed pins, and forks."""

from __future__ import annotations

import io
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from command_line import call
from huggingface_hub import constants as hub_constants
from rich.console import Console
from tiny import annotated, run_config
from tiny import prompt_table as prompts

from raypo.config import RunConfig, as_yaml
from raypo.errors import ConfigError, DataError, IntegrityError
from raypo.models.content import content_of
from raypo.online import identity
from raypo.online.committed import commit, find
from raypo.online.folder import RunFolder
from raypo.online.fork import fork, refuse_mixed, refuse_ordinal
from raypo.online.identity import QUICKSTART, RUN, TRAIN
from raypo.online.run import finished
from raypo.stages import tables
from raypo.stages.annotation import annotated_for
from raypo.stages.mirror import fetched
from raypo.training import checkpoint
from raypo.training.checkpoint import Checkpoint, folder_of


@pytest.fixture
def opened(tiny_model: Path, tmp_path: Path) -> RunConfig:
    """A run that was started: its folder has a run.json."""
    config = run_config(tiny_model, tmp_path)
    identity.open_folder(RunFolder(config), config, RUN)
    return config


def changed(config: RunConfig, section: str, **values: Any) -> RunConfig:
    """The config with other values in one section."""
    return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})


def record(config: RunConfig) -> dict[str, Any]:
    return json.loads(Path(RunFolder(config).path("run.json")).read_text())


@pytest.mark.parametrize("text", ["[]", '{"pins": 1}', '{"config": 3}', '{"config": {}, "earlier_pins": 3}', "{"])
def test_a_damaged_record_is_told_and_never_taken_for_a_new_run(opened: RunConfig, text: str) -> None:
    """Nor is a folder whose record was removed while its rounds were not."""
    folder = RunFolder(opened)
    Path(folder.path("run.json")).write_text(text)
    with pytest.raises(IntegrityError, match=r"run\.json"):
        identity.same_config(folder, opened, RUN)
    Path(folder.path("run.json")).unlink()
    Path(folder.path("checkpoints")).mkdir()
    with pytest.raises(IntegrityError, match=r"has checkpoints and no run\.json"):
        identity.same_config(folder, opened, RUN)


def test_pins_are_versions_world_size_threads_types_and_the_processor(opened: RunConfig) -> None:
    pins = record(opened)["pins"]
    assert pins["torch"] == torch.__version__.partition("+")[0] or pins["torch"] == torch.__version__
    assert {"ray", "transformers", "python", "processor"} <= pins.keys()
    names = ("world_size", "threads", "compute_dtype", "export_dtype")
    assert [pins[name] for name in names] == [2, 1, "float32", "float32"]


def test_the_processor_is_no_pin_where_nothing_bitwise_is_claimed(opened: RunConfig) -> None:
    """bfloat16, more threads, or a GPU: each alone."""
    for section, values in (
        ("policy", {"export_dtype": "bfloat16"}),
        ("training", {"threads": 2}),
        ("training", {"gpus_per_worker": 1}),
    ):
        assert "processor" not in identity.pins(changed(opened, section, **values))


def test_another_version_is_refused_by_name_until_it_is_accepted(
    opened: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accepted, the run's record keeps the older pins, and the next start asks for nothing."""
    before = identity.versions()
    monkeypatch.setattr(identity, "versions", lambda: before | {"ray": "2.61.0"})
    with pytest.raises(ConfigError, match=r"ray \('2\.\d+\.\d+' -> '2\.61\.0'\)") as caught:
        identity.open_folder(RunFolder(opened), opened, RUN)
    assert "--accept-pins" in str(caught.value)
    assert record(opened)["pins"]["ray"] == before["ray"]
    identity.open_folder(RunFolder(opened), opened, RUN, accept_pins=True)
    assert record(opened)["pins"]["ray"] == "2.61.0"
    assert [one["ray"] for one in record(opened)["earlier_pins"]] == [before["ray"]]
    identity.open_folder(RunFolder(opened), opened, RUN)


@pytest.fixture
def own_policy(tiny_model: Path, tmp_path: Path) -> RunConfig:
    """A run that was started from a policy folder that may be changed."""
    shutil.copytree(tiny_model, tmp_path / "policy")
    config = run_config(tmp_path / "policy", tmp_path / "runs")
    identity.open_folder(RunFolder(config), config, RUN)
    return config


def test_other_weights_in_the_policys_folder_are_refused_until_they_are_accepted(own_policy: RunConfig) -> None:
    """One bit, at the same path and of the same size and time."""
    file = Path(own_policy.policy.path) / "model.safetensors"
    data, time = bytearray(file.read_bytes()), file.stat().st_mtime_ns
    data[-1] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(time, time))
    with pytest.raises(ConfigError, match="policy_weights") as caught:
        identity.open_folder(RunFolder(own_policy), own_policy, RUN)
    assert "--accept-pins" in caught.value.remedy
    identity.open_folder(RunFolder(own_policy), own_policy, RUN, accept_pins=True)
    assert len(record(own_policy)["earlier_pins"]) == 1
    identity.open_folder(RunFolder(own_policy), own_policy, RUN)


def test_a_record_without_the_weights_goes_on_and_has_them_from_then_on(own_policy: RunConfig) -> None:
    """Of a run that began before its policy was written, or whose policy cannot be looked up now."""
    folder, known = RunFolder(own_policy), record(own_policy)
    weights = known["pins"].pop("policy_weights")
    tables.write_json(folder.path("run.json"), known)
    identity.open_folder(folder, own_policy, RUN)
    assert record(own_policy)["pins"]["policy_weights"] == weights
    (Path(own_policy.policy.path) / "config.json").unlink()
    assert "policy_weights" not in identity.pins(own_policy)
    identity.open_folder(folder, own_policy, RUN)
    assert record(own_policy)["pins"]["policy_weights"] == weights
    assert record(own_policy)["earlier_pins"] == []


def test_the_content_of_a_large_folder_is_its_headers_and_samples(tiny_model: Path, tmp_path: Path) -> None:
    """Three MiB and not a byte may be read whole: beginning, middle of a block and end count, and so does a name."""
    shutil.copytree(tiny_model, tmp_path / "p")
    file = tmp_path / "p" / "model.safetensors"
    file.write_bytes(bytes(3 << 20))
    seen = {content_of(str(tmp_path / "p"), whole=0)}
    for place in (0, (1 << 20) + 5, (3 << 20) - 1):
        data = bytearray(3 << 20)
        data[place] = 1
        file.write_bytes(data)
        seen.add(content_of(str(tmp_path / "p"), whole=0))
    file.rename(file.with_name("other.safetensors"))
    seen.add(content_of(str(tmp_path / "p"), whole=0))
    assert len(seen) == 5
    assert content_of("nobody/has-this-one") is None


def test_the_commit_of_a_hub_name_is_that_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Laid out as the hub's client does it; the name of the newest commit is in `refs/main`."""
    place = tmp_path / "models--owner--name"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("c0ffee")
    (place / "snapshots" / "c0ffee").mkdir(parents=True)
    (place / "snapshots" / "c0ffee" / "config.json").write_text("{}")
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path))
    assert content_of("owner/name") == "commit c0ffee"


def test_another_world_size_is_a_changed_config_that_accepted_pins_allow(opened: RunConfig) -> None:
    one = changed(opened, "training", workers=1)
    with pytest.raises(ConfigError, match=r"training\.workers \(2 -> 1\)") as caught:
        identity.open_folder(RunFolder(one), one, RUN)
    assert "--accept-pins" in str(caught.value)
    identity.open_folder(RunFolder(one), one, RUN, accept_pins=True)
    assert record(one)["config"]["training"]["workers"] == 1


def test_accepted_pins_allow_no_other_change(opened: RunConfig) -> None:
    other = changed(opened, "training", learning_rate=3e-3)
    with pytest.raises(ConfigError, match=r"training\.learning_rate \(0\.01 -> 0\.003\)") as caught:
        identity.open_folder(RunFolder(other), other, RUN, accept_pins=True)
    assert "--fork NAME" in str(caught.value)


def test_accepted_pins_are_not_asked_for_again_and_a_verb_advises_only_what_it_has(opened: RunConfig) -> None:
    """A finished run is met by the pins that were accepted; quickstart has --out and --seed alone."""
    one, quiet = changed(opened, "training", workers=1), Console(file=io.StringIO())
    folder = RunFolder(opened)
    tables.write_json(folder.path("summary.json"), {"name": "run"})
    assert finished(folder, one, quiet, RUN, accept_pins=True) == {"name": "run"}
    told = {}
    for verb in (RUN, replace(TRAIN, kind="online"), QUICKSTART):
        with pytest.raises(ConfigError) as caught:
            finished(folder, one, quiet, verb, accept_pins=False)
        told[verb.command] = caught.value.remedy
    assert told == {
        "raypo run": "add --fork NAME for a new run that goes on from here, choose another name=, or remove the folder "
        "(these alone: --accept-pins)",
        "raypo train": "choose another name=, or remove the folder (these alone: --accept-pins)",
        "raypo quickstart": "choose another --out, or remove the folder",
    }


def test_other_pins_are_refused_without_an_option_that_the_verb_lacks(
    opened: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = identity.versions()
    monkeypatch.setattr(identity, "versions", lambda: before | {"ray": "2.61.0"})
    with pytest.raises(ConfigError) as caught:
        identity.open_folder(RunFolder(opened), opened, QUICKSTART)
    assert caught.value.remedy == "restore them, or choose another --out, or remove the folder"


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_summary_is_told_and_made_again(opened: RunConfig, text: str) -> None:
    """It never ends a run, nor counts as the end of one."""
    folder, said = RunFolder(opened), io.StringIO()
    Path(folder.path("summary.json")).write_text(text)
    assert finished(folder, opened, Console(file=said, width=500), RUN, accept_pins=False) is None
    assert len(said.getvalue().splitlines()) == 1
    assert "summary.json is no" in said.getvalue()
    assert "made again" in said.getvalue()


# ---- kinds


def test_a_run_of_another_kind_is_refused_by_both_verbs(opened: RunConfig) -> None:
    folder = RunFolder(opened)
    assert record(opened)["kind"] == "online"
    with pytest.raises(ConfigError, match="is online: raypo run made it") as caught:
        identity.same_config(folder, opened, TRAIN)
    assert "another name=" in caught.value.remedy
    assert "--fork" not in str(caught.value)
    Path(folder.path("run.json")).unlink()
    identity.open_folder(folder, opened, TRAIN)
    assert identity.same_config(folder, opened, TRAIN)
    with pytest.raises(ConfigError, match="is offline: raypo train made it") as caught:
        identity.open_folder(folder, opened, RUN)
    assert "--fork" not in str(caught.value)


def test_the_advice_to_remove_a_folder_names_its_mirror_too(opened: RunConfig) -> None:
    """The folder alone would be fetched again, and refused again."""
    kept = changed(opened, "training", learning_rate=3e-3).model_copy(update={"mirror": "s3://bucket/kept"})
    for verb in (RUN, TRAIN):
        with pytest.raises(ConfigError) as caught:
            identity.same_config(RunFolder(kept), kept, verb)
        assert "remove the folder and its copy, s3://bucket/kept/run" in caught.value.remedy


def test_a_record_without_a_kind_is_of_the_kind_that_its_folder_shows(opened: RunConfig) -> None:
    """An unknown kind is damage."""
    folder, known = RunFolder(opened), record(opened)
    tables.write_json(folder.path("run.json"), {key: value for key, value in known.items() if key != "kind"})
    assert identity.same_config(folder, opened, RUN)
    Path(folder.path("train")).mkdir()
    assert identity.same_config(folder, opened, TRAIN)
    tables.write_json(folder.path("run.json"), known | {"kind": ["online"]})
    with pytest.raises(IntegrityError, match="no record of a run"):
        identity.same_config(folder, opened, RUN)


def test_a_fork_of_an_offline_run_is_refused(advanced: RunConfig) -> None:
    """Its checkpoint is no round of an online run; the remedy names the model to start anew from."""
    folder = RunFolder(advanced)
    tables.write_json(folder.path("run.json"), record(advanced) | {"kind": "offline"})
    with pytest.raises(ConfigError, match="which is offline") as caught:
        fork(advanced, "onward")
    assert f"policy.path={folder.model(1)}" in caught.value.remedy
    assert not Path(folder.root).with_name("onward").exists()


# ---- what is committed


def test_a_table_of_another_source_or_torn_is_set_aside_and_said(tmp_path: Path) -> None:
    """Made from x it is found for x; asked for y, or with half a file, it is taken away and the next attempt counts."""
    place, said = str(tmp_path / "t"), []
    done = commit(place, prompts("a", "b"), "prompts", {"n": 1}, "x")
    known = find(place, "x", said.append)
    assert (known.content, known.facts["n"], known.new, said) == (done.content, 1, False, [])
    assert find(place, "y", said.append) is None
    assert "no longer there" in said[0]
    assert find(place, "x", said.append) is None
    commit(place, prompts("a", "b"), "prompts", {}, "y")
    path = Path(tables.files_of(place)[0])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert find(place, "y", said.append) is None
    assert "torn" in said[1]
    assert commit(place, prompts("a", "b"), "prompts", {}, "y").content == done.content
    assert find(place, "y", said.append) is not None


# ---- forks


@pytest.fixture
def advanced(opened: RunConfig) -> RunConfig:
    """A run with prompts, one finished round, two evaluations, version 1, and a second round under way."""
    folder = RunFolder(opened)
    tables.commit(folder.path("prompts"), prompts("a", "b"), "prompts")
    for place in (folder.stage(0, "sampled"), folder.stage(1, "sampled"), folder.evaluation(0), folder.evaluation(1)):
        tables.commit(place, prompts("a"), "prompts", {"place": place})
    for name, step in (("state", None), ("model", None), ("state", 3)):
        made = folder_of(folder.root, 1 if step is None else 2, step) / name
        made.mkdir(parents=True)
        (made / "x.safetensors").write_text(name)
        (made / ".metadata").write_text(name)
    checkpoint.commit(folder.root, Checkpoint(1, 0.5, 2))
    Path(folder.path("metrics.jsonl")).write_text('{"step": 1}\n{"step": 2}\n')
    return opened


def test_a_fork_takes_over_what_is_finished_and_nothing_under_way(advanced: RunConfig) -> None:
    """Round 1 and the state inside it stay behind; writing into the fork's metrics leaves the older run's alone."""
    new = fork(changed(advanced, "training", learning_rate=3e-3), "slower")
    old, folder = RunFolder(advanced), RunFolder(new)
    assert (new.name, new.training.learning_rate) == ("slower", 3e-3)
    assert tables.read(folder.path("prompts"))[0]["prompt_id"].to_pylist() == ["a", "b"]
    assert tables.read(folder.stage(0, "sampled")) is not None
    assert not Path(folder.path("rounds", "round-0001")).exists()
    assert [tables.read(folder.evaluation(v)) is None for v in (0, 1)] == [False, False]
    assert checkpoint.resumable(folder.root).version == 1
    assert checkpoint.newest_inside(folder.root, 2) is None
    assert not list((Path(folder.root) / "checkpoints").glob("*.step-*"))
    Path(folder.path("metrics.jsonl")).write_text("")
    assert len(Path(old.path("metrics.jsonl")).read_text().splitlines()) == 2
    assert identity.same_config(folder, new, RUN)
    assert fork(changed(advanced, "training", learning_rate=3e-3), "slower") == new
    assert sorted(path.name for path in Path(advanced.output).iterdir() if path.is_dir()) == ["run", "slower"]


def test_a_fork_that_is_refused_is_not_made_and_one_that_is_there_is_asked_nothing(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A finished fork whose policy is gone says that it is finished, as a run does: exit code 0."""

    def refuse(config: RunConfig) -> None:
        raise ConfigError(f"{config.name} is refused", "another", "give another")

    older = run_config(shutil.copytree(tiny_model, tmp_path / "policy"), tmp_path / "runs")
    identity.open_folder(RunFolder(older), older, RUN)
    with pytest.raises(ConfigError, match="slower is refused"):
        fork(older, "slower", preflight=refuse)
    new = fork(older, "slower", preflight=lambda config: None)
    assert fork(older, "slower", preflight=refuse) == new
    tables.write_json(RunFolder(new).path("summary.json"), {"name": "slower"})
    shutil.rmtree(older.policy.path)
    (tmp_path / "run.yaml").write_text(as_yaml(older))
    code, out, err = call(monkeypatch, capsys, "run", str(tmp_path / "run.yaml"), "--fork", "slower")
    assert code == 0, err
    assert "run slower is finished" in out
    code, out, err = call(monkeypatch, capsys, "run", str(tmp_path / "run.yaml"), "--fork", "another")
    assert code == 2
    assert not Path(older.output, "another").exists()


def test_a_fork_is_made_and_continued_on_a_new_disk_from_the_mirror(advanced: RunConfig, tmp_path: Path) -> None:
    """The older run comes from the mirror where it is needed; where the fork is there already, it alone does."""
    kept = changed(advanced, "training", learning_rate=3e-3).model_copy(update={"mirror": f"file://{tmp_path}/kept"})
    older = advanced.model_copy(update={"mirror": kept.mirror})
    tables.write_json(RunFolder(older).path("run.json"), record(advanced) | {"config": older.model_dump(mode="json")})

    def lose(config: RunConfig) -> None:
        fetched(config, RunFolder(config).root).push()
        shutil.rmtree(RunFolder(config).root)

    lose(older)
    new = fork(kept, "slower")
    assert checkpoint.resumable(RunFolder(new).root).version == 1
    shutil.rmtree(RunFolder(older).root)
    lose(new)
    assert fork(kept, "slower") == new
    assert checkpoint.resumable(RunFolder(new).root).version == 1
    assert not Path(RunFolder(older).root).exists()
    with pytest.raises(ConfigError, match=f"is not in .* or file://{tmp_path}/kept"):
        fork(kept.model_copy(update={"name": "never"}), "other")


def test_a_fork_of_a_run_with_another_measure_is_refused(advanced: RunConfig) -> None:
    """Sampling is what rewards and KL are measured on; the remedy names the model to start anew from."""
    with pytest.raises(ConfigError, match=r"sampling\.temperature \(1\.0 -> 0\.5\)") as caught:
        fork(changed(advanced, "sampling", temperature=0.5), "cooler")
    assert "policy.path=" in str(caught.value)
    assert "version-0001/model" in str(caught.value)
    assert not Path(RunFolder(advanced).root).with_name("cooler").exists()


def test_a_fork_that_its_checkpoint_cannot_follow_is_refused(advanced: RunConfig) -> None:
    """tr-dpo keeps a moving reference in its state, which w-mpo's state has not; nor has it an averaged reference."""
    with pytest.raises(ConfigError, match="moving reference"):
        fork(changed(advanced, "objective", preset="tr-dpo"), "moving")
    with pytest.raises(ConfigError, match="averaged reference"):
        fork(changed(advanced, "online", reference="ema"), "averaged")


def annotated_round(folder: RunFolder, round_index: int, config: RunConfig) -> None:
    """A finished round's annotated table, as a run of this config commits it."""
    facts = {"basis": annotated_for(config, round_index)}
    tables.commit(
        folder.stage(round_index, "annotated"), annotated(3, responses=2, round_index=round_index), "annotated", facts
    )


def test_a_fork_of_a_fork_does_not_mix_references(opened: RunConfig) -> None:
    """Round 1 is the first run's and measured against its own version; the second run's config says nothing of that."""
    everything, folder = changed(opened, "online", data="accumulate"), RunFolder(opened)
    annotated_round(folder, 0, changed(opened, "online", reference="previous"))
    refuse_mixed(everything, folder, 1)  # the previous of round 0 is the policy itself
    annotated_round(folder, 1, changed(opened, "online", reference="previous"))
    annotated_round(folder, 2, opened)
    with pytest.raises(ConfigError, match=r"trains on its round 2, .*'previous'.* together with .*'initial'"):
        refuse_mixed(everything, folder, 3)
    refuse_mixed(opened, folder, 3)  # fresh: older rounds are not read


def test_accumulated_rounds_have_what_the_objective_reads(opened: RunConfig) -> None:
    """Of w-mpo's rounds ld-dpo cannot take log-probs per token; tdpo1 makes its own. A lost table says nothing."""
    everything, folder = changed(opened, "online", data="accumulate"), RunFolder(opened)
    annotated_round(folder, 0, opened)
    refuse_mixed(changed(everything, "objective", preset="dpo"), folder, 1)
    with pytest.raises(ConfigError, match=r"'with_tokens': False.*'with_tokens': True"):
        refuse_mixed(changed(everything, "objective", preset="ld-dpo"), folder, 1)
    with pytest.raises(ConfigError, match="round 2, which is annotated as None"):
        refuse_mixed(everything, folder, 2)


@pytest.mark.parametrize("labels", [True, False])
def test_a_fork_to_an_objective_of_sizes_asks_whether_the_rewards_are_labels(opened: RunConfig, labels: bool) -> None:
    """The older run's mpo took labels; w-mpo weighs by the size of rewards, and its first round was the older run's."""
    ordinal = opened.model_copy(update={"objective": opened.objective.model_copy(update={"preset": "mpo"})})
    source, table = RunFolder(ordinal), annotated(3, responses=2, round_index=0)
    given = pa.array([[1.0, 0.0 if labels else 0.5]] * 3, table.schema.field("rewards").type)
    table = table.set_column(table.column_names.index("rewards"), "rewards", given)
    tables.commit(source.stage(0, "annotated"), table, "annotated")
    refuse_ordinal(ordinal, ordinal, source)
    if not labels:
        refuse_ordinal(ordinal, opened, source)
        return
    with pytest.raises(DataError, match="every reward is 0 or 1"):
        refuse_ordinal(ordinal, opened, source)


def test_a_fork_of_nothing_or_of_itself_is_refused(opened: RunConfig) -> None:
    with pytest.raises(ConfigError, match="is itself"):
        fork(opened, opened.name)
    with pytest.raises(ConfigError, match="is not in"):
        fork(opened.model_copy(update={"name": "never"}), "other")
