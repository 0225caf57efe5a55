"""Raw rows to tokens: the chat template once, the special tokens once, the end of a response once.

Here a prompt's ids are made for good: every later stage carries them, and nothing encodes text again. A sequence
of training is a prompt's ids and then a response's; the loss is on all of the response's ids and on nothing else, so a
conversation's earlier turns and its system prompt are context alone.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from raypo.config import PromptsConfig
from raypo.data.rendering import (
    NO_ARGUMENTS,
    NO_END,
    NOT_A_PREFIX,
    WHOLE,
    answer_ids,
    encode_responses,
    render,
    template_hash,
)
from raypo.data.sets import REPEATED, TOO_FEW, read_sets
from raypo.data.sources import Prompt, read_prompts, split
from raypo.errors import DataError, ModelError
from raypo.records import PROMPTS, SAMPLED, conform

GIVEN = -1
"""Weight version of responses that no engine drew."""


def render_prompts(
    raw: pa.Table,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_prompt_tokens: int,
    arguments: Mapping[str, Any] = NO_ARGUMENTS,
) -> tuple[pa.Table, dict[str, int]]:
    """Render raw rows; prompts that are too long or empty are dropped, never cut.

    Args:
        raw: rows of `sources.RAW` and the column `split`.
        tokenizer: of the policy.
        max_prompt_tokens: longest prompt that is kept, tokens.
        arguments: of the chat template.

    Returns:
        rows of records.PROMPTS in the order of `raw`; rows dropped by reason: "too_long", "empty".

    Raises:
        DataError: conversations without a template.
    """
    kept, dropped = _fitting(raw, tokenizer, max_prompt_tokens=max_prompt_tokens, arguments=arguments)
    schema = pa.schema([*PROMPTS, *[field for field in raw.schema if field.name not in PROMPTS.names]])
    table = pa.Table.from_pylist([row for _, row in kept], schema=schema)
    return table.drop_columns(["conversational"]), dropped


def _fitting(
    raw: pa.Table, tokenizer: PreTrainedTokenizerBase, *, max_prompt_tokens: int, arguments: Mapping[str, Any]
) -> tuple[list[tuple[Prompt, dict[str, Any]]], dict[str, int]]:
    """Prompts as given beside their rendered rows, of those that can be kept; rows dropped by reason."""
    kept, dropped = [], Counter({"too_long": 0, "empty": 0})
    for row in raw.to_pylist():
        prompt: Prompt = json.loads(row["prompt"]) if row["conversational"] else row["prompt"]
        text, ids = render(tokenizer, prompt, arguments)
        if not ids or not text.strip():
            dropped["empty"] += 1
        elif len(ids) > max_prompt_tokens:
            dropped["too_long"] += 1
        else:
            kept.append((prompt, row | {"prompt": text, "prompt_token_ids": ids}))
    return kept, dict(dropped)


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
    arguments = config.template_arguments
    table, more = render_prompts(labelled, tokenizer, max_prompt_tokens=config.max_prompt_tokens, arguments=arguments)
    sides = Counter(table["split"].to_pylist())
    facts = {
        "read": raw.num_rows + (0 if heldout is None else heldout.num_rows),
        "train": sides["train"],
        "heldout": sides["heldout"],
        "dropped": dropped | more,
        "template": template_hash(tokenizer, arguments),
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
    config: PromptsConfig, tokenizer: PreTrainedTokenizerBase, *, max_response_tokens: int, lone: bool = False
) -> tuple[pa.Table, dict[str, Any]]:
    """Read, split and render offline sets: prompts with responses and rewards that are there already.

    Sets to the same prompt are on the same side of the split; each is a row of its own, with an id of its own.

    Args:
        config: where they are, their layout, and how they are split.
        tokenizer: of the policy.
        max_response_tokens: longer responses leave their set.
        lone: one response is enough; see `sets.read_sets`.

    Returns:
        as `render_sets`; facts as of `load_prompts`, with the reasons of `sets.read_sets` among those for which sets
        were dropped, and `rows` of the source, `formats` name to rows, `responses` that left their set by reason
        ("duplicate", "too_long"), `rendered` responses by how (see `render_sets`).
        read = train + heldout + all dropped, in sets.

    Raises:
        DataError: they cannot be read, or no set is left to train on.
    """
    sources = [read_sets(config, lone=lone)]
    if config.heldout_path is not None:
        sources.append(read_sets(config, config.heldout_path, lone=lone))
    raw = sources[0][0]
    dropped: Counter[str] = Counter()
    formats: Counter[str] = Counter()
    for _, one in sources:
        dropped.update(one["dropped"])
        formats.update(one["formats"])
    read = sum(table.num_rows for table, _ in sources) + dropped.total()
    heldout = sources[1][0] if len(sources) > 1 else None
    labelled, more = split(raw, config.heldout_fraction, heldout=heldout, key="set_id")
    dropped.update(more)
    table, more, answers = render_sets(
        _own_ids(labelled),
        tokenizer,
        max_prompt_tokens=config.max_prompt_tokens,
        max_response_tokens=max_response_tokens,
        arguments=config.template_arguments,
        lone=lone,
    )
    dropped.update(more)
    sides = Counter(table["split"].to_pylist())
    if not sides["train"]:
        raise DataError(
            f"{config.path}: of {read} sets none is left to train on; dropped: {dict(dropped)}",
            f"prompts of 1 to {config.max_prompt_tokens} tokens with two responses of at most {max_response_tokens}",
            "raise prompts.max_prompt_tokens or sampling.max_response_tokens",
        )
    return table, {
        "rows": sum(one["rows"] for _, one in sources),
        "formats": dict(formats),
        "read": read,
        "train": sides["train"],
        "heldout": sides["heldout"],
        "dropped": dict(dropped),
        "responses": {"duplicate": sum(one[REPEATED] for _, one in sources), "too_long": answers.pop("too_long")},
        "rendered": answers,
        "template": template_hash(tokenizer, config.template_arguments),
    }


def _own_ids(labelled: pa.Table) -> pa.Table:
    """Sets whose prompt has several get the hash of prompt and responses as prompt_id, so that it is a key."""
    names = labelled["prompt_id"].to_pylist()
    count = Counter(names)
    own = [s if count[p] > 1 else p for p, s in zip(names, labelled["set_id"].to_pylist(), strict=True)]
    return labelled.set_column(labelled.column_names.index("prompt_id"), "prompt_id", pa.array(own, pa.string()))


def render_sets(
    raw: pa.Table,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_prompt_tokens: int,
    max_response_tokens: int,
    arguments: Mapping[str, Any] = NO_ARGUMENTS,
    lone: bool = False,
) -> tuple[pa.Table, dict[str, int], dict[str, int]]:
    """Render offline sets; responses are encoded once, as what follows their prompt, with the token that ends them.

    Args:
        raw: rows of `sets.RAW_SETS` and the column `split`.
        tokenizer: of the policy.
        max_prompt_tokens: sets with longer prompts are dropped.
        max_response_tokens: longer responses leave their set, the token that ends them counted: their rewards judge the
            whole of them, so they cannot be cut. A set that is left with fewer than two (or none) is dropped.
        arguments: of the chat template.
        lone: one response is enough.

    Returns:
        rows of records.SAMPLED with the columns `rewards` (as given) and `split`; sets dropped by reason: "too_long",
        "empty", "too_few_responses"; responses: "too_long", those that left their set, and how the others and they were
        rendered: "text" behind a text prompt, or by the chat template as of `rendering.answer_ids`.

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
    kept, dropped = _fitting(raw, tokenizer, max_prompt_tokens=max_prompt_tokens, arguments=arguments)
    dropped[TOO_FEW] = 0
    answers = Counter({"too_long": 0, "text": 0, WHOLE: 0, NOT_A_PREFIX: 0, NO_END: 0})
    rows = []
    for prompt, row in kept:
        ids = _answers(tokenizer, prompt, row, arguments, answers)
        fits = [k for k, one in enumerate(ids) if len(one) <= max_response_tokens]
        answers["too_long"] += len(ids) - len(fits)
        if len(fits) < (1 if lone else 2):
            dropped[TOO_FEW] += 1
            continue
        given = {name: [row[name][k] for k in fits] for name in ("responses", "rewards")}
        rows.append(row | given | _as_sampled([ids[k] for k in fits]))
    schema = pa.schema([*SAMPLED, ("rewards", pa.list_(pa.float64())), ("split", pa.string())])
    return pa.Table.from_pylist(rows, schema=schema), dropped, dict(answers)


def _answers(
    tokenizer: PreTrainedTokenizerBase,
    prompt: Prompt,
    row: dict[str, Any],
    arguments: Mapping[str, Any],
    counts: Counter[str],
) -> list[list[int]]:
    """Ids of a set's responses; how they came to be is added to the counts."""
    text, prefix, responses = row["prompt"], row["prompt_token_ids"], row["responses"]
    if isinstance(prompt, str):
        counts["text"] += len(responses)
        return encode_responses(tokenizer, text, prefix, responses)
    found = answer_ids(tokenizer, prompt, text, prefix, responses, arguments)
    counts.update(one.how for one in found)
    # one end for all of a set: a contrast of two would teach which token to end with
    end = next((one.end for one in found if one.end is not None), None)
    return [
        encode_responses(tokenizer, text, prefix, [response], end if one.end is None else one.end)[0]
        if one.ids is None
        else one.ids
        for response, one in zip(responses, found, strict=True)
    ]


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
