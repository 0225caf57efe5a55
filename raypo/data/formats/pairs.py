"""Layouts with two responses: which of them is better, and for some how many raters said so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from raypo.config import PromptsConfig
from raypo.data.files import Row, describe
from raypo.data.formats.given import Given, Reading, read_text
from raypo.data.formats.turns import HUMAN, Parted, common_beginning, follow_prompt, part_turns, transcript_turns
from raypo.data.sources import cell, row_prompt
from raypo.errors import DataError

CHOSEN, REJECTED = "chosen", "rejected"
OTHER_PROMPTS = ("prompt", "question", "instruction", "query", "input", "problem")
NOT_TEXT = "response_not_text"


def read_pair(row: Row, config: PromptsConfig) -> Reading:
    """TRL's `chosen` and `rejected`: rewards 1 and 0, which say no more than which is better.

    Two texts follow the prompt column, or without one hold the prompt as their common beginning. Two conversations hold
    it as what comes before their last message (`turns.part_turns`).

    Raises:
        DataError: the two are neither texts nor conversations.
    """
    sides = [cell(row, name, setting="prompts.sets_format") for name in (CHOSEN, REJECTED)]
    parted: Parted | str
    if row.values.get(config.column) is not None:
        parted = follow_prompt(row, config.column, sides)
    elif all(isinstance(side, str) for side in sides):
        _refuse_other_prompts(row, config)
        parted = common_beginning([read_text(row, number, side) for number, side in enumerate(sides, start=1)])
    else:
        parted = part_turns(row, None, sides)
    return parted if isinstance(parted, str) else Given(*parted, [1.0, 0.0], (config.column, CHOSEN, REJECTED))


def _refuse_other_prompts(row: Row, config: PromptsConfig) -> None:
    """A prompt that is missing or has another name must not be left out for what two responses happen to begin with.

    Raises:
        DataError: there is such a column, and nobody said that the layout is that of a pair which holds its prompt.
    """
    other = [name for name in OTHER_PROMPTS if isinstance(row.values.get(name), str)]
    if config.column in row.values and not other and config.sets_format == "auto":
        raise DataError(
            f"{row.place}: {config.column!r} is null beside two texts",
            "a prompt in every row, or no such column",
            "mend the row; or say that the texts hold their prompt: prompts.sets_format=pair",
        )
    if other and config.sets_format == "auto":
        raise DataError(
            f"{row.place} has {CHOSEN!r} and {REJECTED!r}, no column {config.column!r}, and one of {other[0]!r}",
            "a prompt column, or a pair of texts that begin with their prompt",
            f"name the column: prompts.column={other[0]}; or say that the texts hold it: prompts.sets_format=pair",
        )


def holds_transcripts(row: Row, config: PromptsConfig) -> bool:
    """Whether the pair is transcripts that hold their prompt; with a prompt column it is a pair of plain texts."""
    sides = [row.values.get(name) for name in (CHOSEN, REJECTED)]
    return config.column not in row.values and all(isinstance(s, str) and s.startswith(HUMAN) for s in sides)


def read_hh(row: Row, config: PromptsConfig) -> Reading:
    r"""Two transcripts "\n\nHuman: ...\n\nAssistant: ..." as in Anthropic's hh-rlhf: parsed into messages; 1, 0.

    With a prompt column, its transcript comes before both texts. Rows are dropped as "prompts_differ", "empty_turn" or
    "not_a_dialogue" (see `turns`): hh-rlhf has some of each.

    Raises:
        DataError: a cell is not text.
    """
    before = row_prompt(row, config.column) if config.column in row.values else ""
    if not isinstance(before, str):
        raise DataError(
            f"{row.place}: {config.column!r} is {describe(before)}", "a transcript", "set prompts.sets_format=pair"
        )
    conversations: list[Any] = []
    for number, name in enumerate((CHOSEN, REJECTED), start=1):
        text = read_text(row, number, cell(row, name, setting="prompts.sets_format"))
        turns = transcript_turns(text if text.startswith(HUMAN) else before + text)
        if isinstance(turns, str):
            return turns
        conversations.append(turns)
    parted = part_turns(row, None, conversations)
    return parted if isinstance(parted, str) else Given(*parted, [1.0, 0.0], (config.column, CHOSEN, REJECTED))


def judged(
    prompt: str | None, first: str, second: str, verdict: str, meaning: Mapping[int, float]
) -> Callable[[Row, PromptsConfig], Reading]:
    """A reader of two columns of responses beside a verdict; a response's reward is its share of the raters' votes.

    A row is dropped as "response_not_text" where a response became a number or a truth value on the way to JSON, as
    some of PandaLM's did: nobody knows what its text was.

    Args:
        prompt: the layout's own prompt column. None: `prompts.column`.
        first: column of a response.
        second: column of the other response.
        verdict: column of one rater's verdict or a list of several raters'.
        meaning: verdict to the first response's share of that vote: 1, 0, or 0.5 for a tie.
    """

    def read(row: Row, config: PromptsConfig) -> Reading:
        value = cell(row, verdict, setting="prompts.sets_format")
        votes = value if isinstance(value, list) and value else [value]
        if not all(isinstance(vote, int | float) and vote in meaning for vote in votes):
            raise DataError(
                f"{row.place}: {verdict!r} is {describe(value)}",
                f"one of {', '.join(map(str, meaning))}, or a list of them",
                "mend the row, or say what the layout is: prompts.sets_format=...",
            )
        share = sum(meaning[vote] for vote in votes) / len(votes)
        column = prompt or config.column
        sides = [cell(row, name, setting="prompts.sets_format") for name in (first, second)]
        if any(isinstance(side, bool | int | float) for side in sides):
            return NOT_TEXT
        parted = follow_prompt(row, column, sides)
        used = (column, first, second, verdict)
        return parted if isinstance(parted, str) else Given(*parted, [share, 1.0 - share], used)

    return read
