"""Rewards of responses: sources, their weighted sum, and which responses and sets can train.

A source is a callable `(prompts, responses, metadata) -> one number or None per response`: None is a response that could
not be scored. One row out per row in; nothing is reordered or removed.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from raypo.config import FunctionReward, HttpReward, RewardSource, ScoringConfig
from raypo.errors import ConfigError, RewardError
from raypo.scoring.http import HttpClient

Values = list[float | None]
Source = Callable[[list[str], list[str], list[dict[str, Any]]], Values]


def load_function(path: str) -> Callable[..., Any]:
    """A function by its dotted path, `package.module:function`.

    Raises:
        ConfigError: it cannot be imported, or is not callable.
    """
    module, separator, name = path.partition(":")
    if not separator:
        raise ConfigError(f"reward path {path!r}", "package.module:function", "write e.g. my_rewards:brevity")
    try:
        found = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise ConfigError(f"reward module {module!r} cannot be imported: {error}", "an importable module", "run where it lies") from error
    except AttributeError as error:
        raise ConfigError(f"module {module!r} has no {name!r}", "a function of that module") from error
    if not callable(found):
        raise ConfigError(f"{path} is {type(found).__name__}", "a function")
    return found  # type: ignore[no-any-return]


class FunctionSource:
    """A Python function as a source.

    When a batch raises, its responses are scored one by one, so that only the offending ones are marked.

    Args:
        source: path and name.

    Raises:
        ConfigError: the function cannot be loaded.
    """

    def __init__(self, source: FunctionReward) -> None:
        self._function, self._name = load_function(source.path), source.name

    def __call__(self, prompts: list[str], responses: list[str], metadata: list[dict[str, Any]]) -> Values:
        """One number per response; None where the function raised or gave no finite number.

        Raises:
            RewardError: every response raised, or the answer is not one number per response.
        """
        try:
            return self._checked(prompts, responses, metadata)
        except RewardError:
            raise
        except Exception as error:  # a user's function may raise anything
            first = error
        values: Values = []
        for row in zip(prompts, responses, metadata, strict=True):
            try:
                values += self._checked(*([item] for item in row))
            except RewardError:
                raise
            except Exception:  # noqa: BLE001 - marked and counted; the first text is told if all raise
                values.append(None)
        if all(value is None for value in values):
            raise RewardError(
                f"reward {self._name!r} raised on every response: {type(first).__name__}: {first}",
                "a number per response",
                "mend the function; try it alone on one prompt and response",
            ) from first
        return values

    def _checked(self, prompts: list[str], responses: list[str], metadata: list[dict[str, Any]]) -> Values:
        given = self._function(prompts, responses, metadata)
        try:
            values = list(given)
        except TypeError as error:
            raise RewardError(f"reward {self._name!r} returned {type(given).__name__}", "a list of numbers") from error
        if len(values) != len(responses):
            raise RewardError(f"reward {self._name!r} returned {len(values)} values", f"{len(responses)}, one per response")
        return [as_value(value, self._name) for value in values]


def as_value(value: Any, name: str) -> float | None:
    """A finite float; None for None, NaN and infinities.

    Raises:
        RewardError: not a number.
    """
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise RewardError(f"reward {name!r} returned {type(value).__name__} {value!r:.60}", "a number per response") from error
    return number if math.isfinite(number) else None


class Scorer:
    """Adds the columns of records.SCORED to rows of records.SAMPLED.

    Args:
        sources: of the run.
        config: what becomes of rewards.
        models: reward models by name, as callables; they live elsewhere.

    Raises:
        ConfigError: a function cannot be loaded.
    """

    def __init__(self, sources: Sequence[RewardSource], config: ScoringConfig, models: Mapping[str, Source]) -> None:
        self._sources, self._config = list(sources), config
        self._calls: dict[str, Source] = dict(models)
        for source in sources:
            if isinstance(source, FunctionReward):
                self._calls[source.name] = FunctionSource(source)
            elif isinstance(source, HttpReward):
                self._calls[source.name] = HttpClient(source)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Score every response of every row, all responses of the table in one call per source."""
        sizes = [len(row) for row in table["responses"].to_pylist()]
        responses = [text for row in table["responses"].to_pylist() for text in row]
        prompts = [text for text, size in zip(table["prompt"].to_pylist(), sizes, strict=True) for _ in range(size)]
        metadata = [
            item for text, size in zip(table["metadata"].to_pylist(), sizes, strict=True) for item in [json.loads(text)] * size
        ]
        values = {source.name: self._calls[source.name](prompts, responses, metadata) for source in self._sources}
        return judge(table, values, self._sources, self._config)


def judge(
    table: pa.Table, values: Mapping[str, Values], sources: Sequence[RewardSource], config: ScoringConfig
) -> pa.Table:
    """Weigh the sources' values and decide which responses are usable. Pure.

    Args:
        table: rows of records.SAMPLED.
        values: one number or None per response, by source, over all rows in order.
        sources: their weights and scales; those of weight 0 are recorded and change nothing.
        config: what becomes of truncated responses.
    """
    total, usable, reasons, named, start = [], [], [], [], 0
    for row in table.select(["response_token_ids", "finish_reasons"]).to_pylist():
        stop = start + len(row["finish_reasons"])
        mine = {name: column[start:stop] for name, column in values.items()}
        rewards = [weigh({name: column[k] for name, column in mine.items()}, sources) for k in range(stop - start)]
        if config.truncated == "penalty":
            rewards = [
                value - config.truncation_penalty if reason == "length" else value
                for value, reason in zip(rewards, row["finish_reasons"], strict=True)
            ]
        why = unusable_reasons(rewards, row["response_token_ids"], row["finish_reasons"], config)
        total.append(rewards)
        usable.append([not reason for reason in why])
        reasons.append(why)
        named.append([{"name": name, "values": [math.nan if v is None else v for v in column]} for name, column in mine.items()])
        start = stop
    types = pa.list_(pa.struct([("name", pa.string()), ("values", pa.list_(pa.float64()))]))
    added = {
        "reward_values": pa.array(named, types),
        "rewards": pa.array(total, pa.list_(pa.float64())),
        "usable": pa.array(usable, pa.list_(pa.bool_())),
        "unusable_reason": pa.array(reasons, pa.list_(pa.string())),
    }
    for name, column in added.items():
        table = table.append_column(name, column)
    return table


def weigh(values: Mapping[str, float | None], sources: Sequence[RewardSource]) -> float:
    """Sum of weight * value / scale over the sources that train; NaN when one of them has no value."""
    trained = [source for source in sources if source.weight]
    if any(values[source.name] is None for source in trained):
        return math.nan
    return sum(source.weight * (values[source.name] or 0.0) / source.scale for source in trained)


def unusable_reasons(
    rewards: Sequence[float], token_ids: Sequence[Sequence[int]], finish_reasons: Sequence[str], config: ScoringConfig
) -> list[str]:
    """Why each response must not train: "" if it may. Of equal responses, by ids, the first may."""
    reasons, seen = [], set()
    for reward, ids, finish in zip(rewards, token_ids, finish_reasons, strict=True):
        key = tuple(ids)
        if not ids:
            reasons.append("empty")
        elif not math.isfinite(reward):
            reasons.append("reward_failed")
        elif finish == "length" and config.truncated == "drop":
            reasons.append("truncated")
        elif key in seen:
            reasons.append("duplicate")
        else:
            reasons.append("")
            seen.add(key)
    return reasons


def trainability(rewards: Sequence[float], usable: Sequence[bool], min_spread: float) -> tuple[bool, str]:
    """Whether a set can train, and if not why: "too_few_usable" or "ties".

    Two usable responses are needed whose rewards span more than min_spread; max - min, never a comparison with the mean,
    whose rounding would make preferences of ties.
    """
    kept = [reward for reward, ok in zip(rewards, usable, strict=True) if ok]
    if len(kept) < 2:
        return False, "too_few_usable"
    if not max(kept) - min(kept) > min_spread:
        return False, "ties"
    return True, ""


def reward_spread(table: pa.Table, trainable: Sequence[bool]) -> float:
    """Root of the mean within-set variance of the usable rewards over the trainable sets: the unit of `run_std`."""
    variances = []
    for rewards, usable, trains in zip(table["rewards"].to_pylist(), table["usable"].to_pylist(), trainable, strict=True):
        if trains:
            variances.append(np.var([reward for reward, ok in zip(rewards, usable, strict=True) if ok]))
    return float(np.sqrt(np.mean(variances)))
