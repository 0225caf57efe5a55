"""raypo.models: what is read, what is scored, and what is exported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tiny import CONFIGS, VOCABULARY, causal_lm, policy_config, response_sets
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertForSequenceClassification

from raypo.data.packing import ResponseSet, pack
from raypo.errors import ModelError
from raypo.logprobs import sum_by_response
from raypo.models import export
from raypo.models.export import (
    adapter_weights,
    changed_fraction,
    export_weights,
    moving_average,
    save_adapter,
    save_model,
)
from raypo.models.load import add_lora, load_causal_lm, load_tokenizer
from raypo.models.scorer import TokenScorer, check_head

SETS = response_sets(3, responses=2)


def scores(model: Any, sets: list[ResponseSet], chunk_tokens: int = 1000) -> list[float]:
    """Log-prob sum of each response, in order."""
    batch = pack(sets, pad_token_id=0)
    with torch.no_grad():
        logps = TokenScorer(model)(batch, chunk_tokens=chunk_tokens).logps
    return sum_by_response(logps, batch.response_index, len(batch.slot)).tolist()


def cross_entropy(model: Any, one: ResponseSet, response: int) -> float:
    """The same sum from transformers' own logits of the unpadded sequence."""
    prompt, ids = list(one.prompt_token_ids), list(one.response_token_ids[response])
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + ids]), use_cache=False).logits[0]
    return -F.cross_entropy(logits[len(prompt) - 1 : -1], torch.tensor(ids), reduction="sum").item()


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_log_probs_are_the_cross_entropy_of_transformers(kind: str) -> None:
    model = causal_lm(kind)
    expected = [cross_entropy(model, one, k) for one in SETS for k in range(2)]
    assert scores(model, SETS) == pytest.approx(expected, abs=2e-5)


def test_log_probs_do_not_depend_on_padding_order_or_chunks() -> None:
    model = causal_lm()
    expected = scores(model, SETS)
    alone = [value for one in SETS for value in scores(model, [one])]
    turned = scores(model, SETS[::-1])
    assert alone == pytest.approx(expected, abs=1e-5)
    assert turned[4:] + turned[2:4] + turned[:2] == pytest.approx(expected, abs=1e-5)
    assert scores(model, SETS, chunk_tokens=2) == pytest.approx(expected, abs=1e-5)


def test_what_stands_in_the_padding_is_never_seen() -> None:
    model = causal_lm()
    batch = pack(SETS, pad_token_id=0)
    dirty = replace(batch, input_ids=torch.where(batch.attention_mask == 1, batch.input_ids, 63))
    clean_logps = TokenScorer(model)(batch, chunk_tokens=8).logps
    dirty_logps = TokenScorer(model)(dirty, chunk_tokens=8).logps
    assert torch.allclose(clean_logps, dirty_logps, atol=1e-5)


def test_entropies_are_those_of_the_models_distribution() -> None:
    model = causal_lm("gemma2")
    one = SETS[0]
    entropies = TokenScorer(model)(pack([one], pad_token_id=0), chunk_tokens=2, with_entropy=True).entropies
    prompt, ids = list(one.prompt_token_ids), list(one.response_token_ids[0])
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + ids]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    expected = torch.distributions.Categorical(logits=logits).entropy()
    assert entropies is not None
    assert entropies[: len(ids)].tolist() == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_the_head_of_every_known_architecture_is_applied_right(kind: str) -> None:
    check_head(TokenScorer(causal_lm(kind)))


def test_a_model_that_does_something_else_to_its_logits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = causal_lm()
    own = type(model).forward

    def doubled(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = own(self, *args, **kwargs)
        out.logits = 2 * out.logits
        return out

    monkeypatch.setattr(type(model), "forward", doubled)
    with pytest.raises(ModelError, match="LlamaForCausalLM: logits from its head differ"):
        check_head(TokenScorer(model))


# ---- what is refused


def break_folder(source: Path, place: Path, fault: str) -> Path:
    """A copy of a model folder with one fault."""
    if fault == "no folder":
        return place
    place.mkdir()
    for file in source.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    match fault:
        case "no config":
            (place / "config.json").unlink()
        case "config is not JSON":
            (place / "config.json").write_text("{", encoding="utf-8")
        case "no safetensors":
            (place / "model.safetensors").rename(place / "pytorch_model.bin")
        case "torn weights":
            whole = (place / "model.safetensors").read_bytes()
            (place / "model.safetensors").write_bytes(whole[: len(whole) // 2])
        case "unknown type":
            tree = json.loads((place / "config.json").read_text(encoding="utf-8"))
            (place / "config.json").write_text(json.dumps(tree | {"model_type": "nonesuch"}), encoding="utf-8")
        case "other shapes":
            tree = json.loads((place / "config.json").read_text(encoding="utf-8"))
            (place / "config.json").write_text(json.dumps(tree | {"intermediate_size": 96}), encoding="utf-8")
        case "missing weights":
            from safetensors.torch import save_file

            weights = load_file(place / "model.safetensors")
            weights.pop("model.norm.weight")
            save_file(weights, place / "model.safetensors", metadata={"format": "pt"})
    return place


FAULTS = {
    "no folder": "no such folder",
    "no config": "no config.json",
    "config is not JSON": "config.json cannot be read",
    "no safetensors": "no \\*.safetensors",
    "torn weights": "model.safetensors cannot be read",
    "unknown type": "nonesuch",
    "other shapes": "cannot be loaded",
    "missing weights": "model.norm.weight",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_model_folder_is_one_clear_error(fault: str, tiny_model: Path, tmp_path: Path) -> None:
    folder = break_folder(tiny_model, tmp_path / "broken", fault)
    with pytest.raises(ModelError, match=FAULTS[fault]) as raised:
        load_causal_lm(str(folder), dtype=torch.float32)
    assert "expected: " in str(raised.value)


def test_a_model_that_is_not_a_causal_lm_is_refused(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    BertForSequenceClassification(BertConfig(vocab_size=VOCABULARY, **sizes)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="BertForSequenceClassification"):
        load_causal_lm(str(tmp_path), dtype=torch.float32)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    causal_lm().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="the tokenizer of"):
        load_tokenizer(str(tmp_path))


# ---- what is exported


def saved(model: Any, folder: Path, tokenizer_of: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Export a model into a folder; returns the weights."""
    scorer = TokenScorer(model)
    weights = dict(export_weights(scorer, dtype))
    save_model(folder, weights, scorer, AutoTokenizer.from_pretrained(tokenizer_of), None)
    return weights


@pytest.mark.parametrize("tied", [False, True])
def test_the_exported_folder_is_the_model_in_the_export_type(
    tied: bool, tiny_model: Path, tiny_tied_model: Path, tmp_path: Path
) -> None:
    source = tiny_tied_model if tied else tiny_model
    model = load_causal_lm(str(source), dtype=torch.float32)
    weights = saved(model, tmp_path, source, torch.bfloat16)
    assert set(weights) == set(load_file(source / "model.safetensors"))
    assert ("lm_head.weight" in weights) is not tied
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.dtype == torch.bfloat16
    assert (again.lm_head.weight is again.model.embed_tokens.weight) is tied
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name].bfloat16()), name
    assert again.generation_config.eos_token_id == 2
    assert AutoTokenizer.from_pretrained(tmp_path).pad_token_id == 0


@pytest.mark.parametrize("kind", ["gemma2", "cohere", "qwen2"])
def test_every_architecture_round_trips(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    model = causal_lm(kind)
    saved(model, tmp_path, tiny_model, torch.float32)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert scores(again, SETS) == pytest.approx(scores(model, SETS), abs=1e-6)


def test_large_models_are_written_in_shards(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "SHARD_BYTES", 100_000)
    model = load_causal_lm(str(tiny_model), dtype=torch.float32)
    weights = saved(model, tmp_path, tiny_model, torch.float32)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 1
    assert not (tmp_path / "model.safetensors").exists()
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in weights.values())
    assert scores(AutoModelForCausalLM.from_pretrained(tmp_path), SETS) == scores(model, SETS)


def test_a_moving_average_moves_by_steps_that_bfloat16_cannot_hold() -> None:
    """From 1 towards 1.0078125, one unit of bfloat16 away, decay 0.9: after n rounds 1 - 0.9**n of the way is gone.

    n = 20: 1 - 0.1215767 = 0.8784233. Rounded to bfloat16 each time, 1 + 0.1 / 128 would be 1 again.
    """
    new = {"w": torch.tensor([1.0078125], dtype=torch.bfloat16), "step": torch.tensor([3])}
    average = {"w": torch.ones(1, dtype=torch.bfloat16), "step": torch.tensor([1])}
    for _ in range(20):
        average = moving_average(average.items(), new, 0.9)
    assert (average["w"].dtype, average["step"].tolist()) == (torch.float32, [3])
    assert (average["w"].item() - 1) * 128 == pytest.approx(0.8784233, abs=1e-4)


def test_changed_fraction_counts_weights_in_the_exported_type(tiny_model: Path) -> None:
    """One weight of the norm (64) differs visibly, one by less than bf16 resolves: 1 of all."""
    weights = {name: tensor.bfloat16() for name, tensor in load_file(tiny_model / "model.safetensors").items()}
    total = sum(tensor.numel() for tensor in weights.values())
    assert changed_fraction(tiny_model, weights) == 0.0
    norm = load_file(tiny_model / "model.safetensors")["model.norm.weight"]
    norm[0] += 0.5
    norm[1] += 1e-5
    weights["model.norm.weight"] = norm.bfloat16()
    assert changed_fraction(tiny_model, weights) == pytest.approx(1 / total)


# ---- adapters


def adapted(folder: Path, **changes: Any) -> Any:
    """A model with adapters whose B is not zero."""
    torch.manual_seed(3)
    model = load_causal_lm(str(folder), dtype=torch.float32)
    wrapped = add_lora(model, policy_config(folder, adapter="lora", lora_rank=4, lora_alpha=8.0, **changes))
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return wrapped


@pytest.mark.parametrize("tied", [False, True])
def test_the_merged_export_is_pefts_merge(tied: bool, tiny_model: Path, tiny_tied_model: Path, tmp_path: Path) -> None:
    source = tiny_tied_model if tied else tiny_model
    wrapped = adapted(source)
    before = scores(wrapped, SETS)
    weights = saved(wrapped, tmp_path, source, torch.float32)
    assert set(weights) == set(load_file(source / "model.safetensors"))
    merged = wrapped.merge_and_unload()
    for name, tensor in merged.state_dict().items():
        if name in weights:
            assert torch.allclose(weights[name], tensor, atol=1e-6), name
    assert scores(AutoModelForCausalLM.from_pretrained(tmp_path), SETS) == pytest.approx(before, abs=1e-4)


def test_only_adapters_train_and_their_folder_reloads(tiny_model: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    wrapped = adapted(tiny_model, lora_target_modules=("q_proj", "v_proj"))
    trained = [name for name, p in wrapped.named_parameters() if p.requires_grad]
    assert len(trained) == 8
    assert all("lora_" in name for name in trained)
    scorer = TokenScorer(wrapped)
    save_adapter(tmp_path, scorer, adapter_weights(scorer))
    again = PeftModel.from_pretrained(load_causal_lm(str(tiny_model), dtype=torch.float32), tmp_path)
    assert scores(again, SETS) == scores(wrapped, SETS)
    assert scores(again, SETS) != scores(load_causal_lm(str(tiny_model), dtype=torch.float32), SETS)


def test_target_modules_that_are_not_there_are_refused(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match="nonesuch"):
        adapted(tiny_model, lora_target_modules=("nonesuch",))


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
def test_an_adapter_on_embeddings_or_head_is_refused(tiny_tied_model: Path) -> None:
    """Merging into one of two tied names would change the other."""
    for target in ("lm_head", "embed_tokens"):
        with pytest.raises(ModelError, match=target):
            adapted(tiny_tied_model, lora_target_modules=(target,))
