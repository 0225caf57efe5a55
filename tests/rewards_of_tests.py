"""Rewards that Ray's workers import by name: they stand in the repository's root."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def ones(prompts: Sequence[str], responses: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> list[float]:
    """The number of ones in each response."""
    return [float(response.count("1")) for response in responses]
