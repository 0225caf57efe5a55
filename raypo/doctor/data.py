"""The first rows of the data as a run would read, render and train them; no Ray and no weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from raypo.config import RunConfig
from raypo.data.chat import load_sets, render_prompts
from raypo.data.known import check_known
from raypo.data.rendering import NO_END, NOT_A_PREFIX, WHOLE, answer_ids, render, template_hash
from raypo.data.sources import read_prompts
from raypo.doctor import trust
from raypo.doctor.findings import Finding, ok, warn
from raypo.errors import DataError
from raypo.models.load import load_tokenizer
from raypo.scoring.rewards import trainability

ROWS = 64
"""Rows that are looked at: enough to find a wrong column or template, few enough for seconds."""
ANSWER = "Yes."
SHOWN = 2
TEXT = "text"
MANY_DROPPED = 0.2
"""Above this share of rows the data or a limit is not what was meant."""


@dataclass
class Data:
    """What the first rows tell.

    Args:
        findings: of the checks.
        prompts: rows of records.PROMPTS to sample for; None where nothing is to be sampled.
        shown: texts as trained.
    """

    findings: list[Finding] = field(default_factory=list)
    prompts: pa.Table | None = None
    shown: list[Text] = field(default_factory=list)


def prompts(config: RunConfig) -> Data:
    """The first prompts of an online run.

    Raises:
        DataError: they cannot be read, or none of them can be used.
    """
    given = config.prompts
    tokenizer = load_tokenizer(config.policy.path, config.policy.revision, config.policy.chat_template)
    raw = read_prompts(given.model_copy(update={"limit": min(given.limit or ROWS, ROWS)}))
    if given.heldout_path is not None:
        read_prompts(given.model_copy(update={"path": given.heldout_path, "limit": ROWS}))
    labelled = raw.append_column("split", pa.array(["train"] * raw.num_rows))
    table, dropped = render_prompts(
        labelled, tokenizer, max_prompt_tokens=given.max_prompt_tokens, arguments=given.template_arguments
    )
    told = f"first {raw.num_rows} of {given.path}: dropped {dropped['too_long']} too long, {dropped['empty']} empty"
    if not table.num_rows:
        raise DataError(
            f"{told}; none is left",
            f"prompts of 1 to {given.max_prompt_tokens} tokens",
            "raise prompts.max_prompt_tokens, or mend the file",
        )
    check_known(table, config)
    lengths = [len(ids) for ids in table["prompt_token_ids"].to_pylist()]
    told += f"; tokens {min(lengths)} to {max(lengths)}, median {np.median(lengths):g}"
    found = ok("prompts", told)
    if dropped["too_long"] > MANY_DROPPED * raw.num_rows:
        found = warn("prompts", told, "few prompts that are too long", "raise prompts.max_prompt_tokens")
    return Data([found, chat_template(raw, tokenizer, config)], table)


def chat_template(raw: pa.Table, tokenizer: PreTrainedTokenizerBase, config: RunConfig) -> Finding:
    """Whether what the template makes of a prompt begins what it makes of prompt and answer, as text and as ids."""
    conversations = [json.loads(row["prompt"]) for row in raw.to_pylist() if row["conversational"]]
    if not conversations:
        return template_finding("", {TEXT})
    arguments = config.prompts.template_arguments
    ways = set()
    for messages in conversations[:8]:
        text, ids = render(tokenizer, messages, arguments)
        ways |= {one.how for one in answer_ids(tokenizer, messages, text, ids, [ANSWER], arguments)}
    name = f"{template_hash(tokenizer, arguments)}: "
    return template_finding(name, ways)


def template_finding(name: str, ways: set[str]) -> Finding:
    """What the ways in which answers came to be tokens say of the template.

    Args:
        name: what stands before it.
        ways: of `rendering.Answer.how`, and TEXT for what stands behind a text prompt.
    """
    if ways <= {TEXT}:
        return ok("chat template", "not used: the prompts are text")
    if NOT_A_PREFIX in ways:
        return warn(
            "chat template",
            f"{name}a rendered prompt does not begin the render of prompt and answer",
            "the prefix property: else a model is trained on other tokens than it is asked with",
            "give prompts.template_arguments that leave nothing out of earlier turns, or policy.chat_template",
        )
    if NO_END in ways:
        return warn(
            "chat template",
            f"{name}no special token ends the assistant's turn",
            "a token that ends an answer, as engines would draw it",
            "give another policy.chat_template, or sampling.stop_token_ids",
        )
    assert ways <= {WHOLE, TEXT}, ways
    return ok("chat template", f"{name}a prompt's tokens begin those of prompt and answer")


def sets(config: RunConfig) -> Data:
    """The first given sets of an offline run, and a few of them as trained.

    Raises:
        DataError: they cannot be read, or none of them can be used.
    """
    given = config.prompts
    tokenizer = load_tokenizer(config.policy.path, config.policy.revision, config.policy.chat_template)
    first = {"limit": min(given.limit or ROWS, ROWS), "heldout_path": None}
    table, facts = load_sets(
        given.model_copy(update=first), tokenizer, max_response_tokens=config.sampling.max_response_tokens
    )
    if given.heldout_path is not None:
        other = given.model_copy(update={"path": given.heldout_path, "limit": ROWS, "heldout_path": None})
        check_known(load_sets(other, tokenizer, max_response_tokens=config.sampling.max_response_tokens)[0], config)
    check_known(table, config)
    dropped = {reason: count for reason, count in facts["dropped"].items() if count}
    told = f"first {facts['rows']} rows of {given.path}: {table.num_rows} sets, read as {facts['formats']}"
    told += f"; dropped: {dropped or 'none'}; responses that left their set: {facts['responses']}"
    ways = {way for way, count in facts["rendered"].items() if count}
    rows = table.to_pylist()
    found = ok("given sets", told)
    if sum(dropped.values()) > MANY_DROPPED * facts["read"]:
        found = warn(
            "given sets",
            told,
            f"at most a share of {MANY_DROPPED:g} dropped",
            "raise prompts.max_prompt_tokens or sampling.max_response_tokens, or look at what the sets hold",
        )
    findings = [found, template_finding(f"{facts['template']}: ", ways)]
    if not config.rewards:
        rewards = [row["rewards"] for row in rows]
        findings.append(reward_finding("given rewards", rewards, config))
        findings.append(trust.doubt("given rewards", rewards, [[*map(len, row["response_token_ids"])] for row in rows]))
    return Data(findings, None, [as_trained(tokenizer, row) for row in rows[:SHOWN]])


def reward_finding(name: str, rewards: Sequence[Sequence[Any]], config: RunConfig) -> Finding:
    """Range of rewards, and the share of sets that cannot train.

    Args:
        name: of the check.
        rewards: per set, one number or None per response.
        config: of the run.
    """
    known = [value for row in rewards for value in row if value is not None and np.isfinite(value)]
    total = sum(map(len, rewards))
    if not known:
        return Finding(name, "fail", f"none of {total} responses has a reward", "numbers", "mend the rewards")
    usable = [[value is not None and bool(np.isfinite(value)) for value in row] for row in rewards]
    spread = config.scoring.min_reward_spread
    ties = sum(not trainability(row, mask, spread)[0] for row, mask in zip(rewards, usable, strict=True))
    told = (
        f"{min(known):.4g} to {max(known):.4g}, mean {np.mean(known):.4g}; "
        f"{total - len(known)} of {total} responses without one; {ties} of {len(rewards)} sets are ties"
    )
    if ties == len(rewards):
        return Finding(
            name, "fail", told, "rewards that differ within a set", "give a reward that tells responses apart"
        )
    if 2 * ties > len(rewards) or len(known) < total:
        return warn(name, told, "few ties and no failures: only sets whose rewards differ train", "look at the rewards")
    return ok(name, told)


def as_trained(tokenizer: PreTrainedTokenizerBase, row: dict[str, Any]) -> Text:
    """A set as the model sees it, special tokens and all: the loss is on the bold part and on nothing else."""
    text = Text(tokenizer.decode(row["prompt_token_ids"], skip_special_tokens=False), style="dim")
    for number, ids in enumerate(row["response_token_ids"]):
        text.append(f"\n  response {number} ({len(ids)} tokens): ", style="dim")
        text.append(tokenizer.decode(ids, skip_special_tokens=False), style="bold")
    return text
