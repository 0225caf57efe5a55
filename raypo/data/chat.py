"""Raw rows to tokens: the chat template once, the special tokens once, the end of a response once.

Here a prompt's ids are made for good: every later stage carries them, and nothing encodes text again.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jinja2
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from raypo.config import PromptsConfig
from raypo.data.sets import read_sets
from raypo.data.sources import Prompt, read_prompts, split
from raypo.errors import DataError, ModelError
from raypo.records import PROMPTS, SAMPLED, conform

GIVEN = -1
"""Weight version of responses that no engine drew."""


def render(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> tuple[str, list[int]]:
    """A prompt as the model is to see it.

    Text stays as it is, with the tokenizer's own beginning-of-sequence token once and no end-of-sequence token.
    Messages go through the chat template once, with the assistant's turn opened; special tokens are the template's.

    Args:
        tokenizer: of the policy.
        prompt: text, or {role, content} messages.

    Returns:
        text and its token ids; no ids at all only for empty text with a tokenizer that begins with nothing.

    Raises:
        DataError: messages, but the tokenizer has no chat template; or the template refuses them.
    """
    if isinstance(prompt, str):
        return prompt, _plain_ids(tokenizer, prompt)
    text = _from_template(tokenizer, prompt)
    return text, tokenizer(text, add_special_tokens=False)["input_ids"]


def _plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text)["input_ids"]
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if bos is not None and ids[:2] == [bos, bos]:
        ids = ids[1:]  # the text brings the token that the tokenizer adds
    if ids and ids[-1] == eos and ids[0] != eos:
        bare = tokenizer(text, add_special_tokens=False)["input_ids"]
        if not bare or bare[-1] != eos:
            ids = ids[:-1]  # added by the tokenizer: a prompt does not end
    return ids


def _from_template(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]]) -> str:
    if tokenizer.chat_template is None:
        raise DataError(
            f"the prompts are conversations, but the tokenizer of {tokenizer.name_or_path} has no chat template",
            "a tokenizer with a chat template, or prompts that are text",
            "give a template (policy.chat_template=FILE), take an instruction-tuned policy, or give prompts as text",
        )
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        roles = ", ".join(message["role"] for message in messages)
        raise DataError(
            f"the chat template refuses a conversation of {roles}: {error}",
            "roles in an order that the template takes",
            "mend the prompt, or give another template (policy.chat_template=FILE)",
        ) from error


def template_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """16 hex digits that name the chat template, for manifests; of the empty text when there is none."""
    template = tokenizer.chat_template
    text = template if isinstance(template, str) else json.dumps(template or "", sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def render_prompts(
    raw: pa.Table, tokenizer: PreTrainedTokenizerBase, *, max_prompt_tokens: int
) -> tuple[pa.Table, dict[str, int]]:
    """Render raw rows; prompts that are too long or empty are dropped, never cut.

    Args:
        raw: rows of `sources.RAW` and the column `split`.
        tokenizer: of the policy.
        max_prompt_tokens: longest prompt that is kept, tokens.

    Returns:
        rows of records.PROMPTS in the order of `raw`; rows dropped by reason: "too_long", "empty".

    Raises:
        DataError: conversations without a template.
    """
    rows, dropped = [], Counter({"too_long": 0, "empty": 0})
    for row in raw.to_pylist():
        text, ids = render(tokenizer, json.loads(row["prompt"]) if row["conversational"] else row["prompt"])
        if not ids or not text.strip():
            dropped["empty"] += 1
        elif len(ids) > max_prompt_tokens:
            dropped["too_long"] += 1
        else:
            rows.append(row | {"prompt": text, "prompt_token_ids": ids})
    schema = pa.schema([*PROMPTS, *[field for field in raw.schema if field.name not in PROMPTS.names]])
    return pa.Table.from_pylist(rows, schema=schema).drop_columns(["conversational"]), dict(dropped)


def load_prompts(config: PromptsConfig, tokenizer: PreTrainedTokenizerBase) -> tuple[pa.Table, dict[str, Any]]:
    """Read, split and render the prompts of a run.

    Args:
        config: where they are and how they are split.
        tokenizer: of the policy.

    Returns:
        rows of records.PROMPTS; facts: `read`, `train` and `heldout` rows, `dropped` by reason ("duplicate", "overlap",
        "too_long", "empty"), `template` hash. read = train + heldout + all dropped.

    Raises:
        DataError: they cannot be read, or none is left to train on or to hold out.
    """
    raw = read_prompts(config)
    heldout = None if config.heldout_path is None else read_prompts(config, config.heldout_path)
    labelled, dropped = split(raw, config.heldout_fraction, heldout=heldout)
    table, more = render_prompts(labelled, tokenizer, max_prompt_tokens=config.max_prompt_tokens)
    sides = Counter(table["split"].to_pylist())
    facts = {
        "read": raw.num_rows + (0 if heldout is None else heldout.num_rows),
        "train": sides["train"],
        "heldout": sides["heldout"],
        "dropped": dropped | more,
        "template": template_hash(tokenizer),
    }
    for side, name in (("train", "training"), ("heldout", "held-out")):
        if not sides[side]:
            raise DataError(
                f"{config.path}: of {facts['read']} prompts none is left as {name} prompt; dropped: {facts['dropped']}",
                f"training and held-out prompts of 1 to {config.max_prompt_tokens} tokens",
                "give more prompts, raise prompts.max_prompt_tokens, or change prompts.heldout_fraction",
            )
    return conform(table, PROMPTS, what="the prompt table"), facts


def load_sets(
    config: PromptsConfig, tokenizer: PreTrainedTokenizerBase, *, max_response_tokens: int
) -> tuple[pa.Table, dict[str, Any]]:
    """Read, split and render offline sets: prompts with responses and rewards that are there already.

    Args:
        config: where they are and how they are split.
        tokenizer: of the policy.
        max_response_tokens: longer responses leave their set.

    Returns:
        as `render_sets`; facts as of `load_prompts`, with "too_few_responses" among the reasons.
        read = train + heldout + all dropped.

    Raises:
        DataError: they cannot be read, or no set is left to train on.
    """
    raw, dropped = read_sets(config)
    heldout, more = (None, {}) if config.heldout_path is None else read_sets(config, config.heldout_path)
    counts = Counter(dropped) + Counter(more)
    read = raw.num_rows + (0 if heldout is None else heldout.num_rows) + counts.total()
    labelled, dropped = split(raw, config.heldout_fraction, heldout=heldout)
    table, more = render_sets(
        labelled, tokenizer, max_prompt_tokens=config.max_prompt_tokens, max_response_tokens=max_response_tokens
    )
    counts.update(dropped)
    counts.update(more)
    sides = Counter(table["split"].to_pylist())
    facts = {"read": read, "train": sides["train"], "heldout": sides["heldout"], "dropped": dict(counts)}
    if not sides["train"]:
        raise DataError(
            f"{config.path}: of {read} sets none is left to train on; dropped: {dict(counts)}",
            f"prompts of 1 to {config.max_prompt_tokens} tokens with two responses of at most {max_response_tokens}",
            "raise prompts.max_prompt_tokens or sampling.max_response_tokens",
        )
    return table, facts | {"template": template_hash(tokenizer)}


def render_sets(
    raw: pa.Table, tokenizer: PreTrainedTokenizerBase, *, max_prompt_tokens: int, max_response_tokens: int
) -> tuple[pa.Table, dict[str, int]]:
    """Render offline sets; responses are encoded once, as what follows their prompt, and the end-of-sequence id added.

    Args:
        raw: rows of `sets.RAW_SETS` and the column `split`.
        tokenizer: of the policy.
        max_prompt_tokens: sets with longer prompts are dropped.
        max_response_tokens: longer responses leave their set, the end-of-sequence id counted: their rewards judge the
            whole of them, so they cannot be cut. A set that is left with fewer than two is dropped.

    Returns:
        rows of records.SAMPLED with the columns `rewards` (as given) and `split`; sets dropped by reason: "too_long",
        "empty", "too_few_responses".

    Raises:
        DataError: conversations without a template.
        ModelError: the tokenizer has no end-of-sequence token.
    """
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer of {tokenizer.name_or_path} has no end-of-sequence token",
            "one, to end given responses with",
            "set eos_token in its tokenizer_config.json",
        )
    table, dropped = render_prompts(raw, tokenizer, max_prompt_tokens=max_prompt_tokens)
    dropped["too_few_responses"] = 0
    rows = []
    for row in table.to_pylist():
        ids = encode_responses(tokenizer, row["prompt"], row["prompt_token_ids"], row["responses"])
        keep = [k for k, one in enumerate(ids) if len(one) <= max_response_tokens]
        if len(keep) < 2:
            dropped["too_few_responses"] += 1
            continue
        given = {name: [row[name][k] for k in keep] for name in ("responses", "rewards")}
        rows.append(row | given | _as_sampled([ids[k] for k in keep]))
    schema = pa.schema([*SAMPLED, ("rewards", pa.list_(pa.float64())), ("split", pa.string())])
    return pa.Table.from_pylist(rows, schema=schema), dropped


def _as_sampled(response_token_ids: list[list[int]]) -> dict[str, Any]:
    """Columns of records.SAMPLED for responses that no engine drew."""
    return {
        "round": 0,
        "weight_version": GIVEN,
        "seed": 0,
        "sampling": "{}",
        "response_token_ids": response_token_ids,
        "finish_reasons": ["stop"] * len(response_token_ids),
        "engine_logps": [None] * len(response_token_ids),
    }


def encode_responses(
    tokenizer: PreTrainedTokenizerBase, prompt: str, prompt_token_ids: Sequence[int], responses: Sequence[str]
) -> list[list[int]]:
    """Token ids of responses as they follow a rendered prompt, each with the end-of-sequence id once.

    Where the encoding of prompt and response together begins with the prompt's ids, its rest is taken, so that no space
    is put between the two; where a token would span the border, the response is encoded alone. Either way, what is
    trained is `prompt_token_ids` and then these ids.

    Args:
        tokenizer: with an end-of-sequence token.
        prompt: rendered text.
        prompt_token_ids: its ids, never changed.
        responses: texts.
    """
    if not responses:
        return []
    prefix, eos = list(prompt_token_ids), tokenizer.eos_token_id
    alone = tokenizer(list(responses), add_special_tokens=False)["input_ids"]
    bare = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    joint = tokenizer([prompt + response for response in responses], add_special_tokens=False)["input_ids"]
    # special tokens stand before the text, so the rest after the bare prompt is the rest after the rendered one
    assert prefix[len(prefix) - len(bare) :] == list(bare), "the prompt's ids are not those of its text"
    ids = [both[len(bare) :] if both[: len(bare)] == bare else one for both, one in zip(joint, alone, strict=True)]
    return [list(one) if one and one[-1] == eos else [*one, eos] for one in ids]
