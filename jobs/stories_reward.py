"""Rewards of jobs/stories.yaml: how happy a text sounds, and a second number that is never trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer


@cache
def _analyzer() -> SentimentIntensityAnalyzer:
    """One per process: reading its lexicon takes a tenth of a second."""
    return SentimentIntensityAnalyzer()


def sentiment(prompts: Sequence[str], responses: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> list[float]:
    """VADER's compound sentiment of each response alone, in [-1, 1]."""
    return [float(_analyzer().polarity_scores(response)["compound"]) for response in responses]


def distinct_words(
    prompts: Sequence[str], responses: Sequence[str], metadata: Sequence[Mapping[str, Any]]
) -> list[float]:
    """Share of distinct words in each response, in (0, 1]; it falls when a story repeats itself. 0 without a word."""
    shares = []
    for response in responses:
        words = response.lower().split()
        shares.append(len(set(words)) / len(words) if words else 0.0)
    return shares
