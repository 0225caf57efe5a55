"""Layouts with one judged response per row; rows with the same prompt make up a set."""

from __future__ import annotations

from raypo.config import PromptsConfig
from raypo.data.files import Row, describe
from raypo.data.formats.given import Given, Reading, read_number
from raypo.data.formats.pairs import judged
from raypo.data.formats.turns import follow_prompt
from raypo.data.sources import cell
from raypo.errors import DataError


def read_unpaired(row: Row, config: PromptsConfig) -> Reading:
    """TRL's `completion` with `label`: true becomes reward 1, false 0; plain or conversational.

    Raises:
        DataError: the label is not true or false, or the completion neither text nor a conversation.
    """
    return _one(row, config, "completion", _label(row), "label")


def _label(row: Row) -> float:
    value = cell(row, "label", setting="prompts.sets_format")
    if value not in (0, 1):
        raise DataError(f"{row.place}: 'label' is {describe(value)}", "true or false", "mend the row")
    return float(value)


def _one(row: Row, config: PromptsConfig, column: str, reward: float | None, judgement: str) -> Reading:
    parted = follow_prompt(row, config.column, [cell(row, column, setting="prompts.sets_format")])
    if isinstance(parted, str):
        return parted
    used = (config.column, column, judgement)
    return Given(*parted, [reward], used, partial=True, labelled=judgement == "label")


_read_halos_pair = judged(None, "output_A", "output_B", "label", {1: 1.0, 0: 0.0})


def read_halos(row: Row, config: PromptsConfig) -> Reading:
    """What `train.label` of HALOs writes, by its columns; `prompt` and outputs are messages or text.

    Pairwise: `output_A`, `output_B` and `label`, 1 where A is better and 0 where B is: rewards 1 and 0. Binary:
    `output` and `label`, 1 or 0. Scalar: `output` and `reward`. Rewards beside a label become metadata.
    Source: ContextualAI/HALOs, train/label.py.

    Raises:
        DataError: a label is not 0 or 1, a reward is no number, or an output is neither text nor a conversation.
    """
    if "output_A" in row.values:
        return _read_halos_pair(row, config)
    if "label" in row.values:
        return _one(row, config, "output", _label(row), "label")
    reward = read_number(row, 1, cell(row, "reward", setting="prompts.sets_format"))
    return _one(row, config, "output", reward, "reward")
