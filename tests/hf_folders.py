"""A tiny Hugging Face folder, made by code. Its own module: spawned children and every test import it by this name,
which `conftest` cannot be, because each folder of tests may have one.
"""

from __future__ import annotations

import json
from pathlib import Path


def make_place(folder: Path, prompts: int, rewards: str, module: str) -> Path:
    """A tiny policy, prompts of three words and a module of reward functions; returns the folder."""
    make_model(folder / "policy", tied=True)
    rows = [{"prompt": f"w{i} w{i + 3} w{i + 7}"} for i in range(prompts)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / f"{module}.py").write_text(rewards)
    return folder


def make_model(folder: Path, *, tied: bool, seed: int = 0, chat: bool = False) -> Path:
    """A Llama of 0.1 M parameters and its word-level tokenizer, as a Hugging Face folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{i}" for i in range(196))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    if chat:
        fast.chat_template = (
            "{% for m in messages %}{{ '<s> ' + m['role'] + ' ' + m['content'] + ' ' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ 'assistant' }}{% endif %}"
        )
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=200,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=256,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            tie_word_embeddings=tied,
            initializer_range=0.2,
        )
    )
    model.save_pretrained(folder)
    return folder
