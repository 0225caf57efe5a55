"""The page of a comparison of policies: a template over plain data, escaped throughout, without a script."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from raypo.report.page import drawing, scored, unbroken
from raypo.report.plots import BEST_OF, COLOURS, axes, bars, best_of, legend

Rows = Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]]
"""Tables: what is above each, its heads, and a text per column of each row."""


@dataclass(frozen=True)
class Answered:
    """One held-out prompt with a response of each policy.

    Args:
        prompt: as rendered.
        responses: name of the policy, its response, and its training reward or None.
    """

    prompt: str
    responses: Sequence[tuple[str, str, float | None]]


@dataclass(frozen=True)
class ComparisonRecord:
    """A comparison, as its page shows it.

    Args:
        name: of the run that it belongs to.
        found: as in evaluation.json.
        sheets: the tables of the terminal.
        meanings: of their heads, a sentence each.
        samples: of held-out prompts.
        config: the resolved config as YAML.
        versions: of what it ran with.
    """

    name: str
    found: Mapping[str, Any]
    sheets: Rows
    meanings: Sequence[str]
    samples: Sequence[Answered] = ()
    config: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


def frontier(found: Mapping[str, Any]) -> Figure:
    """Reward against KL, a point a policy; those that nobody beats at both are joined."""
    figure, ax = axes(4.6, 3.4)
    joined = sorted(
        (found["policies"][name] for name in found["frontier"]), key=lambda one: one["kl_per_response"]["mean"]
    )
    at = [one["kl_per_response"]["mean"] for one in joined]
    ax.step(at, [one["reward"]["mean"] for one in joined], where="post", color="0.5", ls=":", label="frontier")
    for place, (name, one) in enumerate(found["policies"].items()):
        colour = COLOURS[place % len(COLOURS)]
        bars(ax, [one["kl_per_response"]["mean"]], [one["reward"]], name, colour)
    ax.set_xlabel("KL to the start, nats per response")
    ax.set_ylabel("training reward")
    legend(ax)
    return figure


def win_rates(found: Mapping[str, Any]) -> Figure:
    """A group of bars a policy: by the reward, at equal length, and by the judge where there is one."""
    names = list(found["length_controlled"])
    figure, ax = axes(4.6, 3.4)
    kinds = {
        "by reward": [found["policies"][name]["reward_win_rate"] for name in names],
        "lengths held equal": [found["length_controlled"][name]["controlled"] for name in names],
    }
    if found["judged"]:
        kinds["by the judge"] = [found["judged"][name]["win_rate"] for name in names]
    width = 0.8 / len(kinds)
    colours = (COLOURS[0], COLOURS[5], COLOURS[4])
    for place, ((label, rates), colour) in enumerate(zip(kinds.items(), colours, strict=False)):
        at = [number + (place - (len(kinds) - 1) / 2) * width for number in range(len(names))]
        heights = [one["mean"] for one in rates]
        ax.bar(at, heights, width=0.9 * width, color=colour, alpha=0.85, label=label)
        bars(ax, at, rates, label="", colour="black", fmt="none")
    ax.axhline(0.5, color="0.5", linestyle="--", linewidth=1)
    ax.set_ylim(0, 1)
    turned = len(names) > 4  # names side by side would run into each other
    ax.set_xticks(range(len(names)), names, rotation=30 if turned else 0, ha="right" if turned else "center")
    ax.set_ylabel("win rate against the start")
    legend(ax)
    return figure


def headline(found: Mapping[str, Any], confidence: float) -> list[str]:
    """What each policy gained over the start, as a sentence. Adjusted for all comparisons of two policies."""
    adjusted = {one["one"]: one["p_adjusted"] for one in found["pairs"] if one["other"] == "start"}
    told = []
    for name, one in found["policies"].items():
        if name not in adjusted:
            continue
        gain, p = one["reward_gain"], adjusted[name]
        clear = math.isfinite(gain["low"]) and (gain["low"] > 0 or gain["high"] < 0) and p < 1 - confidence
        verdict = ("better than the start" if gain["mean"] > 0 else "worse than the start") if clear else None
        bounds = "" if math.isnan(gain["low"]) else f" [{gain['low']:+.3f}, {gain['high']:+.3f}]"
        if math.isnan(gain["mean"]):
            told.append(f"{name}: its gain over the start is not known: no prompt has a reward of both")
            continue
        told.append(
            f"{name}: {verdict or 'no clear difference from the start'}: gain {gain['mean']:+.3f}{bounds}, "
            f"p = {p:.2g} (Holm), at KL {one['kl_per_response']['mean']:.2f}"
        )
    return told


def render_comparison(record: ComparisonRecord, *, confidence: float) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=PackageLoader("raypo.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["reward"] = scored
    environment.filters["unbroken"] = unbroken
    found = record.found
    lines = [(name, one, COLOURS[at % len(COLOURS)]) for at, (name, one) in enumerate(found["policies"].items())]
    plots = [
        drawing(win_rates(found), "Win rate against the start; a coin would be at the dashed line."),
        drawing(frontier(found), "Training reward against KL to the start. Nobody beats the joined ones at both."),
        drawing(best_of(lines, height=3.4), BEST_OF),
    ]
    warnings = [f"{name}: {text}" for name, one in found["policies"].items() for text in one["warnings"]]
    return environment.get_template("comparison.html.j2").render(
        record=record,
        plots=plots,
        headline=headline(found, confidence),
        warnings=[*found["warnings"], *warnings],
    )
