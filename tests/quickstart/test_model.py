"""The tiny model: its tokenizer, a short pretraining, and the folder that it leaves."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from raypo.quickstart import language, model
from raypo.quickstart.model import IGNORED, PROMPT_TOKENS, Pretraining

PROMPT, SENTENCE = "fancy news about the shy smith :", "the shy smith made a lovely chain and smiled kindly ."


def test_the_tokenizer_reads_and_writes_every_word() -> None:
    """150 words and 4 special tokens; a prompt begins with BOS, a response is decoded as it was."""
    tokenizer = model.build_tokenizer()
    assert len(tokenizer) == 154
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    ids = tokenizer(PROMPT)["input_ids"]
    assert (ids[0], len(ids)) == (1, PROMPT_TOKENS)
    words = tokenizer(SENTENCE, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode([*words, 2], skip_special_tokens=True) == SENTENCE
    everything = " ".join(language.vocabulary())
    assert tokenizer.decode(tokenizer(everything, add_special_tokens=False)["input_ids"]) == everything


def test_the_corpus_learns_from_responses_alone() -> None:
    """Labels are the response's ids and EOS; prompts and padding teach nothing."""
    tokenizer = model.build_tokenizer()
    rows, labels = model.corpus(tokenizer, 50, seed=3)
    for row, label in zip(rows, labels, strict=True):
        prompt = language.Prompt.parse(tokenizer.decode(row[1:PROMPT_TOKENS]))
        learned = label[label != IGNORED]
        assert (label[:PROMPT_TOKENS] == IGNORED).all()
        assert learned[-1] == tokenizer.eos_token_id
        assert language.tones(prompt, tokenizer.decode(learned[:-1])) is not None
        assert torch.equal(row[PROMPT_TOKENS : PROMPT_TOKENS + len(learned)], learned)


def test_a_short_pretraining_lowers_the_loss_and_repeats_bitwise() -> None:
    """An untrained model is near ln 154 = 5.04 nats per token.

    The language's own entropy is (5.418 + 9.357) / 2 nats in 10.5 tokens: .704. Sixty steps reach less than 1.5.
    """
    tokenizer = model.build_tokenizer()
    rows, labels = model.corpus(tokenizer, 2000, seed=0)
    setting, told = Pretraining(steps=60, batch=32, sentences=2000, learning_rate=6e-3), []
    first = model.build_model(tokenizer, seed=0)
    last = model.pretrain(first, rows, labels, setting, 0, lambda step, loss: told.append((step, loss)))
    assert told[0][1] == pytest.approx(math.log(154), abs=0.15)
    assert last < 2.0
    assert [step for step, _ in told] == list(range(1, 61))
    again = model.build_model(tokenizer, seed=0)
    assert model.pretrain(again, rows, labels, setting, 0, lambda step, loss: None) == last
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


@pytest.mark.slow
def test_pretraining_in_its_own_process_learns_the_language(tmp_path: Path) -> None:
    """At its own setting at least 95 % of 256 samples at temperature 1 are sentences, and they are diverse."""
    folder = tmp_path / "policy"
    command = [sys.executable, "-m", "raypo.quickstart.model", str(folder), "0"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    told = [json.loads(line) for line in lines]
    assert told[0] == {"step": 0, "steps": 800, "loss": None}
    assert told[-1]["step"] == 800
    assert sum(one["loss"] for one in told[-5:]) / 5 < 0.8
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    tokenizer = AutoTokenizer.from_pretrained(folder)
    policy = AutoModelForCausalLM.from_pretrained(folder)
    prompts = [prompt.text for prompt in language.all_prompts()[::32]]
    torch.manual_seed(0)
    drawn = policy.generate(
        **tokenizer(prompts, return_tensors="pt", return_token_type_ids=False),
        do_sample=True,
        top_k=0,
        max_new_tokens=16,
        num_return_sequences=4,
    )
    texts = tokenizer.batch_decode(drawn[:, PROMPT_TOKENS:], skip_special_tokens=True)
    asked = [prompt for prompt in prompts for _ in range(4)]
    assert sum(language.fluency(asked, texts, [{}] * len(texts))) / len(texts) >= 0.95
    assert bool((drawn == tokenizer.eos_token_id).any(dim=1).float().mean() >= 0.98)
    assert len(set(texts)) > 200
