"""Rewards of the studies' tests; Ray's processes import them from the working folder."""

from __future__ import annotations


def even(prompts: list[str], responses: list[str], metadata: list[dict]) -> list[float]:
    """Share of words with an even number, w0 to w195."""
    found = []
    for response in responses:
        numbers = [int(word[1:]) for word in response.replace("w", " w").split() if word[1:].isdigit()]
        found.append(sum(number % 2 == 0 for number in numbers) / max(len(numbers), 1))
    return found
