"""`raypo export` of a run's folder made by hand: weights bit for bit, sampling as evaluated, a card without secrets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hf_folders import make_model
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from raypo.config import build
from raypo.errors import ConfigError, DataError, OutputError
from raypo.online import export as exporting
from raypo.online.card import aim_of, data_of, licence_of, public_name
from raypo.online.evaluation import config_of_run
from raypo.online.export import export
from raypo.online.folder import RunFolder
from raypo.records import PROMPTS, SCORED
from raypo.stages import tables


def figure(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.125, "high": mean + 0.125, "n": 12}


def facts(version: int, reward: float) -> dict[str, Any]:
    names = ("reward_win_rate", "reward_win_rate_controlled", "kl_per_response", "length")
    evaluation = {
        "reward": figure(reward),
        "reward_gain": figure(reward - 0.25),
        "reward_gain_p": 0.0004,
        "reward_by_source": {"ones": figure(reward), "brevity": figure(-3.0)},
        "distinct_2": 0.5,
        "warnings": ["reward follows length"],
    } | {name: figure(0.75) for name in names}
    return {"version": version, "evaluation": evaluation}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two versions, of which the first is the better one."""
    place = tmp_path_factory.mktemp("export")
    start = make_model(place / "start", tied=True)
    (start / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A start\n")
    (place / "template.jinja").write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    config = build(
        {
            "name": "done",
            "output": str(place / "runs"),
            "policy": {
                "path": str(start),
                "compute_dtype": "float32",
                "export_dtype": "float32",
                "chat_template": str(place / "template.jinja"),
            },
            "prompts": {"path": str(place / "prompts.jsonl")},
            "sampling": {"temperature": 0.5, "max_response_tokens": 12, "stop_token_ids": [7]},
            "rewards": [
                {"name": "ones", "path": "judges:ones"},
                {"type": "http", "name": "brevity", "url": "http://host/score?team=secret", "weight": 0.0},
            ],
            "objective": {"preset": "w-mpo", "beta": 0.2},
            "scoring": {"allowed_hosts": ["host"]},
        }
    )
    folder = RunFolder(config)
    tables.write_json(folder.path("run.json"), {"config": json.loads(config.model_dump_json())})
    tables.commit(folder.path("prompts"), PROMPTS.empty_table(), "prompts", {"train": 30, "heldout": 12})
    for version, reward in enumerate((0.25, 0.75, 0.5)):
        tables.commit(folder.evaluation(version), SCORED.empty_table(), "scored", facts(version, reward))
        if version:
            make_model(Path(folder.checkpoint(version)) / "model", tied=True, seed=version)
    return Path(folder.root)


def test_the_best_version_is_exported_bit_for_bit(run: Path, tmp_path: Path) -> None:
    """Version 1 has reward 0.75; float32 as it was evaluated."""
    told = export(run, tmp_path / "out", dtype="float32")
    assert told.startswith("version 1 of done in float32")
    source = load_file(run / "checkpoints" / "version-0001" / "model" / "model.safetensors")
    exported = load_file(tmp_path / "out" / "model.safetensors")
    assert exported.keys() == source.keys()
    assert all(torch.equal(exported[name], source[name]) for name in source)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.float32
    text = (tmp_path / "out" / "README.md").read_text()
    assert "byte for byte" in text
    assert "cast after" not in text


def test_a_cast_is_bf16_and_said_on_the_card(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "out", version=2)
    source = load_file(run / "checkpoints" / "version-0002" / "model" / "model.safetensors")
    exported = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(exported[name], source[name].bfloat16()) for name in source)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16
    assert "evaluated in float32 and cast after that" in (tmp_path / "out" / "README.md").read_text()


def test_tokenizer_template_and_sampling_come_along(run: Path, tmp_path: Path) -> None:
    """The template that the run replaced, and the run's stop token beside the model's own (2)."""
    export(run, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.apply_chat_template([{"role": "user", "content": "w3"}], tokenize=False) == "w3"
    assert tokenizer("w3")["input_ids"] == AutoTokenizer.from_pretrained(run.parents[1] / "start")("w3")["input_ids"]
    sampling = GenerationConfig.from_pretrained(tmp_path / "out")
    assert sampling.eos_token_id == [2, 7]
    assert (sampling.do_sample, sampling.temperature, sampling.max_new_tokens) == (True, 0.5, 12)


def test_the_card_names_data_rewards_licences_and_results(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "out", licence="mit")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "mit"
    assert card.data.base_model == "start"
    text = " ".join(card.text.split())
    for said in (
        "| reward | 0.250 [0.125, 0.375] | 0.750 [0.625, 0.875] |",
        "30 training and 12 held-out prompts from `prompts.jsonl`",
        "score high on `ones`, and on nothing else: no more was aimed at. Watched and not trained on: `brevity`.",
        "| ones | function | `judges:ones` | 1.0 |",
        "| brevity | http | `http://host/score` | 0, watched |",
        "`w-mpo` (beta 0.2)",
        "| the model that it came from, `start` | apache-2.0 |",
        "- reward follows length",
        "- It is one of 2 versions that were evaluated on these prompts",
        "p = 0.0004",
    ):
        assert said in text, said
    assert "secret" not in text
    assert str(run.parent) not in text


def test_the_card_tells_rewards_by_the_sign_of_their_weight(run: Path) -> None:
    """Of weight 1 high, of -0.5 low, of 0 neither; without one of a kind there is no word of it."""
    one = config_of_run(run).rewards[0]
    high, low, *watched = (
        one.model_copy(update={"name": name, "weight": weight})
        for name, weight in (("a", 1.0), ("b", -0.5), ("c", 0.0), ("d", 0.0))
    )
    end = "and on nothing else: no more was aimed at."
    assert aim_of([high]) == f"The model was trained to score high on `a`, {end}"
    assert aim_of([low]) == f"The model was trained to score low on `b`, {end}"
    assert aim_of([high, low, *watched]) == (
        f"The model was trained to score high on `a` and low on `b`, {end} Watched and not trained on: `c`, `d`."
    )


def test_the_card_names_the_file_of_held_out_prompts(run: Path, tmp_path: Path) -> None:
    """A file of its own, which may have the name of the other; online, and offline before and after its table."""
    known = config_of_run(run)
    apart, same = (
        known.model_copy(update={"prompts": known.prompts.model_copy(update={"heldout_path": path})})
        for path in ("./test/other.jsonl", "./test/prompts.jsonl")
    )
    told = "30 training prompts from `prompts.jsonl` and 12 held-out prompts from"
    assert data_of(apart, RunFolder(known), "online") == f"{told} `other.jsonl`."
    assert data_of(same, RunFolder(known), "online") == f"{told} another `prompts.jsonl`."
    held = "Held-out sets are from `other.jsonl`."
    assert data_of(apart, RunFolder(known), "offline") == f"Sets of responses from `prompts.jsonl`. {held}"
    made = RunFolder(config_of_run(offline(run, tmp_path)))
    trained = "18 of 20 training sets of responses from `prompts.jsonl` could train."
    assert data_of(apart, made, "offline") == f"{trained} {held}"


def test_what_cannot_be_exported_is_refused(run: Path, tmp_path: Path) -> None:
    """No run, no such version, the start itself, an unknown type, a folder in use."""
    with pytest.raises(DataError, match=r"no run\.json"):
        export(tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match=r"version 9 .* not there"):
        export(run, tmp_path / "out", version=9)
    with pytest.raises(DataError, match="the model that the run began with"):
        export(run, tmp_path / "out", version=0)
    with pytest.raises(ConfigError, match="--dtype int8"):
        export(run, tmp_path / "out", dtype="int8")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(OutputError, match="not empty"):
        export(run, tmp_path / "full")
    with pytest.raises(OutputError, match="is a file"):
        export(run, tmp_path / "full" / "x")
    assert not (tmp_path / "out").exists()


def test_a_version_that_is_not_evaluated_is_exported_with_a_card_that_says_so(run: Path, tmp_path: Path) -> None:
    """The run died between the newest checkpoint and its evaluation; with no evaluation at all the newest is meant."""
    made = shutil.copytree(run, tmp_path / "done")
    shutil.rmtree(made / "evaluations" / "version-0002")
    assert export(made, tmp_path / "best").startswith("version 1 ")
    export(made, tmp_path / "out", version=2)
    text = (tmp_path / "out" / "README.md").read_text()
    assert "\nNot evaluated: the run has no figures of this version.\n" in text
    assert "This version is not evaluated" in text
    assert "and cast after that" not in text.replace("it was cast after that", "")
    assert "0.750 [" not in text
    shutil.rmtree(made / "evaluations")
    (made / "checkpoints" / "version-0001" / "manifest.json").write_text("{}")
    assert export(made, tmp_path / "newest").startswith("version 1 ")


def offline(run: Path, place: Path) -> Path:
    """The folder of a finished offline run, made of the online one's parts."""
    made = shutil.copytree(run, place / "done", ignore=shutil.ignore_patterns("evaluations", "prompts", "version-0002"))
    known = json.loads((made / "run.json").read_text())
    known["config"] |= {"rewards": []}
    tables.write_json(str(made / "run.json"), known | {"kind": "offline"})
    tables.commit(str(made / "train" / "annotated"), SCORED.empty_table(), "scored", {"sets": 20, "trainable": 18})
    return made


def test_an_offline_run_exports_its_one_version_with_what_it_measured(run: Path, tmp_path: Path) -> None:
    """Ranking accuracy and data, and no figure of rewards or KL; without a summary there is no figure at all."""
    made = offline(run, tmp_path)
    assert export(made, tmp_path / "early").startswith("version 1 of done in bfloat16")
    assert "\nNot evaluated: " in (tmp_path / "early" / "README.md").read_text()
    tables.write_json(str(made / "summary.json"), {"heldout_accuracy": figure(0.75)})
    export(made, tmp_path / "out", dtype="float32")
    text = " ".join(ModelCard.load(tmp_path / "out" / "README.md").text.split())
    for said in (
        "Held-out pairs of responses ranked as the rewards rank them: 0.750 [0.625, 0.875]",
        "over sets of given responses",
        "offline, seed 0",
        "On 12 held-out prompts",
        "18 of 20 training sets of responses from `prompts.jsonl` could train. Responses were given",
        "They came with the responses",
        "byte for byte",
    ):
        assert said in text, said
    assert "KL" not in text
    assert "online rounds" not in text
    assert load_file(tmp_path / "out" / "model.safetensors")


def test_an_export_that_fails_leaves_nothing_that_is_in_the_way(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full when the weights are there: the same command works later, also into a folder that exists."""
    (tmp_path / "there").mkdir()
    with monkeypatch.context() as broken:
        broken.setattr(exporting, "generation_of", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
        for out in (tmp_path / "out", tmp_path / "there"):
            with pytest.raises(OutputError, match="no space left"):
                export(run, out)
        broken.setattr(exporting, "card_of", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "there").iterdir())
    export(run, tmp_path / "there")
    assert {"README.md", "config.json", "model.safetensors"} <= {path.name for path in (tmp_path / "there").iterdir()}
    assert not (tmp_path / "there" / ".part").exists()


def test_float32_cannot_be_made_of_what_was_evaluated_in_bfloat16(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "bf16")
    tree = json.loads((tmp_path / "bf16" / "run.json").read_text())
    tree["config"]["policy"]["export_dtype"] = "bfloat16"
    (tmp_path / "bf16" / "run.json").write_text(json.dumps(tree))
    with pytest.raises(ConfigError, match="evaluated bfloat16"):
        export(tmp_path / "bf16", tmp_path / "out", dtype="float32")


def test_licences_are_read_where_they_are_stated(tmp_path: Path) -> None:
    assert licence_of(str(tmp_path)) == "not stated by its folder"
    (tmp_path / "LICENSE").write_text("words")
    assert licence_of(str(tmp_path)) == "see LICENSE of that folder"
    (tmp_path / "README.md").write_text("---\n" + yaml.safe_dump({"license": "mit"}) + "---\n")
    assert licence_of(str(tmp_path)) == "mit"
    (tmp_path / "README.md").write_text("# no front matter")
    assert licence_of(str(tmp_path)) == "see LICENSE of that folder"


def test_names_of_paths_do_not_tell_of_the_machine(tmp_path: Path) -> None:
    told = {
        str(tmp_path / "model"): "model",
        "owner/name": "owner/name",
        "./data/prompts.jsonl": "prompts.jsonl",
        "judges:f": "judges:f",
        "https://me:secret@host:80/x?token=1": "https://host/x",
    }
    assert {path: public_name(path) for path in told} == told
