"""Several people's judgements of the same responses: read from files, and how far they agree, prompt by prompt."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from raypo.dispersion.mallows import fit
from raypo.errors import DataError
from raypo.evaluation.statistics import Floats, Interval, correlation, resampled

CONFIDENCE, SAMPLES = 0.95, 400


@dataclass(frozen=True)
class Judged:
    """Prompts with responses and people's scores.

    Args:
        prompts: texts.
        responses: per prompt.
        scores: per prompt [people, responses], higher is better.
    """

    prompts: list[str]
    responses: list[list[str]]
    scores: list[Floats]

    @property
    def people(self) -> int:
        """Of the prompt that has fewest."""
        return min(len(one) for one in self.scores)


def rows_of(path: str) -> list[dict[str, Any]]:
    """Rows of a JSONL file, also compressed.

    Raises:
        DataError: it cannot be read.
    """
    place = Path(path)
    try:
        data = gzip.decompress(place.read_bytes()) if place.suffix == ".gz" else place.read_bytes()
        return [json.loads(line) for line in data.decode("utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}", "a JSONL file, plain or .gz") from error


def judged(path: str, kind: str) -> Judged:
    """A file of a kind: `cobbler` (annotator_points), `gold` (unbiased and granular scores), `pandalm` (pairs).

    Where responses of one prompt have different numbers of people, as many as the fewest are taken of each.

    Raises:
        DataError: it cannot be read, or lacks its columns.
    """
    rows = rows_of(path)
    try:
        if kind == "pandalm":
            texts = [[str(row["response1"]), str(row["response2"])] for row in rows]  # one that says `True` is no text
            # 1: the first is better, 2: the second, 0: a tie
            scores = [np.array([[v == 1, v == 2] for v in row["annotators"]], dtype=np.float64) for row in rows]
        else:
            keys = ("annotator_points",) if kind == "cobbler" else ("unbiased", "granular")
            texts = [[str(one["text"]) for one in row["responses"]] for row in rows]
            scores = [np.concatenate([_people(row["responses"], key) for key in keys]) for row in rows]
        return Judged([row["prompt"] for row in rows], texts, scores)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: {type(error).__name__} {error}", f"a file of the kind {kind}") from error


def _people(responses: list[dict[str, Any]], key: str) -> Floats:
    """Scores [people, responses]; where some responses have more people than others, the first of them."""
    least = min(len(one[key]) for one in responses)
    return np.array([one[key][:least] for one in responses], dtype=np.float64).T


def by_mallows(distance: str) -> Callable[[Floats], float]:
    """Disagreement of rankings: phi by maximum likelihood."""

    def disagreement(scores: Floats) -> float:
        ranks = torch.from_numpy((-scores).argsort(-1, kind="stable").argsort(-1))
        return fit(ranks, distance).phi

    return disagreement


def by_variance(scores: Floats) -> float:
    """Disagreement of scores: variance between people less their own level, mean over responses."""
    level = scores - scores.mean(-1, keepdims=True)
    return float(level.var(0, ddof=1).mean())


def by_pairs(scores: Floats) -> float:
    """Disagreement on pairs: share of two people who do not say the same."""
    verdicts = np.sign(scores[:, 0] - scores[:, 1])
    return float(np.mean([a != b for a, b in combinations(verdicts, 2)]))


def halves(people: int) -> list[tuple[list[int], list[int]]]:
    """Every way to cut people into two equal halves, each once; an odd last one is left out. At most ten ways."""
    even = people - people % 2
    found = []
    for rest in combinations(range(1, even), even // 2 - 1):
        first = [0, *rest]
        found.append((first, [one for one in range(even) if one not in first]))
    return found[:: max(1, len(found) // 10)][:10]


def disagreements(judged: Judged, measure: Callable[[Floats], float], who: Sequence[int] | None = None) -> Floats:
    """Disagreement of each prompt, among all people or some."""
    return np.array([measure(one if who is None else one[list(who)]) for one in judged.scores], dtype=np.float64)


@dataclass(frozen=True)
class Reliability:
    """How far one half of the people tells what the other says of prompts.

    Args:
        half: rank correlation of the two halves' disagreements, mean over ways to cut.
        ceiling: correlation with all people's disagreement that a perfect index would have, sqrt(2 half / (1 + half))
            by Spearman and Brown; 0 where half is not above 0.
    """

    half: Interval
    ceiling: float


@dataclass(frozen=True)
class Cut:
    """People in two halves.

    Args:
        first: people of one half.
        second: of the other.
        disagreement: of each prompt, within the first half and within the second.
    """

    first: list[int]
    second: list[int]
    disagreement: tuple[Floats, Floats]


def cuts(judged: Judged, measure: Callable[[Floats], float]) -> list[Cut]:
    """Disagreement within the halves of every cut."""
    return [
        Cut(first, second, (disagreements(judged, measure, first), disagreements(judged, measure, second)))
        for first, second in halves(judged.people)
    ]


def reliability(cuts: Sequence[Cut]) -> Reliability:
    """Split-half reliability of the prompts' disagreement, with an interval over prompts."""
    found = mean_correlation([cut.disagreement for cut in cuts])
    positive = max(found.mean, 0.0)
    return Reliability(found, float(np.sqrt(2 * positive / (1 + positive))))


def mean_correlation(pairs: Sequence[tuple[Floats, Floats]]) -> Interval:
    """Mean over pairs of rank correlations over prompts, prompts resampled for all pairs together."""

    def figure(index: Any) -> float:
        return float(np.mean([correlation(a[index], b[index]) for a, b in pairs]))

    return resampled(figure, len(pairs[0][0]), confidence=CONFIDENCE, samples=SAMPLES)


def order_kept(judged: Judged) -> Floats:
    """Rank correlation of each person's scores with the order of the responses in the file, mean over prompts.

    1: the first was the best to this person at every prompt. Far from 0, where the file has the order of display, that
    order was kept and not a taste.
    """
    people = judged.people
    each = [
        [correlation(-one[who], np.arange(one.shape[1], dtype=np.float64)) for who in range(people)]
        for one in judged.scores
    ]
    return np.asarray(np.nanmean(np.array(each, dtype=np.float64), axis=0), dtype=np.float64)


def order_repeated(judged: Judged) -> Floats:
    """Rank correlation of each person's scores of two prompts, mean over all pairs of prompts, [people].

    An order of display that is the same for all prompts and that the file does not tell is seen here, together with
    what makes one source of responses really better than another: a person far above the others ranked by rote.
    NaN where prompts have different numbers of responses.
    """
    people = judged.people
    if len({one.shape[1] for one in judged.scores}) > 1 or len(judged.scores) < 2:
        return np.full(people, np.nan)
    ranks = np.stack([stats.rankdata(one[:people], axis=1) for one in judged.scores], axis=1)  # [people, prompts, K]
    found = []
    for mine in ranks:
        between = np.corrcoef(mine)[np.triu_indices(len(mine), 1)]
        found.append(float(np.mean(between[np.isfinite(between)])) if np.isfinite(between).any() else np.nan)
    return np.array(found)
