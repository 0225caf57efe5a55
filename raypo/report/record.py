"""What a page is made from: plain data that a run's folder holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Sample:
    """One held-out prompt with a response before and one after, and their training rewards."""

    prompt: str
    before: str
    after: str
    reward_before: float | None
    reward_after: float | None


@dataclass(frozen=True)
class RunRecord:
    """A run, as its page shows it. Parts that are empty leave their section out.

    Args:
        summary: as in summary.json.
        headline: sentences in plain words.
        evaluations: per weight version, as from `Evaluation.to_dict`; none of a run that trained on given sets.
        seconds: of the start and of each round, seconds by stage; of a run without rounds, of all of it.
        steps: step metrics, in order.
        samples: of held-out prompts.
        spread: of some training sets, the standard deviation of scaled rewards and the dispersion index.
        inputs: what the training sets, of rounds those of the first, look like, as label and value.
        histogram: training sets by dispersion index, equal bins over [0, 1].
        figures: intervals that a run without evaluations has, by their key in `page.CARDS`.
        dispersion: comparison of estimators with a known truth; only synthetic languages have one.
        config: the resolved config as YAML.
    """

    summary: dict[str, Any]
    headline: list[str]
    evaluations: list[dict[str, Any]]
    seconds: list[dict[str, float]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    spread: list[tuple[float, float]] = field(default_factory=list)
    inputs: list[tuple[str, str]] = field(default_factory=list)
    histogram: list[int] = field(default_factory=list)
    figures: dict[str, dict[str, float]] = field(default_factory=dict)
    dispersion: dict[str, Any] | None = None
    config: str = ""
