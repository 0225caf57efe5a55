"""Weighted sums of objectives that mean nothing, each refused with the reason: a run has one of what parts ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from raypo.errors import ConfigError
from raypo.objective.choices import TokenPrior


def check_parts(name: str, parts: Sequence[Any]) -> None:
    """Refuse a weighted sum whose parts ask for two different things of which a run has one.

    Args:
        name: of the sum.
        parts: `Objective` or `Outside` each.

    Raises:
        ConfigError: with the reason.
    """
    for got, expected, wants in EACH_ONCE:
        asking = [part for part in parts if wants(part)]
        if len(asking) > 1:
            raise ConfigError(f"{name}: {' and '.join(part.name for part in asking)}, {got}", expected)
    means = [part.name for part in parts if getattr(part, "anchor", "zero") == "running-mean"]
    if means and parts[0].name not in means:
        raise ConfigError(
            f"{name}: {means[0]} after {parts[0].name}",
            f"{means[0]} first: its anchor is the running mean of the implicit rewards that are reported, those of the "
            "first part",
        )
    moving = [part.name for part in parts if part.reference == "moving"]
    still = [part.name for part in parts if part.reference == "frozen" and part.needs_reference]
    if moving and still:
        raise ConfigError(
            f"{name}: {moving[0]} with a moving reference and {still[0]} with a frozen one",
            "one reference: the log-probs that both read are of the same model",
        )
    labels = [part.name for part in parts if part.needs_labels]
    sizes = [part.name for part in parts if part.needs_scalar_rewards]
    if labels and sizes:
        raise ConfigError(
            f"{name}: {labels[0]}, which takes the labels 1 and 0 alone, and {sizes[0]}, which weighs by the size of "
            "rewards",
            "parts that can read the same rewards: no data would train both",
        )


EACH_ONCE: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
    (
        "two parts with token priors",
        "at most one: both would read the same weighted sums",
        lambda part: isinstance(getattr(part, "prior", None), TokenPrior),
    ),
    (
        "two parts against an anchor that moves",
        "at most one: there is one anchor's score, in the units of one part's beta and prior",
        lambda part: getattr(part, "anchor", "zero") != "zero",
    ),
    (
        "two parts with a budget of tokens",
        "at most one: both would read the same chances to stop",
        lambda part: "eos_before" in part.terms,
    ),
)
"""What at most one part of a sum may ask for: what was got, what is expected, and who asks for it."""
