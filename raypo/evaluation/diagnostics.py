"""What an evaluation says of one weight version: every number with its interval, and warnings in plain words.

Pure functions of tables: no network, no tokenizer, no Ray.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from raypo.config import RunConfig
from raypo.evaluation.statistics import Floats, Interval, correlation, mean_interval, paired_test, prompt_means
from raypo.evaluation.winrate import win_shares

HACKED_CORRELATION = 0.5
COLLAPSED = 0.7


@dataclass(frozen=True)
class Evaluation:
    """Held-out figures of one weight version. Intervals are over prompts; gains are paired by prompt.

    Args:
        reward: training reward.
        reward_gain: its difference from the initial policy, per prompt.
        reward_gain_p: p-value that the gain is 0, paired by prompt.
        reward_by_source: each source's own values, unweighted.
        reward_win_rate: share of pairs that beat the initial policy's response by the training reward, ties half.
        kl_per_response: exact per-token KL to the initial policy, summed over a response, nats.
        entropy_per_token: of the policy, nats.
        engine_gap: mean absolute difference of engine and trainer log-prob per token, nats.
        length: response tokens.
        truncated: share of responses that met the limit.
        distinct_2: distinct token pairs over all token pairs of all responses.
        length_correlation: Spearman correlation of reward and length over responses.
        warnings: in plain words.
    """

    reward: Interval
    reward_gain: Interval
    reward_gain_p: float
    reward_by_source: dict[str, Interval]
    reward_win_rate: Interval
    kl_per_response: Interval
    entropy_per_token: float
    engine_gap: float
    length: Interval
    truncated: float
    distinct_2: float
    length_correlation: float
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        plain: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, Interval):
                plain[name] = value.to_dict()
            elif isinstance(value, dict):
                plain[name] = {key: one.to_dict() for key, one in value.items()}
            else:
                plain[name] = value
        return plain


def evaluate(rows: pa.Table, initial: pa.Table, measured: pa.Table, config: RunConfig) -> Evaluation:
    """Compare a version's held-out rows with the initial policy's.

    Args:
        rows: records.SCORED, sorted by prompt id.
        initial: the same prompts' rows of version 0.
        measured: per row and response kl, policy_logps, policy_entropies (sums, nats), sorted by prompt id.
        config: confidence and resamples.
    """
    settings = config.evaluation

    def interval(values: Floats) -> Interval:
        return mean_interval(values, confidence=settings.confidence, samples=settings.bootstrap_samples)

    rewards, before = rows["rewards"].to_pylist(), initial["rewards"].to_pylist()
    gain = prompt_means(rewards) - prompt_means(before)
    ids = rows["response_token_ids"].to_pylist()
    lengths = [[float(len(one)) for one in row] for row in ids]
    tokens = sum(sum(row) for row in lengths)
    finished = [reason for row in rows["finish_reasons"].to_pylist() for reason in row]
    found = Evaluation(
        reward=interval(prompt_means(rewards)),
        reward_gain=interval(gain),
        reward_gain_p=paired_test(gain),
        reward_by_source={name: interval(prompt_means(values)) for name, values in by_source(rows).items()},
        reward_win_rate=interval(win_shares(rewards, before)),
        kl_per_response=interval(prompt_means(measured["kl"].to_pylist())),
        entropy_per_token=sum(map(sum, measured["policy_entropies"].to_pylist())) / max(tokens, 1),
        engine_gap=engine_gap(rows["engine_logps"].to_pylist(), measured["policy_logps"].to_pylist(), tokens),
        length=interval(prompt_means(lengths)),
        truncated=finished.count("length") / max(len(finished), 1),
        distinct_2=distinct_2(ids),
        length_correlation=correlation(flat(rewards), flat(lengths)),
    )
    found.warnings.extend(warnings_for(found, distinct_2(initial["response_token_ids"].to_pylist()), config))
    return found


def by_source(rows: pa.Table) -> dict[str, list[list[float]]]:
    """Values of each reward source by name: per prompt, per response."""
    found: dict[str, list[list[float]]] = {}
    for row in rows["reward_values"].to_pylist():
        for source in row:
            found.setdefault(source["name"], []).append(source["values"])
    return found


def flat(rows: Sequence[Sequence[float | None]]) -> Floats:
    """All values in one array; None becomes NaN."""
    return np.array([math.nan if v is None else v for row in rows for v in row], dtype=np.float64)


def engine_gap(engine: list[list[float | None]], trainer: list[list[float]], tokens: float) -> float:
    """Mean over responses of |engine log-prob - trainer log-prob|, divided by the mean length: nats per token."""
    gaps = np.abs(flat(engine) - flat(trainer))
    kept = gaps[np.isfinite(gaps)]
    return float(kept.sum() / max(tokens, 1)) if len(kept) else math.nan


def distinct_2(rows: Sequence[Sequence[Sequence[int]]]) -> float:
    """Distinct token pairs over all token pairs; it falls when responses become alike. NaN without a pair."""
    pairs = [pair for row in rows for ids in row for pair in pairwise(ids)]
    return len(set(pairs)) / len(pairs) if pairs else math.nan


def warnings_for(found: Evaluation, initial_distinct_2: float, config: RunConfig) -> list[str]:
    """What a reader should know before trusting the reward."""
    told = []
    if found.length_correlation > HACKED_CORRELATION:
        told.append(
            f"reward follows length (rank correlation {found.length_correlation:.2f}): a higher reward may only mean "
            "longer responses"
        )
    if found.distinct_2 < COLLAPSED * initial_distinct_2:
        told.append(
            f"responses became alike: distinct-2 fell from {initial_distinct_2:.3f} to {found.distinct_2:.3f}; "
            "the policy may be collapsing"
        )
    bound = config.online.kl_bound
    if bound is not None and found.kl_per_response.mean > bound:
        told.append(f"KL {found.kl_per_response.mean:.2f} nats per response is above the bound of {bound:g}")
    if found.truncated > 0.5:
        told.append(f"{found.truncated:.0%} of responses met the length limit: the reward judges unfinished text")
    return told
