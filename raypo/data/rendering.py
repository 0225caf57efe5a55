"""Text and conversations to token ids, once: special tokens once, one template render each, one end per response.

A response ends with one token. Behind a text prompt that is the tokenizer's end-of-sequence token; behind a
conversation it is the one with which the chat template ends the assistant's turn, or the end-of-sequence token where
the template's render does not tell it.

A template is trusted where it has the prefix property: what it makes of a prompt is the beginning, as text and as token
ids, of what it makes of prompt and answer. It is checked for every response, and where it fails the caller is told.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase

from raypo.data.sources import Prompt
from raypo.errors import DataError

WHOLE, NOT_A_PREFIX, NO_END = "whole", "prefix_failed", "no_end_of_turn"
"""How the ids of a response to a conversation came to be; see `Answer`."""


@dataclass(frozen=True)
class Answer:
    """A response to a conversation, by the chat template.

    Args:
        ids: the response and the token that ends its turn. None where they cannot be had from one render.
        how: "whole"; or why there are no ids: "prefix_failed", the text of prompt and answer, or the prompt's ids, do
            not begin the whole's; "no_end_of_turn", no special token ends the answer.
        end: the token that ends the turn. None: the render does not tell.
    """

    ids: list[int] | None
    how: str
    end: int | None


NO_ARGUMENTS: Mapping[str, Any] = {}


def render(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, arguments: Mapping[str, Any] = NO_ARGUMENTS
) -> tuple[str, list[int]]:
    """A prompt as the model is to see it.

    Text stays as it is, with the tokenizer's own beginning-of-sequence token once and no end-of-sequence token.
    Messages go through the chat template once, with the assistant's turn opened; special tokens are the template's.

    Args:
        tokenizer: of the policy.
        prompt: text, or {role, content} messages.
        arguments: of the chat template.

    Returns:
        text and its token ids; no ids at all only for empty text with a tokenizer that begins with nothing.

    Raises:
        DataError: messages, but the tokenizer has no chat template; or the template refuses them.
    """
    if isinstance(prompt, str):
        return prompt, _plain_ids(tokenizer, prompt)
    text = apply_template(tokenizer, prompt, arguments=arguments)
    return text, tokenizer(text, add_special_tokens=False)["input_ids"]


def _plain_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text)["input_ids"]
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if bos is not None and ids[:2] == [bos, bos]:
        ids = ids[1:]  # the text brings the token that the tokenizer adds
    if len(ids) > 1 and ids[-1] == eos:
        bare = tokenizer(text, add_special_tokens=False)["input_ids"]
        for front in (ids[:1], []):
            if ids == [*front, *bare, eos]:
                return ids[:-1]  # added by the tokenizer: a prompt does not end
    return ids


def apply_template(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    *,
    arguments: Mapping[str, Any] = NO_ARGUMENTS,
    opened: bool = True,
) -> str:
    """A conversation's text.

    Args:
        tokenizer: whose template it is.
        messages: {role, content}, a system prompt among them.
        arguments: `prompts.template_arguments`, given to the template.
        opened: whether the assistant's turn is opened at the end.

    Raises:
        DataError: the tokenizer has no chat template, or it refuses the messages.
    """
    if tokenizer.chat_template is None:
        raise DataError(
            f"the prompts are conversations, but the tokenizer of {tokenizer.name_or_path} has no chat template",
            "a tokenizer with a chat template, or prompts that are text",
            "give a template (policy.chat_template=FILE), take an instruction-tuned policy, or give prompts as text",
        )
    try:
        text = tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=opened, **arguments
        )
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        roles = ", ".join(message["role"] for message in messages)
        given = f" with {dict(arguments)}" if arguments else ""
        raise DataError(
            f"the chat template refuses a conversation of {roles}{given}: {error}",
            "roles in an order that the template takes",
            "mend the prompt, or give another template (policy.chat_template=FILE)",
        ) from error
    return str(text)


def template_hash(tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any] = NO_ARGUMENTS) -> str:
    """16 hex digits that name the chat template and its arguments, for manifests; of the empty text without either."""
    template = tokenizer.chat_template
    text = template if isinstance(template, str) else json.dumps(template or "", sort_keys=True)
    if arguments:
        text += "\0" + json.dumps(dict(arguments), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def answer_ids(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    prompt: str,
    prompt_token_ids: Sequence[int],
    responses: Sequence[str],
    arguments: Mapping[str, Any] = NO_ARGUMENTS,
) -> list[Answer]:
    """What the template makes of responses behind their conversation: the answer, and the token that ends its turn.

    The turn ends with the first special token that the template puts behind the answer, such as <|im_end|> or
    <end_of_turn>; what stands behind that token, such as a line break, is cut, for no engine would draw it.

    Args:
        tokenizer: with a template.
        messages: the conversation without the answer.
        prompt: its text with the assistant's turn opened, by `apply_template`.
        prompt_token_ids: the ids of that text.
        responses: answers. A template may strip the space around them.
        arguments: as for `apply_template`.

    Returns:
        one per response.
    """
    wholes = [
        apply_template(
            tokenizer, [*messages, {"role": "assistant", "content": text}], arguments=arguments, opened=False
        )
        for text in responses
    ]
    encoded = tokenizer(wholes, add_special_tokens=False)["input_ids"] if wholes else []
    prefix, ends = list(prompt_token_ids), _special_ids(tokenizer)
    found = []
    for text, whole, ids in zip(responses, wholes, encoded, strict=True):
        tail = _behind(whole, prompt, text)
        if tail is None:
            found.append(Answer(None, NOT_A_PREFIX, None))
            continue
        closing = [one for one in tokenizer(tail, add_special_tokens=False)["input_ids"] if one in ends]
        if not closing:
            found.append(Answer(None, NO_END, None))
        elif ids[: len(prefix)] != prefix:
            found.append(Answer(None, NOT_A_PREFIX, closing[0]))
        else:
            # special tokens are never part of others, so the last of them in the whole are those of the tail
            places = [place for place, one in enumerate(ids) if one in ends]
            trained = list(ids[len(prefix) : places[-len(closing)] + 1])
            if trained[-2:] == closing[:1] * 2:
                trained.pop()  # the text brings the token that the template adds
            found.append(Answer(trained, WHOLE, closing[0]))
    return found


def encode_responses(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    prompt_token_ids: Sequence[int],
    responses: Sequence[str],
    end: int | None = None,
) -> list[list[int]]:
    """Token ids of responses as they follow a rendered prompt, each with the id that ends it once.

    Where the encoding of prompt and response together begins with the prompt's ids, its rest is taken, so that no space
    is put between the two; where a token would span the border, the response is encoded alone. Either way, what is
    trained is `prompt_token_ids` and then these ids.

    Args:
        tokenizer: with an end-of-sequence token.
        prompt: rendered text.
        prompt_token_ids: its ids, never changed.
        responses: texts.
        end: the id that ends a response. None: the end-of-sequence id.
    """
    if not responses:
        return []
    prefix, last = list(prompt_token_ids), tokenizer.eos_token_id if end is None else end
    alone = tokenizer(list(responses), add_special_tokens=False)["input_ids"]
    bare = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    joint = tokenizer([prompt + response for response in responses], add_special_tokens=False)["input_ids"]
    # special tokens stand before the text, so the rest after the bare prompt is the rest after the rendered one
    assert prefix[len(prefix) - len(bare) :] == list(bare), "the prompt's ids are not those of its text"
    ids = [both[len(bare) :] if both[: len(bare)] == bare else one for both, one in zip(joint, alone, strict=True)]
    return [list(one) if one and one[-1] == last else [*one, last] for one in ids]


def _behind(whole: str, prompt: str, response: str) -> str | None:
    """What a render has behind prompt and response; None where it does not begin with them.

    A template may strip the space around an answer, or put space of its own before it, as Llama 2's does: that space is
    then part of what is trained, because the template's users see it.
    """
    if not whole.startswith(prompt):
        return None
    rest = whole[len(prompt) :]
    for answer in (response, response.strip()):
        for start in (rest, rest.lstrip()):
            if start.startswith(answer):
                return start[len(answer) :]
    return None


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids that no text has by itself: also of special tokens that no attribute of the tokenizer names."""
    added = {int(index) for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | {int(index) for index in tokenizer.all_special_ids}
