"""Several people's judgements of the same responses: read from files, and how far they agree, prompt by prompt."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, product
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from raypo.dispersion.mallows import fit
from raypo.errors import DataError
from raypo.evaluation.intervals import Interval
from raypo.evaluation.significance import Floats
from raypo.evaluation.statistics import correlation, resampled

CONFIDENCE, SAMPLES = 0.95, 400

T = TypeVar("T")


@dataclass(frozen=True)
class Judged:
    """Prompts with responses and people's scores.

    Args:
        prompts: texts.
        responses: per prompt.
        scores: per prompt [people, responses], higher is better.
        protocols: ways of asking; people are in so many equal runs, a protocol after the other.
        sources: per prompt who wrote each response; empty where the file does not say.
    """

    prompts: list[str]
    responses: list[list[str]]
    scores: list[Floats]
    protocols: int = 1
    sources: list[list[str]] = field(default_factory=list)

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

    Where prompts or responses have different numbers of people, as many as the fewest are taken of each, under each
    protocol: disagreement is of as many judgements of one kind at every prompt, among all people and in their halves.

    Raises:
        DataError: it cannot be read, lacks its columns, or has fewer than two people.
    """
    rows = rows_of(path)
    try:
        if kind == "pandalm":
            texts = [[str(row["response1"]), str(row["response2"])] for row in rows]  # one that says `True` is no text
            # 1: the first is better, 2: the second, 0: a tie
            scores = [np.array([[v == 1, v == 2] for v in row["annotators"]], dtype=np.float64) for row in rows]
            found = Judged([row["prompt"] for row in rows], texts, scores)
        else:
            found = _scored(rows, ("annotator_points",) if kind == "cobbler" else ("unbiased", "granular"))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: {type(error).__name__} {error}", f"a file of the kind {kind}") from error
    if not rows or found.people < 2:
        raise DataError(f"{path}: {len(rows)} prompts and {found.people if rows else 0} people", "both, two at least")
    return replace(found, scores=[one[: found.people] for one in found.scores])


def _scored(rows: list[dict[str, Any]], keys: tuple[str, ...]) -> Judged:
    """Rows whose responses have several people's scores under each key, a protocol."""
    texts = [[str(one["text"]) for one in row["responses"]] for row in rows]
    least = min((len(one[key]) for row in rows for one in row["responses"] for key in keys), default=0)
    scores = [
        np.concatenate([np.array([one[key][:least] for one in row["responses"]], dtype=np.float64).T for key in keys])
        for row in rows
    ]
    known = all("model" in one for row in rows for one in row["responses"])
    sources = [[str(one["model"]) for one in row["responses"]] for row in rows] if known else []
    return Judged([row["prompt"] for row in rows], texts, scores, len(keys), sources)


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


def spaced(found: Sequence[T], most: int) -> list[T]:
    """At most so many of them, evenly spaced."""
    return list(found) if len(found) <= most else [found[index * len(found) // most] for index in range(most)]


def halves(people: int, protocols: int = 1) -> list[tuple[list[int], list[int]]]:
    """Ways to cut people into two equal halves, each once, with as many of each protocol in both; at most ten.

    An odd last one of a protocol is left out. Empty with fewer than four people: disagreement needs two.
    """
    each = people // protocols
    even = each - each % 2
    if even * protocols < 4:
        return []
    runs = [range(each * at, each * at + even) for at in range(protocols)]
    found = []
    for way in product(*(combinations(run, even // 2) for run in runs)):
        first = [one for part in way for one in part]
        if first[0] == 0:  # the other half of a way that comes as well
            found.append((first, [one for run in runs for one in run if one not in first]))
    return spaced(found, 10)


def disagreements(judged: Judged, measure: Callable[[Floats], float], who: Sequence[int] | None = None) -> Floats:
    """Disagreement of each prompt, among all people or some."""
    return np.array([measure(one if who is None else one[list(who)]) for one in judged.scores], dtype=np.float64)


@dataclass(frozen=True)
class Reliability:
    """How far one half of the people tells what the other says of prompts.

    Args:
        half: rank correlation of the two halves' disagreements, mean over ways to cut.
        ceiling: correlation with all people's disagreement that a perfect index would have.
        ceiling_of_half: the same with one half's.
    """

    half: Interval
    ceiling: Interval
    ceiling_of_half: Interval


def ceiling(half: Interval, times: float) -> Interval:
    """What a perfect index reaches against people whose halves agree by `half`: sqrt(k h / (1 + (k - 1) h)).

    The root of a reliability at k times the precision (Spearman, British Journal of Psychology 3 (1910), 271; Brown,
    ibid., 296). The bounds are those of h by the same rule, which rises with h. 0 where h is not above 0.

    Args:
        half: h with its interval.
        times: k, precision of the disagreement that the index is held against over that within a half; see `gained`.
    """

    def root(h: float) -> float:
        positive = np.maximum(h, 0.0)  # NaN stays NaN
        return float(np.sqrt(times * positive / (1 + (times - 1) * positive)))

    return Interval(root(half.mean), root(half.low), root(half.high), half.n)


def gained(people: int, half: int) -> float:
    """Precision of disagreement among all people over that among those of one half: (people - 1) / (half - 1).

    Disagreement of m people rests on m - 1 differences (the variance of a sample variance is 2 sigma^4 / (m - 1)): all
    people differ between the halves as well, so that they tell more than twice what a half tells.
    """
    return (people - 1) / (half - 1)


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
        for first, second in halves(judged.people, judged.protocols)
    ]


def reliability(cuts: Sequence[Cut], people: int) -> Reliability:
    """Split-half reliability of the prompts' disagreement, with intervals over prompts.

    Args:
        cuts: of `cuts`, one at least.
        people: of whom the halves were made, those left out of them counted.
    """
    half = mean_correlation([cut.disagreement for cut in cuts])
    return Reliability(half, ceiling(half, gained(people, len(cuts[0].first))), ceiling(half, 1.0))


def mean_correlation(pairs: Sequence[tuple[Floats, Floats]]) -> Interval:
    """Mean over pairs of rank correlations over prompts, prompts resampled for all pairs together.

    A pair of which one is the same at all prompts has no correlation and is left out.
    """

    def figure(index: Any) -> float:
        found = [one for a, b in pairs if np.isfinite(one := correlation(a[index], b[index]))]
        return float(np.mean(found)) if found else float("nan")

    return resampled(figure, len(pairs[0][0]), confidence=CONFIDENCE, samples=SAMPLES)
