"""What can be said of rewards and sets before anything is trained on them: ties, skew, agreement, calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import stats
from scipy.special import expit

from raypo.config import RunConfig
from raypo.evaluation.diagnostics import REFITS, by_source
from raypo.evaluation.intervals import SHARE, Interval
from raypo.evaluation.length import logistic
from raypo.evaluation.responses import tied_pairs
from raypo.evaluation.significance import Floats
from raypo.evaluation.statistics import mean_interval, resampled

Values = Sequence[Sequence[float | None]]
"""Rewards of one source: per prompt, per response."""

BINS = 10
HISTOGRAM_BINS = 20


@dataclass(frozen=True)
class Inputs:
    """Figures of a set of rewards. Intervals are over prompts.

    Args:
        tie_rate: by source: share of pairs within a prompt that have the same reward.
        no_preference: by source: share of prompts whose rewards are all equal.
        skew: by source: skewness of rewards less their prompt's mean; far from 0, a few responses decide.
        agreement: by pair of sources, `a ~ b`: Kendall's tau-b within a prompt.
        dispersion_histogram: prompts per bin of the dispersion index, equal bins over [0, 1].
    """

    tie_rate: dict[str, Interval]
    no_preference: dict[str, Interval]
    skew: dict[str, Interval]
    agreement: dict[str, Interval]
    dispersion_histogram: list[int]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def describe(
    rewards: Mapping[str, Values], dispersion: Sequence[float] = (), *, confidence: float, samples: int
) -> Inputs:
    """Figures of given rewards.

    Args:
        rewards: by source, for the same prompts and responses.
        dispersion: index of each prompt, in [0, 1].
        confidence: coverage, in (0, 1).
        samples: bootstrap resamples.
    """

    def interval(values: Floats, within: tuple[float, float] = SHARE) -> Interval:
        return mean_interval(values, confidence=confidence, samples=samples, within=within)

    return Inputs(
        tie_rate={name: interval(tied_pairs(values)) for name, values in rewards.items()},
        no_preference={
            name: interval(np.where(np.isnan(tied := tied_pairs(values)), math.nan, tied == 1))
            for name, values in rewards.items()
        },
        skew={name: skew(values, confidence=confidence, samples=samples) for name, values in rewards.items()},
        agreement={
            f"{a} ~ {b}": interval(agreement(rewards[a], rewards[b]), (-1.0, 1.0))
            for a, b in combinations(sorted(rewards), 2)
        },
        dispersion_histogram=np.histogram(list(dispersion), bins=HISTOGRAM_BINS, range=(0.0, 1.0))[0].tolist(),
    )


def describe_table(annotated: pa.Table, config: RunConfig) -> Inputs:
    """Figures of the rewards of an annotated table, by source.

    Args:
        annotated: records.ANNOTATED.
        config: confidence and resamples.
    """
    settings = config.evaluation
    return describe(
        by_source(annotated),
        annotated["dispersion"].to_pylist(),
        confidence=settings.confidence,
        samples=min(settings.bootstrap_samples, REFITS),
    )


def deviations(values: Values) -> list[Floats]:
    """Per prompt: known rewards less their mean."""
    found = []
    for row in values:
        known = np.array([v for v in row if v is not None and math.isfinite(v)], dtype=np.float64)
        found.append(known - known.mean() if len(known) else known)
    return found


def skew(values: Values, *, confidence: float, samples: int) -> Interval:
    """Skewness of rewards within prompts, all prompts together; NaN where rewards do not differ."""
    parts = [part for part in deviations(values) if len(part)]

    def figure(index: Any) -> float:
        whole = np.concatenate([parts[i] for i in index]) if len(index) else np.empty(0)
        return float(stats.skew(whole)) if len(whole) > 2 and np.ptp(whole) > 0 else math.nan

    return resampled(figure, len(parts), confidence=confidence, samples=samples)


def agreement(one: Values, other: Values) -> Floats:
    """Per prompt: Kendall's tau-b of two sources, in [-1, 1]; NaN where either tells no responses apart."""
    found = []
    for a, b in zip(one, other, strict=True):
        pairs = np.array([[math.nan if v is None else v for v in row] for row in (a, b)], dtype=np.float64)
        pairs = pairs[:, np.isfinite(pairs).all(0)]
        apart = pairs.shape[1] > 1 and (np.ptp(pairs, axis=1) > 0).all()
        found.append(float(stats.kendalltau(*pairs).statistic) if apart else math.nan)
    return np.array(found, dtype=np.float64)


@dataclass(frozen=True)
class Calibration:
    """How far a difference of rewards can be read as log-odds that a judge prefers the response.

    Args:
        slope: logits per unit of reward difference; 1: it is log-odds, below 1: the reward is too sure.
        error: expected calibration error of expit(difference), over equal bins, in [0, 1].
        brier: mean squared difference of expit(difference) and verdict.
        pairs: comparisons used.
    """

    slope: float
    error: float
    brier: float
    pairs: int


def calibration(difference: Floats, verdict: Floats) -> Calibration:
    """Calibration of reward differences against verdicts on the same pairs.

    Args:
        difference: reward of a response less that of another, [N].
        verdict: 1 when the response was preferred, 0 when the other was, 1/2 for a tie, [N]. NaN is left out.
    """
    kept = np.isfinite(difference) & np.isfinite(verdict)
    difference, verdict = difference[kept], verdict[kept]
    if not len(difference) or not np.any(difference):
        return Calibration(math.nan, math.nan, math.nan, len(difference))
    scale = 10.0 / float(difference.std() or 1.0)  # a weak prior: 10 logits per standard deviation
    slope = float(logistic(scale * difference[:, None], verdict, np.ones(len(verdict)))[0]) * scale
    told = expit(difference)
    place = np.minimum((told * BINS).astype(int), BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    gaps = np.bincount(place, weights=told - verdict, minlength=BINS)
    return Calibration(
        slope,
        float(np.abs(gaps).sum() / counts.sum()),
        float(((told - verdict) ** 2).mean()),
        len(verdict),
    )


@dataclass(frozen=True)
class Audit:
    """A reward beside known preferences, on pairs of responses to one prompt of which the better one is known.

    Args:
        right: share of pairs that the reward orders as they are known, its ties a half, a set's pairs averaged first;
            interval over sets.
        slope: `calibration.slope` with its interval, from resampled sets.
        calibration: of its differences, each pair in both orders: which response stands first says nothing.
        difference: reward of the first response less that of the second, [pairs].
        verdict: 1 where the first is known to be better, else 0, [pairs].
    """

    right: Interval
    slope: Interval
    calibration: Calibration
    difference: Floats
    verdict: Floats

    @property
    def pairs(self) -> int:
        """Pairs compared."""
        return len(self.difference)


def audited(values: Values, known: Values, *, confidence: float, samples: int) -> Audit:
    """Compare a reward with known preferences.

    Args:
        values: the reward, per set and response; None where there is none.
        known: the greater is the better, for the same responses, e.g. labels, ranks or shares of votes. Pairs that are
            equal here are left out: of two chosen responses nobody said that they are as good as each other.
        confidence: coverage, in (0, 1).
        samples: bootstrap resamples.
    """
    gaps, truths = [], []
    for mine, theirs in zip(values, known, strict=True):
        a, b = (np.array([math.nan if v is None else v for v in row], dtype=np.float64) for row in (mine, theirs))
        first, second = np.triu_indices(len(a), 1)
        gaps.append(a[first] - a[second])
        truths.append(b[first] - b[second])
    return audited_pairs(gaps, truths, confidence=confidence, samples=samples)


def audited_pairs(gaps: Sequence[Floats], truths: Sequence[Floats], *, confidence: float, samples: int) -> Audit:
    """Compare a reward with known preferences, given as pairs.

    Args:
        gaps: per set: reward of the first response of each pair less that of the second; NaN where one has none.
        truths: of the same pairs: above 0 where the first is known to be better, below 0 the second. Pairs with 0 or
            NaN are left out.
        confidence: coverage, in (0, 1).
        samples: bootstrap resamples; of the slope at most REFITS.
    """
    kept = [np.isfinite(gap) & np.isfinite(truth) & (truth != 0) for gap, truth in zip(gaps, truths, strict=True)]
    differences = [gap[known] for gap, known in zip(gaps, kept, strict=True)]
    signs = [np.sign(truth[known]) for truth, known in zip(truths, kept, strict=True)]
    shares = [
        float(np.mean((np.sign(gap) * sign + 1) / 2)) if len(gap) else math.nan
        for gap, sign in zip(differences, signs, strict=True)
    ]
    somewhere = [place for place, gap in enumerate(differences) if len(gap)]

    def both_orders(index: Any) -> Calibration:
        gap, sign = (np.concatenate([part[i] for i in index] or [np.empty(0)]) for part in (differences, signs))
        return calibration(np.concatenate([gap, -gap]), np.concatenate([(1 + sign) / 2, (1 - sign) / 2]))

    def slope(index: Any) -> float:
        return both_orders([somewhere[i] for i in index]).slope

    difference, sign = (np.concatenate(parts or [np.empty(0)]) for parts in (differences, signs))
    return Audit(
        mean_interval(np.array(shares, dtype=np.float64), confidence=confidence, samples=samples, within=SHARE),
        resampled(slope, len(somewhere), confidence=confidence, samples=min(samples, REFITS)),
        replace(both_orders(somewhere), pairs=len(difference)),
        difference,
        (sign + 1) / 2,
    )
