"""The tiny model of the synthetic language: tokenizer, Llama, and its pretraining on one CPU thread.

As a program (`python -m raypo.quickstart.model FOLDER SEED`) it pretrains in a process of its own, so that the rest of
a run can start meanwhile, and prints one JSON object per line: `{"step": ..., "steps": ..., "loss": ...}`, the first,
with step 0 and no loss, when the tokenizer is written. A folder with a `config.json` is whole.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from raypo.quickstart import language

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

PAD, BOS, EOS, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"
SPECIAL = (PAD, BOS, EOS, UNKNOWN)
PROMPT_TOKENS = 8  # BOS and seven words
RESPONSE_TOKENS = 12  # the longest sentence and EOS
CONTEXT = 64
IGNORED = -100  # label of a position from which nothing is learned


@dataclass(frozen=True)
class Pretraining:
    """How long and how fast: the defaults learn the language in about 15 s on one core.

    Args:
        steps: optimizer steps.
        batch: sentences per step.
        sentences: size of the corpus from which batches are drawn.
        learning_rate: peak of AdamW, after a warm-up of 50 steps, falling linearly to zero. Twice as much ends at the
            same loss; the model of seed 0 then overshot in its first round (KL 3.2 nats, here 0.3) at beta 1.
    """

    steps: int = 800
    batch: int = 64
    sentences: int = 30_000
    learning_rate: float = 3e-3


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer of the language; it puts BOS before a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *language.vocabulary()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, vocabulary[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNKNOWN,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """An untrained Llama of 0.13 M parameters, fp32; heads of 32, the smallest that vLLM's CPU build takes."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=192,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=False,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def corpus(tokenizer: PreTrainedTokenizerFast, sentences: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts with a sentence each, drawn from the language.

    Returns:
        token ids and labels, int64 [sentences, PROMPT_TOKENS + RESPONSE_TOKENS], padded on the right; a prompt's and
        padding's labels are IGNORED.
    """
    import torch

    rng = np.random.default_rng(seed)
    prompts = language.all_prompts()
    ids = tokenizer.get_vocab()
    end = [ids[EOS]]
    rows = np.full((sentences, PROMPT_TOKENS + RESPONSE_TOKENS), ids[PAD], dtype=np.int64)
    labels = np.full_like(rows, IGNORED)
    for row, label, chosen in zip(rows, labels, rng.integers(len(prompts), size=sentences), strict=True):
        prompt = prompts[chosen]
        response = [ids[word] for word in language.draw(prompt, rng).split()] + end
        stop = PROMPT_TOKENS + len(response)
        row[:PROMPT_TOKENS] = [ids[BOS], *(ids[word] for word in prompt.text.split())]
        row[PROMPT_TOKENS:stop] = response
        label[PROMPT_TOKENS:stop] = response
    return torch.from_numpy(rows), torch.from_numpy(labels)


def pretrain(
    model: LlamaForCausalLM,
    rows: torch.Tensor,
    labels: torch.Tensor,
    setting: Pretraining,
    seed: int,
    progress: Callable[[int, float], None],
) -> float:
    """Next-token training on responses, one thread's worth of work; the same seed gives the same weights.

    Args:
        model: changed in place.
        rows: token ids, from `corpus`.
        labels: beside them.
        setting: see `Pretraining`.
        seed: of the order of sentences.
        progress: told the step, from 1, and the loss, nats per token.

    Returns:
        mean loss of the last tenth of the steps, nats per response token.
    """
    import torch

    rng = np.random.default_rng([seed, 1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=setting.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    warmup = min(50, setting.steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warmup) * (1 - step / setting.steps)
    )
    first = PROMPT_TOKENS - 1  # the position that predicts the first response token
    losses = []
    model.train()
    for step in range(1, setting.steps + 1):
        chosen = torch.from_numpy(rng.integers(rows.shape[0], size=setting.batch))
        hidden = model.model(input_ids=rows[chosen]).last_hidden_state[:, first:-1]
        logits = model.lm_head(hidden).flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, labels[chosen, first + 1 :].flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        progress(step, losses[-1])
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


def save_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Write the tokenizer alone, so that prompts can be rendered before the model is there."""
    tokenizer = build_tokenizer()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    return tokenizer


def make_policy(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    seed: int,
    setting: Pretraining,
    progress: Callable[[int, float], None],
) -> float:
    """Add the pretrained model to the folder of its tokenizer; `config.json` appears last.

    Returns:
        the final loss, nats per response token.
    """
    import torch

    torch.set_num_threads(1)
    model = build_model(tokenizer, seed)
    rows, labels = corpus(tokenizer, setting.sentences, seed)
    loss = pretrain(model, rows, labels, setting, seed, progress)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as writing:
        model.save_pretrained(writing)  # generation_config.json carries the end token
        for name in sorted(os.listdir(writing), key=lambda name: name == "config.json"):
            os.replace(Path(writing) / name, folder / name)
    return loss


def main(arguments: list[str]) -> None:
    """`FOLDER SEED`: pretrain into a folder and print progress as JSON lines."""
    folder, seed = Path(arguments[0]), int(arguments[1])
    setting = Pretraining()

    def say(step: int, loss: float | None) -> None:
        if step <= 1 or step % 20 == 0 or step == setting.steps:
            sys.stdout.write(json.dumps({"step": step, "steps": setting.steps, "loss": loss}) + "\n")
            sys.stdout.flush()

    tokenizer = save_tokenizer(folder)
    say(0, None)
    make_policy(folder, tokenizer, seed, setting, say)


if __name__ == "__main__":
    main(sys.argv[1:])
