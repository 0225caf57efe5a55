"""The plan: where each value comes from, what a run would do, and the memory per process."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from raypo import doctor
from raypo.config import apply_overrides, build
from raypo.errors import ConfigError, ModelError

FILE: dict[str, Any] = {
    "policy": {"path": "p", "compute_dtype": "float32", "export_dtype": "float32"},
    "prompts": {"path": "q"},
    "rewards": [{"name": "a", "path": "m:f"}],
}


def write_model(folder: Path, **changes: Any) -> Path:
    """Headers of one layer: 10 x 4 embedding, 4 x 4 and 8 x 4 matrices, a norm of 4; no weights at all."""
    folder.mkdir()
    config = {
        "hidden_size": 4,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 10,
    }
    (folder / "config.json").write_text(json.dumps(config | changes))
    shapes = {"embed": [10, 4], "layers.0.a": [4, 4], "layers.0.b": [8, 4], "norm": [4]}
    header = json.dumps({"__metadata__": {"format": "pt"}} | {name: {"shape": shape} for name, shape in shapes.items()})
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode())
    return folder


def sources(overrides: list[str]) -> dict[str, str]:
    """Source by key."""
    given = apply_overrides(FILE, overrides)
    return {value.key: value.source for value in doctor.resolve(build(given), given, overrides)}


def test_each_value_names_its_source() -> None:
    found = sources(["training.workers=2", "objective.alpha=2"])
    asked = ("training.workers", "objective.alpha", "policy.path", "rewards.0.name", "rewards.0.weight", "seed")
    assert [found[key] for key in asked] == ["override", "override", "file", "file", "default", "default"]
    assert found["objective.beta"] == "preset"


def test_a_section_given_on_the_command_line_is_an_override_as_far_as_it_goes() -> None:
    """The list of rewards is replaced; what its items leave out is still a default."""
    found = sources(["rewards=[{name: b, path: 'm:g'}]", "policy.path=other"])
    assert (found["rewards.0.path"], found["rewards.0.weight"], found["policy.path"]) == (
        "override",
        "default",
        "override",
    )
    assert found["policy.compute_dtype"] == "file"


def test_an_objective_without_a_meaning_has_no_plan() -> None:
    given = FILE | {"objective": {"preset": "dpo", "alpa": 1}}
    with pytest.raises(ConfigError, match="alpa"):
        doctor.resolve(build(given), given, [])


@pytest.mark.parametrize(
    ("data", "steps"),
    [("fresh", "14"), ("accumulate", "20")],
)
def test_steps_are_counted_by_round(data: str, steps: str) -> None:
    """200 prompts a round in steps of 32, two rounds. Accumulated, the second round trains on 400.

    fresh: 2 x ceil(200 / 32) = 2 x 7 = 14. accumulate: ceil(200 / 32) + ceil(400 / 32) = 7 + 13 = 20.
    """
    online = {"rounds": 2, "prompts_per_round": 200, "data": data}
    found = doctor.work(build(FILE | {"online": online}))
    assert found["optimizer steps, at most"] == steps
    assert found["responses"] == "3,200"  # 2 rounds x 200 prompts x 8
    assert found["response tokens, at most"] == "819,200"  # x 256


def test_without_a_weighted_reward_the_plan_is_an_offline_one() -> None:
    """No engine is counted: 1 train worker + 1 reference + 2 for Ray Data = 4 CPUs, against 5 with it."""
    offline = doctor.work(build(FILE | {"rewards": []}))
    assert offline["command"].startswith("raypo train")
    assert offline["logical CPUs asked"].startswith("4,")
    assert doctor.work(build(FILE))["logical CPUs asked"].startswith("5,")


def test_a_ray_of_too_few_cpus_is_told_beforehand() -> None:
    found = doctor.work(build(FILE | {"cluster": {"ray_cpus": 3}}))
    assert found["logical CPUs of a Ray that raypo starts here"] == "3: too few"


def test_the_headers_tell_the_shape(tmp_path: Path) -> None:
    """40 + 16 + 32 + 4 = 92 parameters; rows and columns of the layer's matrices: 8 + 12 = 20; keys: 1 head of 2."""
    shape = doctor.model_shape(str(write_model(tmp_path / "model")))
    assert shape == doctor.ModelShape(92, 20, hidden=4, intermediate=8, layers=1, key_values=2, vocabulary=10)


def test_the_headers_count_what_the_model_has(tiny_model: Path, tiny_tied_model: Path) -> None:
    """A tied head is stored once: 200 x 64 parameters less."""
    from transformers import AutoModelForCausalLM

    counts = []
    for folder in (tiny_model, tiny_tied_model):
        shape = doctor.model_shape(str(folder))
        assert shape is not None
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert shape.parameters == sum(p.numel() for p in model.parameters())
        counts.append(shape.parameters)
    assert counts[0] - counts[1] == 12_800


def test_memory_is_the_arithmetic_of_the_shapes(tmp_path: Path) -> None:
    """fp32, two workers, 92 parameters.

    worker: 16 x 92 / 2 = 736; a layer gathered 4 x 92 = 368; kept per token 6 x 4 + 2 x 2 + 4 x 8 = 60 numbers, of 10
    tokens 4 x 10 x 60 = 2400; logits of 5 positions 3 x 4 x 5 x 10 = 600.
    """
    training = {"workers": 2, "tokens_per_micro_batch": 10, "logprob_chunk_tokens": 5}
    shape = doctor.model_shape(str(write_model(tmp_path / "model")))
    assert shape is not None
    worker, engine, reference = doctor.memory(build(FILE | {"training": training}), shape)
    assert list(worker.parts.values()) == [736, 0, 368, 2400, 600]
    assert engine.parts == {"weights": 368, "KV cache": 2**30}
    assert reference.total == 368 + 368 + 600


def test_an_adapter_trains_its_own_parameters_alone(tmp_path: Path) -> None:
    """Rank 2: 2 x 20 = 40 trained parameters, 16 x 40 = 640 B; the frozen ones 4 x 92 = 368 B."""
    policy = FILE["policy"] | {"adapter": "lora", "lora_rank": 2}
    shape = doctor.model_shape(str(write_model(tmp_path / "model")))
    assert shape is not None
    worker = doctor.memory(build(FILE | {"policy": policy}), shape)[0]
    assert worker.parts["weights, Adam and gradient"] == 640 + 368


def test_a_model_that_is_not_here_has_no_shape(tmp_path: Path) -> None:
    assert doctor.model_shape(str(tmp_path / "none")) is None
    assert doctor.model_shape("owner/name") is None


def test_older_architectures_are_read_by_their_own_names(tmp_path: Path) -> None:
    """GPT-2: n_embd, n_head, n_layer, n_positions, layers under h; an MLP 4 times as wide where n_inner is null."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_embd=8, n_head=2, n_layer=2, n_positions=32, vocab_size=10)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    shape = doctor.model_shape(str(tmp_path))
    assert shape is not None
    assert (shape.hidden, shape.intermediate, shape.layers, shape.key_values) == (8, 32, 2, 8)
    assert (shape.vocabulary, shape.positions, shape.matrices) == (10, 32, 2 * (8 + 24 + 8 + 8 + 8 + 32 + 32 + 8))


def test_a_torn_or_foreign_folder_is_refused(tmp_path: Path) -> None:
    torn = write_model(tmp_path / "torn")
    (torn / "model.safetensors").write_bytes(struct.pack("<Q", 10**6) + b"{")
    empty = write_model(tmp_path / "empty")
    (empty / "model.safetensors").unlink()
    foreign = write_model(tmp_path / "foreign")
    (foreign / "config.json").write_text("{}")
    (tmp_path / "bare").mkdir()
    for folder, told in (
        (torn, "torn"),
        (empty, "no \\*.safetensors"),
        (foreign, "has no"),
        (tmp_path / "bare", "read"),
    ):
        with pytest.raises(ModelError, match=told):
            doctor.model_shape(str(folder))


def test_a_live_reference_is_counted_where_the_objective_asks_for_one(tmp_path: Path) -> None:
    """92 parameters in fp32 on one worker: 368 bytes more, for the prior that reads logits alone."""
    shape = doctor.model_shape(str(write_model(tmp_path / "model")))
    assert shape is not None
    counted = [
        doctor.memory(build(FILE | {"objective": {"preset": name}}), shape)[0].parts["live reference"]
        for name in ("dpo", "tdpo1")
    ]
    assert counted == [0, 368]


def test_a_plan_refuses_choices_that_mean_nothing_with_the_mathematical_reason() -> None:
    given = FILE | {"objective": {"preset": "mallows-theta", "link": "phi"}}
    with pytest.raises(ConfigError, match="act twice"):
        doctor.resolve(build(given), given, [])
    given = FILE | {"objective": {"preset": "mpo", "link": {"kind": "hinge", "threshold": 1.0}}}
    with pytest.raises(ConfigError, match="made of counting"):
        doctor.resolve(build(given), given, [])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"objective": {"preset": "tis-dpo"}}, "contrastive models"),
        ({"objective": {"preset": "kto"}, "scoring": {"reward_scale": "run_std"}}, "reads rewards as labels"),
        (
            {"objective": {"preset": "tr-dpo"}, "policy": {"path": "x", "adapter": "lora"}},
            "average of whole weights",
        ),
        (
            {"objective": {"preset": "tr-dpo"}, "online": {"rounds": 1, "prompts_per_round": 64}},
            "reference_steps = 512 in a job of about 2 optimizer steps",
        ),
    ],
)
def test_a_plan_refuses_what_a_run_cannot_make(changes: dict[str, object], told: str) -> None:
    given = FILE | changes
    with pytest.raises(ConfigError, match=told):
        doctor.resolve(build(given), given, [])
