"""Template and tokens: a prompt is rendered once, and its ids are what is sampled from, trained on and evaluated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from raypo.config import PromptsConfig
from raypo.data.sources import Prompt, Prompts, RawSet
from raypo.errors import DataError
from raypo.records import PROMPTS


def template_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of the chat template: what was rendered with another one is not comparable. "none" without a template."""
    template = tokenizer.chat_template
    return hashlib.sha256(str(template).encode()).hexdigest()[:16] if template else "none"


def render(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> tuple[str, list[int]]:
    """Text and token ids of a prompt.

    Plain text is encoded with the tokenizer's own special tokens, once. Messages go through the chat template with the
    generation prompt, and the result is encoded without adding special tokens: the template writes its own.

    Raises:
        DataError: messages, and the tokenizer has no chat template.
    """
    if isinstance(prompt, str):
        return prompt, without_end(tokenizer, tokenizer(prompt, add_special_tokens=True)["input_ids"])
    if not tokenizer.chat_template:
        raise DataError(
            "the prompts are conversations and the tokenizer has no chat template",
            "a chat template",
            "set policy.chat_template to a Jinja file, or give plain-text prompts",
        )
    text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    return str(text), tokenizer(text, add_special_tokens=False)["input_ids"]


def without_end(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[int]:
    """Drop an end-of-sequence token that some tokenizers put behind every text: a response must follow."""
    kept = list(ids)
    while len(kept) > 1 and kept[-1] == tokenizer.eos_token_id:
        kept.pop()
    return kept


def render_prompts(
    prompts: Prompts, tokenizer: PreTrainedTokenizerBase, config: PromptsConfig
) -> tuple[pa.Table, dict[str, Any]]:
    """Rows of records.PROMPTS, and facts: counts by split and of what was dropped, and the template's hash.

    Raises:
        DataError: conversations without a template, or nothing left to train or evaluate on.
    """
    rows, too_long = [], 0
    for one in prompts.rows:
        text, ids = render(tokenizer, one.prompt)
        if len(ids) > config.max_prompt_tokens:
            too_long += 1
            continue
        metadata = json.dumps(one.metadata, ensure_ascii=False, default=str)
        rows.append(
            {"prompt_id": one.prompt_id, "prompt": text, "prompt_token_ids": ids, "split": one.split, "metadata": metadata}
        )
    counts = {split: sum(row["split"] == split for row in rows) for split in ("train", "heldout")}
    dropped = prompts.dropped | {"too_long": too_long}
    for split, name in (("train", "training"), ("heldout", "held-out")):
        if not counts[split]:
            raise DataError(
                f"no {name} prompt is left of {len(prompts.rows)}; dropped: {dropped}",
                "at least one",
                "give more prompts, change prompts.heldout_fraction, or raise prompts.max_prompt_tokens",
            )
    table = pa.Table.from_pylist(sorted(rows, key=lambda row: row["prompt_id"]), schema=PROMPTS)
    return table, {**counts, "dropped": dropped, "template": template_hash(tokenizer)}


def encode_responses(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, responses: Sequence[str]) -> list[list[int]]:
    """Token ids of given responses, each ended by the end-of-sequence token, as they are trained on behind a prompt.

    Raises:
        DataError: the tokenizer has no end-of-sequence token.
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise DataError("the tokenizer has no end-of-sequence token", "one: it ends each response")
    return [[*without_end(tokenizer, tokenizer(text, add_special_tokens=False)["input_ids"]), end] for text in responses]


def sets_table(sets: Sequence[RawSet], tokenizer: PreTrainedTokenizerBase, config: PromptsConfig, max_response_tokens: int) -> tuple[pa.Table, dict[str, int]]:
    """Offline sets as rows of records.SAMPLED with `given_rewards` beside them, and what was dropped by reason.

    Responses longer than max_response_tokens are cut and marked as "length"; prompts that are too long, or seen before, are
    dropped and counted.
    """
    rows: list[dict[str, Any]] = []
    dropped = {"too_long": 0, "duplicate": 0}
    seen: set[str] = set()
    for one in sets:
        text, ids = render(tokenizer, one.source.prompt)
        if one.source.prompt_id in seen or len(ids) > config.max_prompt_tokens:
            dropped["duplicate" if one.source.prompt_id in seen else "too_long"] += 1
            continue
        seen.add(one.source.prompt_id)
        encoded = encode_responses(tokenizer, one.source.prompt, one.responses)
        rows.append(
            {
                "prompt_id": one.source.prompt_id,
                "prompt": text,
                "prompt_token_ids": ids,
                "metadata": json.dumps(one.source.metadata, ensure_ascii=False, default=str),
                "round": 0,
                "weight_version": -1,
                "seed": 0,
                "sampling": "{}",
                "responses": one.responses,
                "response_token_ids": [ids[:max_response_tokens] for ids in encoded],
                "finish_reasons": ["length" if len(ids) > max_response_tokens else "stop" for ids in encoded],
                "engine_logps": [None] * len(encoded),
                "given_rewards": one.rewards,
            }
        )
    return pa.Table.from_pylist(rows), dropped
