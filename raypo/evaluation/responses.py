"""How varied responses are, from their token ids: distinct n-grams, likeness within a prompt, and the best of n."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import combinations, pairwise

import numpy as np
from scipy.special import gammaln

from raypo.evaluation.significance import Floats

Rows = Sequence[Sequence[Sequence[int]]]
"""Token ids: per prompt, per response."""


def n_grams(ids: Sequence[int], n: int) -> list[tuple[int, ...]]:
    """The runs of n tokens of a response, in order; none when it is shorter."""
    return list(zip(*(ids[start:] for start in range(n)), strict=False))


def distinct_2(rows: Rows) -> float:
    """Distinct token pairs over all token pairs of all responses; it falls when they become alike. NaN without a pair.

    distinct-2 of arXiv 1510.03055, over the whole sample: it also falls with the sample's size.
    """
    pairs = [pair for row in rows for ids in row for pair in pairwise(ids)]
    return len(set(pairs)) / len(pairs) if pairs else math.nan


def distinct_within(rows: Rows, n: int) -> Floats:
    """Per prompt: distinct runs of n tokens over all of them in its responses, in (0, 1]; NaN without one."""
    found = []
    for row in rows:
        grams = [gram for ids in row for gram in n_grams(ids, n)]
        found.append(len(set(grams)) / len(grams) if grams else math.nan)
    return np.array(found, dtype=np.float64)


def self_similarity(rows: Rows) -> Floats:
    """Per prompt: mean cosine of the token-pair counts over all pairs of its responses, in [0, 1]; 1: all the same.

    NaN for fewer than two responses with a token pair.
    """
    found = []
    for row in rows:
        counts = [Counter(pairwise(ids)) for ids in row if len(ids) > 1]
        squares = [sum(value**2 for value in one.values()) for one in counts]
        cosines = [  # one root of whole numbers: two roots would make identical responses more than 1 alike
            sum(counts[a][gram] * counts[b][gram] for gram in counts[a]) / math.sqrt(squares[a] * squares[b])
            for a, b in combinations(range(len(counts)), 2)
        ]
        found.append(float(np.mean(cosines)) if cosines else math.nan)
    return np.array(found, dtype=np.float64)


def best_of(rewards: Sequence[Sequence[float | None]], n: int) -> Floats:
    """Per prompt: expected best reward of n responses, without bias, from its K rewards.

    The mean of the maximum over all subsets of n: with r_(1) <= ... <= r_(K) it is the sum over i of
    C(i - 1, n - 1) / C(K, n) r_(i) (arXiv 2107.03374 equation 1, for a maximum instead of a success).

    Args:
        rewards: per prompt and response; those that are not finite are left out.
        n: responses to choose from.

    Returns:
        NaN for a prompt with fewer than n rewards.
    """
    found = []
    for row in rewards:
        ordered = np.sort([value for value in row if value is not None and math.isfinite(value)])
        count = len(ordered)
        if count < n:
            found.append(math.nan)
            continue
        place = np.arange(n, count + 1, dtype=np.float64)  # i below n is the best of no subset
        logs = gammaln(place) - gammaln(place - n + 1) - gammaln(n) - binomial_log(count, n)
        found.append(float(np.exp(logs) @ ordered[n - 1 :]))
    return np.array(found, dtype=np.float64)


def binomial_log(count: int, n: int) -> float:
    """Ln C(count, n)."""
    return float(gammaln(count + 1) - gammaln(n + 1) - gammaln(count - n + 1))


def tied_pairs(rewards: Sequence[Sequence[float | None]]) -> Floats:
    """Per prompt: share of pairs of responses whose rewards are equal; NaN for fewer than two known rewards."""
    found = []
    for row in rewards:
        known = [value for value in row if value is not None and math.isfinite(value)]
        pairs = len(known) * (len(known) - 1) // 2
        tied = sum(count * (count - 1) // 2 for count in Counter(known).values())
        found.append(tied / pairs if pairs else math.nan)
    return np.array(found, dtype=np.float64)
