"""What an evaluation says of one weight version: every number with its interval, and warnings in plain words.

Pure functions of tables: no network, no tokenizer, no Ray.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from raypo.config import HYPERPARAMETER_DEFAULTS, RunConfig
from raypo.evaluation.intervals import AMOUNT, SHARE, Interval
from raypo.evaluation.length import Duel, LengthControlled, length_controlled
from raypo.evaluation.likelihood import likelihoods
from raypo.evaluation.responses import best_of, distinct_2, distinct_within, self_similarity, tied_pairs
from raypo.evaluation.significance import Floats, detectable, paired_test
from raypo.evaluation.statistics import correlation_interval, mean_interval, prompt_means, ratio_interval
from raypo.evaluation.winrate import win_shares
from raypo.objective import presets

HACKED_CORRELATION = 0.5
COLLAPSED = 0.7
SATURATED_SHARE = 0.5
REFITS = 200
"""Most resamples of what is fitted anew on each: the length-controlled regression and rank correlations."""


@dataclass(frozen=True)
class Evaluation:
    """Held-out figures of one weight version. Intervals are over prompts; gains are paired by prompt.

    Tested is what there is a value to be tested against: the gain against 0, win rates against 1/2. The reward itself
    has any unit; a KL is 0 for the start alone, whatever the sample; and no length, entropy or variety is the right
    one: they describe, and their intervals tell how well.

    Args:
        reward: training reward.
        reward_gain: its difference from the initial policy, per prompt.
        reward_gain_p: p-value that the gain is 0, paired by prompt.
        reward_gain_detectable: smallest true gain that the paired test would have found four times in five.
        reward_by_source: each source's own values, unweighted.
        reward_win_rate: share of pairs that beat the initial policy's response by the training reward, ties half.
        reward_win_rate_p: p-value that it is one half, paired by prompt.
        reward_win_rate_detectable: smallest true distance from one half that would have been found four times in five.
        reward_win_rate_controlled: the same if responses were as long as the initial policy's (`length`).
        reward_win_rate_controlled_p: p-value that it is one half.
        reward_win_rate_controlled_detectable: as of reward_win_rate.
        kl_per_response: exact per-token KL to the initial policy, summed over a response, nats.
        entropy_per_token: of the policy, nats.
        engine_gap: mean absolute difference of engine and trainer log-prob per token, nats; no interval: it compares
            two programs on these very tokens, and is no estimate for other prompts.
        length: response tokens.
        truncated: share of responses that met the limit, mean over prompts.
        distinct_2: distinct token pairs over all token pairs of all responses; no interval: a resample repeats prompts.
        distinct_within: by n: distinct runs of n tokens over all of them, within a prompt.
        self_similarity: mean cosine of token-pair counts of two responses to one prompt; 1: all the same.
        tie_rate: share of pairs within a prompt with equal reward.
        length_correlation: Spearman correlation of reward and length over responses.
        best_of_n: by n: expected best reward of n responses.
        chosen_shift: log-ratio to the initial policy of its best response to each prompt, nats; None for version 0.
        rejected_shift: the same of its worst response.
        saturated: share of prompts whose margin between the two leaves the loss less than 2 % of its gradient.
        warnings: in plain words.
    """

    reward: Interval
    reward_gain: Interval
    reward_gain_p: float
    reward_gain_detectable: float
    reward_by_source: dict[str, Interval]
    reward_win_rate: Interval
    reward_win_rate_p: float
    reward_win_rate_detectable: float
    reward_win_rate_controlled: Interval
    reward_win_rate_controlled_p: float
    reward_win_rate_controlled_detectable: float
    kl_per_response: Interval
    entropy_per_token: Interval
    engine_gap: float
    length: Interval
    truncated: Interval
    distinct_2: float
    distinct_within: dict[str, Interval]
    self_similarity: Interval
    tie_rate: Interval
    length_correlation: Interval
    best_of_n: dict[str, Interval]
    chosen_shift: Interval | None = None
    rejected_shift: Interval | None = None
    saturated: Interval | None = None
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def evaluate(
    rows: pa.Table, initial: pa.Table, measured: pa.Table, config: RunConfig, moved: pa.Table | None = None
) -> Evaluation:
    """Compare a version's held-out rows with the initial policy's.

    Args:
        rows: records.SCORED, sorted by prompt id.
        initial: the same prompts' rows of version 0.
        measured: per row and response kl, policy_logps, policy_entropies (sums, nats), sorted by prompt id.
        config: confidence and resamples.
        moved: per row and response of `initial`, policy_logps and reference_logps (sums, nats): the initial policy's
            responses under the version and under the initial policy. None: not measured.
    """
    settings = config.evaluation

    whole: dict[str, Any] = {"confidence": settings.confidence, "samples": settings.bootstrap_samples}
    interval: Callable[..., Interval] = partial(mean_interval, **whole)
    share, amount = partial(interval, within=SHARE), partial(interval, within=AMOUNT)
    options: dict[str, Any] = {"confidence": settings.confidence, "samples": min(settings.bootstrap_samples, REFITS)}
    rewards, before = rows["rewards"].to_pylist(), initial["rewards"].to_pylist()
    gain = prompt_means(rewards) - prompt_means(before)
    ids = rows["response_token_ids"].to_pylist()
    lengths = [[float(len(one)) for one in row] for row in ids]
    per_prompt = np.array([sum(row) for row in lengths])
    entropies = np.array([sum(row) for row in measured["policy_entropies"].to_pylist()], dtype=np.float64)
    cut = [[float(reason == "length") for reason in row] for row in rows["finish_reasons"].to_pylist()]
    won = win_shares(rewards, before)
    fair = controlled_win_rate(rows, initial, options)
    found = Evaluation(
        reward=interval(prompt_means(rewards)),
        reward_gain=interval(gain),
        reward_gain_p=paired_test(gain),
        reward_gain_detectable=detectable(gain, confidence=settings.confidence),
        reward_by_source={name: interval(prompt_means(values)) for name, values in by_source(rows).items()},
        reward_win_rate=share(won),
        reward_win_rate_p=paired_test(won - 0.5),
        reward_win_rate_detectable=detectable(won - 0.5, confidence=settings.confidence),
        reward_win_rate_controlled=fair.controlled,
        reward_win_rate_controlled_p=fair.p,
        reward_win_rate_controlled_detectable=fair.detectable,
        kl_per_response=amount(prompt_means(measured["kl"].to_pylist())),
        entropy_per_token=ratio_interval(entropies, per_prompt, **whole, within=AMOUNT),
        engine_gap=engine_gap(
            rows["engine_logps"].to_pylist(), measured["policy_logps"].to_pylist(), float(per_prompt.sum())
        ),
        length=amount(prompt_means(lengths)),
        truncated=share(prompt_means(cut)),
        distinct_2=distinct_2(ids),
        distinct_within={str(n): share(distinct_within(ids, n)) for n in (1, 2, 3)},
        self_similarity=share(self_similarity(ids)),
        tie_rate=share(tied_pairs(rewards)),
        length_correlation=correlation_interval(by_prompt(rewards), by_prompt(lengths), **options),
        best_of_n={str(n): interval(best_of(rewards, n)) for n in doublings(settings.num_responses)},
    )
    if moved is not None:
        found = replace(found, **where_probability_went(before, moved, config, interval))
    found.warnings.extend(warnings_for(found, distinct_2(initial["response_token_ids"].to_pylist()), config))
    return found


def doublings(most: int) -> list[int]:
    """1, 2, 4, ... and the last of them `most` itself."""
    return sorted({2**power for power in range(most.bit_length()) if 2**power <= most} | {most})


def controlled_win_rate(rows: pa.Table, initial: pa.Table, options: dict[str, Any]) -> LengthControlled:
    """Length-controlled win rate by the training reward, each response against the one drawn with the same seed."""
    duel = reward_duel(rows, initial)
    return length_controlled({"policy": duel}, rows.num_rows, **options)["policy"]


def reward_duel(rows: pa.Table, other: pa.Table) -> Duel:
    """Responses of two policies with the same place in the same row, judged by the training reward; lengths in tokens.

    Args:
        rows: records.SCORED, sorted by prompt id.
        other: the other policy's, for the same prompts.
    """
    prompt, preference, longer = [], [], []
    columns = ("rewards", "response_token_ids")
    mine, theirs = ([table[name].to_pylist() for name in columns] for table in (rows, other))
    for number, (ours, ids, others, other_ids) in enumerate(zip(*mine, *theirs, strict=True)):
        for a, one, b, two in zip(ours, ids, others, other_ids, strict=False):
            known = a is not None and b is not None and math.isfinite(a) and math.isfinite(b)
            prompt.append(number)
            preference.append((a > b) + 0.5 * (a == b) if known else math.nan)
            longer.append(float(len(one) - len(two)))
    return Duel(np.array(prompt, dtype=np.int64), np.array(preference, dtype=np.float64), np.array(longer))


def where_probability_went(
    rewards: list[list[float | None]], moved: pa.Table, config: RunConfig, interval: Any
) -> dict[str, Any]:
    """The fields of an evaluation that tell of the initial policy's own responses."""
    usual = HYPERPARAMETER_DEFAULTS | dict(presets.row(config.objective.preset).defaults)
    beta = config.objective.hyperparameters.get("beta", usual["beta"])
    found = likelihoods(
        rewards, moved["policy_logps"].to_pylist(), moved["reference_logps"].to_pylist(), beta=float(beta)
    )
    return {
        "chosen_shift": interval(found.chosen),
        "rejected_shift": interval(found.rejected),
        "saturated": interval(found.saturated, within=SHARE),
    }


def by_prompt(rows: Sequence[Sequence[float | None]]) -> list[Floats]:
    """One array per prompt; None becomes NaN."""
    return [flat([row]) for row in rows]


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


def warnings_for(found: Evaluation, initial_distinct_2: float, config: RunConfig) -> list[str]:
    """What a reader should know before trusting the reward."""
    told = []
    if found.length_correlation.mean > HACKED_CORRELATION:
        told.append(
            f"reward follows length (rank correlation {found.length_correlation.mean:.2f}): a higher reward may only "
            "mean longer responses"
        )
    won, fair = found.reward_win_rate, found.reward_win_rate_controlled
    if won.low > 0.5 and fair.low <= 0.5:
        told.append(
            f"the win rate of {won.mean:.2f} may be won by length: at equal length it is {fair.mean:.2f} "
            f"[{fair.low:.2f}, {fair.high:.2f}]"
        )
    if found.distinct_2 < COLLAPSED * initial_distinct_2:
        told.append(
            f"responses became alike: distinct-2 fell from {initial_distinct_2:.3f} to {found.distinct_2:.3f}; "
            "the policy may be collapsing"
        )
    if found.chosen_shift is not None and found.chosen_shift.high < 0:
        told.append(
            f"likelihood displacement: the start's best responses became less likely, by "
            f"{-found.chosen_shift.mean:.2f} nats each; the policy moves to something else than what was preferred"
        )
    if found.saturated is not None and found.saturated.mean > SATURATED_SHARE:
        told.append(
            f"margins are saturated: {found.saturated.mean:.0%} of held-out pairs are so far apart that they teach "
            "next to nothing; a smaller beta, or another round, would"
        )
    bound = config.online.kl_bound
    if bound is not None and found.kl_per_response.mean > bound:
        told.append(f"KL {found.kl_per_response.mean:.2f} nats per response is above the bound of {bound:g}")
    if found.truncated.mean > 0.5:
        told.append(f"{found.truncated.mean:.0%} of responses met the length limit: the reward judges unfinished text")
    return told
