"""Several reward sources become one training reward per response; what cannot be scored is marked, never removed."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from raypo.config import FunctionReward, HttpReward, ModelReward, ScoringConfig
from raypo.errors import RewardError
from raypo.records import SAMPLED, SCORED, conform
from raypo.scoring.function import RewardFunction, Values, checked_values

Source = Callable[[list[str], list[str], list[dict[str, Any]]], Sequence[float | None]]

GIVEN = "given"
"""Name of the source of rewards that came with the data."""

RELATIVE_TIE = 1e-6
"""Rewards closer than this, relative to the largest of the set, are equal in the fp32 that the objective sees."""


def make_source(config: FunctionReward | ModelReward | HttpReward) -> Source:
    """The source of a config.

    Raises:
        RewardError: it cannot be made.
        ModelError: its model cannot be read.
    """
    if isinstance(config, FunctionReward):
        return RewardFunction(config)
    if isinstance(config, HttpReward):
        from raypo.scoring.http import HttpReward as Client  # imported when used: functions need no network client

        return Client(config)
    from raypo.scoring.reward_model import RewardModel  # as above: imports torch

    return RewardModel(config)


class Scorer:
    """Scores the responses of sampled rows by every source; one row out per row in, in the same order.

    Args:
        sources: of the run; those of weight 0 are recorded and never enter the reward.
        scoring: what becomes of truncated responses.
        models: callables that take the place of sources by name: reward models that live in actors.

    Raises:
        RewardError: no source has a weight, or one cannot be made.
    """

    def __init__(
        self,
        sources: Sequence[FunctionReward | ModelReward | HttpReward],
        scoring: ScoringConfig,
        models: Mapping[str, Source] | None = None,
    ) -> None:
        if not any(source.weight for source in sources):
            raise RewardError("no reward source has a weight", "at least one", "give one under `rewards` a weight")
        made = dict(models or {})
        self._sources = {source.name: made.get(source.name) or make_source(source) for source in sources}
        self._weights = {source.name: source.weight / source.scale for source in sources}
        self._scoring = scoring

    def __call__(self, table: pa.Table) -> pa.Table:
        """Rows of records.SAMPLED to rows of records.SCORED.

        Raises:
            RewardError: a source is broken.
        """
        rows = table.to_pylist()
        prompts = [row["prompt"] for row in rows for _ in row["responses"]]
        responses = [text for row in rows for text in row["responses"]]
        metadata = [json.loads(row["metadata"]) for row in rows for _ in row["responses"]]
        values: dict[str, Values] = {}
        for name, source in self._sources.items():
            answer = source(prompts, responses, metadata) if responses else []
            values[name] = checked_values(answer, len(responses), f"reward {name!r}")
        return finish_scores(table, values, self._weights, self._scoring)


def score_given(table: pa.Table, scoring: ScoringConfig) -> pa.Table:
    """Offline sets: rows of records.SAMPLED with a column `rewards` to rows of records.SCORED.

    Args:
        table: null, NaN and infinite rewards mean that a response was not scored.
        scoring: as for sampled responses.
    """
    flat = [value for row in table["rewards"].to_pylist() for value in row]
    values = {GIVEN: checked_values(flat, len(flat), "the given rewards")}
    return finish_scores(conform(table, SAMPLED, what="the sets"), values, {GIVEN: 1.0}, scoring)


def finish_scores(
    table: pa.Table, values: Mapping[str, Values], weights: Mapping[str, float], scoring: ScoringConfig
) -> pa.Table:
    """Combine values and decide which responses may train.

    Args:
        table: rows of records.SAMPLED.
        values: per source, one value per response over all rows, row after row.
        weights: per source, its weight over its scale.
        scoring: what becomes of truncated responses.

    Returns:
        rows of records.SCORED in the same order.
    """
    combined = combine(values, weights)
    columns: dict[str, list[Any]] = {name: [] for name in ("reward_values", "rewards", "usable", "unusable_reason")}
    start = 0
    for ids, finished in zip(table["response_token_ids"].to_pylist(), table["finish_reasons"].to_pylist(), strict=True):
        part = slice(start, start + len(ids))
        start += len(ids)
        rewards = combined[part]
        if scoring.truncated == "penalty":
            rewards = [
                value - scoring.truncation_penalty * (reason == "length")
                for value, reason in zip(rewards, finished, strict=True)
            ]
        reasons = unusable_reasons(ids, finished, rewards, drop_truncated=scoring.truncated == "drop")
        columns["reward_values"].append([{"name": name, "values": values[name][part]} for name in values])
        columns["rewards"].append(rewards)
        columns["usable"].append([not reason for reason in reasons])
        columns["unusable_reason"].append(reasons)
    for name, column in columns.items():
        table = table.append_column(name, pa.array(column, SCORED.field(name).type))
    return conform(table, SCORED, what="scoring")


def combine(values: Mapping[str, Values], weights: Mapping[str, float]) -> list[float]:
    """Weighted sum over the sources of non-zero weight; NaN where one of these has no value.

    Args:
        values: per source, one value per response; all equally many.
        weights: per source.
    """
    total = np.zeros(len(next(iter(values.values()))), dtype=np.float64)
    with np.errstate(over="ignore"):  # a sum beyond the largest float is no value either
        for name, weight in weights.items():
            if weight:
                total += weight * np.array(values[name], dtype=np.float64)  # None becomes NaN
    return [value if math.isfinite(value) else math.nan for value in total.tolist()]


def unusable_reasons(
    response_token_ids: Sequence[Sequence[int]],
    finish_reasons: Sequence[str],
    rewards: Sequence[float],
    *,
    drop_truncated: bool,
) -> list[str]:
    """Per response of a set why it must not train; "" where it may.

    "empty": no token. "reward_failed": no reward. "truncated": met the limit, and such are dropped. "duplicate": the
    tokens of an earlier response that may train.
    """
    seen: set[tuple[int, ...]] = set()
    reasons = []
    for ids, finished, reward in zip(response_token_ids, finish_reasons, rewards, strict=True):
        key = tuple(ids)
        if not key:
            reasons.append("empty")
        elif not math.isfinite(reward):
            reasons.append("reward_failed")
        elif drop_truncated and finished == "length":
            reasons.append("truncated")
        elif key in seen:
            reasons.append("duplicate")
        else:
            reasons.append("")
            seen.add(key)
    return reasons


@dataclass(frozen=True)
class ScoreCounts:
    """What became of scored rows: responses = usable + all unusable.

    Args:
        rows: sets.
        responses: in all sets.
        usable: responses that may train.
        unusable: responses that may not, by reason.
        failed: per source, responses to which it gave no value.
    """

    rows: int
    responses: int
    usable: int
    unusable: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)


def count_scores(table: pa.Table) -> ScoreCounts:
    """Count a table of records.SCORED."""
    reasons = Counter(reason for row in table["unusable_reason"].to_pylist() for reason in row)
    failed: Counter[str] = Counter()
    for row in table["reward_values"].to_pylist():
        for source in row:
            failed[source["name"]] += sum(value is None for value in source["values"])
    usable = reasons.pop("", 0)
    return ScoreCounts(table.num_rows, usable + reasons.total(), usable, dict(reasons), dict(failed))


def trainability(
    rewards: Sequence[float | None], usable: Sequence[bool], min_reward_spread: float, *, lone: bool = False
) -> tuple[bool, str]:
    """Whether a set can train: two usable responses whose rewards differ by more than the spread that counts as a tie.

    Args:
        rewards: [K]; what unusable entries hold is not read.
        usable: [K].
        min_reward_spread: in units of the rewards; sets that span this much or less are ties. Rounding always is.
        lone: one usable response is enough, whatever its reward: it is compared with an anchor (KTO).

    Returns:
        True and ""; or False and "too_few_usable" or "ties".
    """
    values = [float(value) for value, ok in zip(rewards, usable, strict=True) if ok and value is not None]
    if lone and values:
        return True, ""
    if len(values) < 2:
        return False, "too_few_usable"
    tie = max(min_reward_spread, RELATIVE_TIE * max(map(abs, values)))
    return (True, "") if max(values) - min(values) > tie else (False, "ties")


def reward_spread(table: pa.Table, trainable: Sequence[bool]) -> float:
    """Root mean over sets of the variance (over K) of usable rewards within a set: the unit of `reward_scale: run_std`.

    Args:
        table: rows of records.SCORED.
        trainable: [rows]; others are not read.

    Raises:
        RewardError: no set can train, so that there is no spread.
    """
    variances = []
    columns = table["rewards"].to_pylist(), table["usable"].to_pylist()
    for rewards, usable, trains in zip(*columns, trainable, strict=True):
        if trains:
            variances.append(np.var([value for value, ok in zip(rewards, usable, strict=True) if ok]))
    if not variances:
        raise RewardError("no set can train", "rewards that tell the responses of a prompt apart", "check the reward")
    return float(np.sqrt(np.mean(variances)))
