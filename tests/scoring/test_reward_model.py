"""raypo.scoring.reward_model: the model's first logit, in its own template, whatever else is in the batch."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_folders import make_model
from tiny import causal_lm
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedModel,
)

from raypo.config import ModelReward
from raypo.data.sources import MESSAGES_KEY
from raypo.errors import ModelError
from raypo.scoring.reward_model import RewardModel, token_groups

SIZES: dict[str, Any] = {
    "vocab_size": 200,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "num_labels": 1,
}


def classifier(kind: str) -> PreTrainedModel:
    """A random sequence classifier; pad ids as the kind says."""
    torch.manual_seed(0)
    if kind == "bert":
        return BertForSequenceClassification(BertConfig(**SIZES, pad_token_id=0)).eval()
    pad = {"llama": 0, "llama without pad": None, "llama with pad = end": 2}[kind]
    return LlamaForSequenceClassification(LlamaConfig(**SIZES, bos_token_id=1, eos_token_id=2, pad_token_id=pad)).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Makes reward model folders with a word-level tokenizer, with or without a chat template."""
    root = tmp_path_factory.mktemp("reward-models")

    def make(kind: str = "llama", *, chat: bool = False) -> str:
        place = root / f"{kind}-{chat}".replace(" ", "-")
        if not place.exists():
            make_model(place, tied=False, chat=chat)  # for its tokenizer; the weights are replaced
            (place / "model.safetensors").unlink()
            classifier(kind).save_pretrained(place)
        return str(place)

    return make


def source(path: str, **changes: Any) -> RewardModel:
    """A reward model with room for 64 tokens."""
    return RewardModel(ModelReward(**{"type": "model", "name": "rm", "path": path, "max_tokens": 64} | changes))


def words(count: int, seed: int) -> str:
    """Words of the tiny tokenizer."""
    chosen = random.Random(seed)
    return " ".join(f"w{chosen.randrange(196)}" for _ in range(count))


PROMPTS = [words(3 + i, i) for i in range(6)]
RESPONSES = [" " + words(1 + 4 * ((i * 5) % 6), 10 + i) for i in range(6)]
NOTHING: list[dict[str, Any]] = [{} for _ in PROMPTS]


def logit(path: str, ids: list[int]) -> float:
    """First logit of the model that transformers loads by itself, for one sequence."""
    cls = BertForSequenceClassification if "bert" in path else LlamaForSequenceClassification
    with torch.no_grad():
        return float(cls.from_pretrained(path, dtype=torch.float32).eval()(torch.tensor([ids])).logits[0, 0])


@pytest.mark.parametrize("kind", ["llama", "llama without pad", "llama with pad = end", "bert"])
def test_a_value_does_not_depend_on_the_batch_or_its_order(kind: str, folder: Callable[..., str]) -> None:
    """Invariant 11, to fp32: batch 1 == batch n == any order == transformers on one sequence."""
    path = folder(kind)
    made = source(path, batch_tokens=80)
    together = made(PROMPTS, RESPONSES, NOTHING)
    alone = [made([p], [r], [{}])[0] for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    backwards = made(PROMPTS[::-1], RESPONSES[::-1], NOTHING)[::-1]
    encode = AutoTokenizer.from_pretrained(path)
    expected = [logit(path, encode(p + r)["input_ids"]) for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    for found in (together, alone, backwards):
        assert found == pytest.approx(expected, abs=2e-6)
    assert max(expected) - min(expected) > 0.05  # else the comparison would show nothing


def test_a_model_without_pad_id_scores_the_last_token_of_every_row(folder: Callable[..., str]) -> None:
    """Rows that end with the tokenizer's pad and end ids among rows that do not: no id marks padding for all."""
    path = folder("llama without pad")
    responses = [" w1 <pad>", " w1 w2 </s>", " w3", " w1 w2 w3 w4 <s>"]
    encode = AutoTokenizer.from_pretrained(path)
    expected = [logit(path, encode("w9" + r)["input_ids"]) for r in responses]
    assert source(path)(["w9"] * 4, responses, [{}] * 4) == pytest.approx(expected, abs=2e-6)


def test_a_template_of_its_own_is_used_with_the_messages_where_there_are_any(folder: Callable[..., str]) -> None:
    """The template writes "<s> role content " for each turn; a plain prompt is the user's turn."""
    path = folder("llama", chat=True)
    encode = AutoTokenizer.from_pretrained(path)
    turns = [
        {"role": "user", "content": "w1"},
        {"role": "assistant", "content": "w2"},
        {"role": "user", "content": "w3"},
    ]
    found = source(path)(["w7 w8", "rendered by another template"], ["w5", "w6"], [{}, {MESSAGES_KEY: turns}])
    texts = ["<s> user w7 w8 <s> assistant w5 ", "<s> user w1 <s> assistant w2 <s> user w3 <s> assistant w6 "]
    expected = [logit(path, encode(text, add_special_tokens=False)["input_ids"]) for text in texts]
    assert found == pytest.approx(expected, abs=2e-6)


def test_what_is_too_long_is_marked_and_its_neighbours_are_not(folder: Callable[..., str]) -> None:
    """Limit 5 tokens: 2 + 3 fit, 2 + 4 do not; the model's own 64 holds where more is allowed."""
    path = folder("llama")
    found = source(path, max_tokens=5)(["w1 w2"] * 2, [" w1 w2 w3", " w1 w2 w3 w4"], [{}] * 2)
    assert [value is None for value in found] == [False, True]
    found = source(path, max_tokens=2048)(["w1"] * 2, [" " + words(63, 0), " " + words(64, 0)], [{}] * 2)
    assert [value is None for value in found] == [False, True]


def test_no_text_at_all_has_no_value(folder: Callable[..., str]) -> None:
    """A sequence of no token has no last one."""
    assert source(folder("llama"))([""], [""], [{}]) == [None]


def test_a_language_model_is_refused_because_its_head_would_be_random(
    tmp_path: Path, folder: Callable[..., str]
) -> None:
    """Of which transformers only warns."""
    causal_lm().save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folder("llama")).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"lacks score\.weight"):
        source(str(tmp_path))


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """With the reason, before anything is sampled."""
    with pytest.raises(ModelError, match="no such folder"):
        source(str(tmp_path / "nothing"))


def test_groups_hold_every_row_once_within_the_budget() -> None:
    """Longest first: 9 alone exceeds 8; 4 + 3 make 2 x 4 = 8; 2, 2, 1 make 3 x 2 = 6."""
    assert token_groups({0: 2, 1: 9, 2: 3, 3: 2, 4: 4, 5: 1}, 8) == [[1], [4, 2], [0, 3, 5]]
