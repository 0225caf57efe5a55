"""Rewards of the audits' tests; Ray's processes import them from the working folder."""

from __future__ import annotations


def length(prompts: list[str], responses: list[str], metadata: list[dict]) -> list[float]:
    """Words of a response."""
    return [float(len(response.split())) for response in responses]


def brevity(prompts: list[str], responses: list[str], metadata: list[dict]) -> list[float]:
    """The shorter the better."""
    return [-value for value in length(prompts, responses, metadata)]
