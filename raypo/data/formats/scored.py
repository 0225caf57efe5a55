"""Layouts with any number of responses, each with a number: scores or ranks."""

from __future__ import annotations

import re
from typing import Any

from raypo.config import PromptsConfig
from raypo.data.files import Row, describe
from raypo.data.formats.given import Given, Reading, read_key, read_list, read_number, read_text
from raypo.data.formats.turns import part_turns
from raypo.data.sources import row_prompt
from raypo.errors import DataError

SCORE_PREFIX = "score_"
ULTRAFEEDBACK_SCORES = ("fine-grained_score", "overall_score")


def read_native(row: Row, config: PromptsConfig) -> Given:
    """`responses` as objects with text and score, or as strings beside a list of rewards.

    Raises:
        DataError: a column or key is missing or of the wrong type, or responses and rewards differ in number.
    """
    values = read_list(row, config.responses_column, "prompts.responses_column")
    used: tuple[str, ...] = (config.column, config.responses_column)
    if any(isinstance(value, dict) for value in values):
        texts = [read_key(row, value, config.response_text_key, "prompts.response_text_key") for value in values]
        rewards = [read_key(row, value, config.response_score_key, "prompts.response_score_key") for value in values]
    else:
        texts, rewards = values, read_list(row, config.rewards_column, "prompts.rewards_column")
        used += (config.rewards_column,)
    if len(texts) != len(rewards):
        raise DataError(
            f"{row.place} has {len(texts)} responses and {len(rewards)} rewards",
            "one reward per response",
            "mend the row; an unknown reward is null",
        )
    return _given(row, row_prompt(row, config.column), texts, rewards, used)


def _given(row: Row, prompt: Any, texts: list[Any], rewards: list[Any], used: tuple[str, ...]) -> Given:
    return Given(
        prompt,
        [read_text(row, number, text) for number, text in enumerate(texts, start=1)],
        [read_number(row, number, reward) for number, reward in enumerate(rewards, start=1)],
        used,
    )


def has_numbered_columns(row: Row, config: PromptsConfig) -> bool:
    """Whether a numbered column of a response stands beside one of its score."""
    return any(SCORE_PREFIX + name in row.values for name in _numbered(row, config))


def _numbered(row: Row, config: PromptsConfig) -> list[str]:
    """Columns of responses by their number."""
    pattern = re.compile(re.escape(config.numbered_prefix) + r"\d+")
    names = [name for name in row.values if pattern.fullmatch(name)]
    return sorted(names, key=lambda name: int(name[len(config.numbered_prefix) :]))


def read_columns(row: Row, config: PromptsConfig) -> Given:
    """`A0`, `A1`, ... beside `score_A0`, `score_A1`, ...: any number of them; a null text is no response.

    Raises:
        DataError: a response has no column of its score.
    """
    numbered = _numbered(row, config)
    names = [name for name in numbered if row.values[name] is not None]
    for name in names:
        if SCORE_PREFIX + name not in row.values:
            raise DataError(
                f"{row.place} has {name!r} and no {SCORE_PREFIX + name!r}",
                "a column of scores per column of responses",
                "add it, with null where a score is not known; or say which columns: prompts.numbered_prefix=...",
            )
    texts = [row.values[name] for name in names]
    rewards = [row.values[SCORE_PREFIX + name] for name in names]
    used = (config.column, *numbered, *(SCORE_PREFIX + name for name in numbered))
    return _given(row, row_prompt(row, config.column), texts, rewards, used)


def read_ultrafeedback(row: Row, config: PromptsConfig) -> Given:
    """UltraFeedback's `instruction` with `completions` of {response, overall_score, fine-grained_score}.

    The score is that of `prompts.response_score_key` where all completions have it, else `fine-grained_score`, the mean
    of the four aspects' ratings, else `overall_score`, the critic's: for some completions of openbmb/UltraFeedback that
    is 10 where the critic said 1 (argilla/ultrafeedback-binarized-preferences, dataset card). The system prompts differ
    between the completions of a set and are no part of its prompt.

    Raises:
        DataError: a completion has no response, or they have no score in common.
    """
    values = read_list(row, "completions", "prompts.sets_format")
    keys = (config.response_score_key, *ULTRAFEEDBACK_SCORES)
    texts = [read_key(row, value, "response", "prompts.sets_format") for value in values]
    # in Parquet a key that one row lacks is null there, so a key that all have comes before one that is only named
    has_all = [key for key in keys if all(one.get(key) is not None for one in values)]
    named = [key for key in keys if all(key in one for one in values)]
    if (score := next(iter([*has_all, *named]), None)) is None:
        raise DataError(
            f"{row.place}: the completions have no score in common",
            f"one of {', '.join(map(repr, keys))} in each",
            "name the key of the scores: prompts.response_score_key=...",
        )
    prompt = row_prompt(row, "instruction")
    return _given(row, prompt, texts, [value[score] for value in values], ("instruction", "completions"))


def read_nemo(row: Row, config: PromptsConfig) -> Reading:
    """NeMo-RL's `context` of messages with `completions` of {rank, completion}: reward = -rank, for rank 0 is the best.

    A completion is messages of which the last is trained; those before it follow the context and must be the same in
    all, else the row is dropped as "prompts_differ".

    Raises:
        DataError: a rank is no number, or a completion no conversation that ends with the assistant's turn.
    """
    values = read_list(row, "completions", "prompts.sets_format")
    sides = [read_key(row, value, "completion", "prompts.sets_format") for value in values]
    ranks = [read_number(row, n, read_key(row, v, "rank", "prompts.sets_format")) for n, v in enumerate(values, 1)]
    context = row_prompt(row, "context")
    if not sides:
        return Given(context, [], [], ("context", "completions"))
    if isinstance(context, str):
        raise DataError(
            f"{row.place}: 'context' is {describe(context)}", "a list of {role, content} messages", "mend the row"
        )
    parted = part_turns(row, context, sides)
    if isinstance(parted, str):
        return parted
    return Given(*parted, [None if rank is None else -rank for rank in ranks], ("context", "completions"))
