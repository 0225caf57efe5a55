"""Conversations that hold their prompt: all before the final assistant turn, which must be the same on all sides.

Only that turn is trained. A system prompt is a message like the others and stays where it is.
"""

from __future__ import annotations

import re
from typing import Any

from raypo.data.files import Row, describe
from raypo.data.formats.given import is_conversation, read_text
from raypo.data.sources import Prompt, check_messages, row_prompt
from raypo.errors import DataError

PROMPTS_DIFFER, EMPTY_TURN, NO_DIALOGUE = "prompts_differ", "empty_turn", "not_a_dialogue"
NO_BEGINNING = "no_common_beginning"
HUMAN = "\n\nHuman:"
_MARK = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}

Parted = tuple[Prompt, list[str]]


def follow_prompt(row: Row, column: str, sides: list[Any]) -> Parted | str:
    """Prompt and responses of a row that has a prompt column: texts as they are, conversations by `part_turns`.

    Raises:
        DataError: there is no such column, or a side is neither text nor a conversation.
    """
    prompt = row_prompt(row, column)
    if all(isinstance(side, str) for side in sides):
        return prompt, [read_text(row, number, side) for number, side in enumerate(sides, start=1)]
    return part_turns(row, prompt, sides)


def part_turns(row: Row, prompt: Prompt | None, sides: list[Any]) -> Parted | str:
    """Prompt and final turns of conversations.

    Args:
        row: for messages.
        prompt: what the row gives as prompt. Messages: a side goes on after them, or after those of its last turns that
            it repeats; one that holds them at its end is whole. Text: the user's turn, read only where no user speaks
            before the sides' final turns. None: they are whole.
        sides: one conversation per response.

    Returns:
        messages and one text per side; or "prompts_differ" where the sides differ before their final turn, or begin a
        conversation that is not the prompt's.

    Raises:
        DataError: a side is no conversation that ends with the assistant's turn, or there is no prompt at all.
    """
    if odd := [(isinstance(side, str), n) for n, side in enumerate(sides, start=1) if not is_conversation(side)]:
        _, number = min(odd)  # what is neither text nor conversation comes before a text beside conversations
        raise DataError(
            f"{row.place}, response {number} is {describe(sides[number - 1])}",
            "texts, or conversations that end with the assistant's turn",
            "mend the row",
        )
    texts = [read_text(row, number, side[-1:]) for number, side in enumerate(sides, start=1)]
    begins = [_plain(side[:-1]) for side in sides]
    if any(begin != begins[0] for begin in begins):
        return PROMPTS_DIFFER
    before: list[dict[str, Any]] = begins[0]
    if isinstance(prompt, str):
        asked = any(message.get("role") == "user" for message in before)
        before = before if asked else [*before, {"role": "user", "content": prompt}]
    elif prompt is not None:
        given = _plain(prompt)
        # sides may repeat the whole prompt, its last turns, or none of it
        shared = next(n for n in range(len(given), -1, -1) if _said(before[:n]) == _said(given[len(given) - n :]))
        whole = not shared and _said(given) == _said(before[len(before) - len(given) :])
        if not shared and not whole and _begins_anew(before, given):
            return PROMPTS_DIFFER
        before = before if whole else [*given, *before[shared:]]
    if not before:
        raise DataError(
            f"{row.place}: there is no prompt column, and the responses are an answer alone",
            "a prompt column, or conversations that differ in their last message only",
            "add the prompt, or name its column (prompts.column)",
        )
    return check_messages(before, f"{row.place}: what comes before the last message"), texts


def _said(messages: list[dict[str, Any]]) -> list[tuple[Any, Any]]:
    """Who said what: other keys, and space around a text, are no other turn."""
    texts = [message.get("content") for message in messages]
    spoken = [text.strip() if isinstance(text, str) else text for text in texts]
    return [(message.get("role"), text) for message, text in zip(messages, spoken, strict=True)]


def _begins_anew(messages: list[dict[str, Any]], given: list[dict[str, Any]]) -> bool:
    """Whether messages cannot go on after given ones: a system prompt is first, or a question that was asked there."""
    if not (said := _said(messages[:1])):
        return False
    role = said[0][0]
    return role in ("system", "developer") or (role == "user" and said[0] in _said(given))


def _plain(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the null keys with which Parquet fills messages."""
    return [{key: part for key, part in message.items() if part is not None} for message in messages]


def common_beginning(texts: list[str]) -> Parted | str:
    """Text and what follows it in each of two texts, as TRL parts a pair without a prompt; or "no_common_beginning".

    A space at the end goes to the responses, so that no word is cut from the space that its tokens have.
    """
    first, second = texts
    shorter = min(len(first), len(second))
    end = next((i for i in range(shorter) if first[i] != second[i]), shorter)
    if end and first[end - 1] == " ":
        end -= 1
    return (first[:end], [text[end:] for text in texts]) if first[:end].strip() else NO_BEGINNING


def transcript_turns(text: str) -> list[dict[str, str]] | str:
    r"""Messages of a transcript "\n\nHuman: ...\n\nAssistant: ..."; the space around a turn's text is not its own.

    Returns:
        messages that alternate from a user's to an assistant's; or "empty_turn", or "not_a_dialogue" for any other
        order.
    """
    before, *parts = _MARK.split(text)
    names, contents = parts[::2], [part.strip() for part in parts[1::2]]
    if before.strip() or not names or names != ["Human", "Assistant"] * (len(names) // 2):
        return NO_DIALOGUE
    if not all(contents):
        return EMPTY_TURN
    return [{"role": _ROLES[name], "content": content} for name, content in zip(names, contents, strict=True)]
