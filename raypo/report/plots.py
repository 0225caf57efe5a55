"""Figures as inline SVG: labelled axes with units, intervals, colours that colour-blind readers can tell apart."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
STYLE = {
    "svg.hashsalt": "raypo",
    "svg.fonttype": "path",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "figure.constrained_layout.use": True,
}


def svg(figure: Figure) -> str:
    """A figure as an SVG element, the same bytes for the same data."""
    buffer = io.StringIO()
    with plt.rc_context(STYLE):  # the salt of its ids is read when it is written
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = buffer.getvalue()
    # the picture alone: the metadata names vocabularies by address, and a page names nothing outside itself
    return re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)


def axes(width: float = 4.6, height: float = 3.0) -> tuple[Figure, Axes]:
    """One pair of axes in the common style."""
    with plt.rc_context(STYLE):
        return plt.subplots(figsize=(width, height))


def with_intervals(ax: Axes, x: Sequence[float], found: Sequence[dict[str, float]], label: str, colour: str) -> None:
    """Means joined by a line, with their intervals as bars."""
    means = [one["mean"] for one in found]
    below = [max(0.0, one["mean"] - one["low"]) if math.isfinite(one["low"]) else 0.0 for one in found]
    above = [max(0.0, one["high"] - one["mean"]) if math.isfinite(one["high"]) else 0.0 for one in found]
    ax.errorbar(x, means, yerr=[below, above], marker="o", markersize=4, capsize=3, color=colour, label=label)


def rewards(evaluations: Sequence[dict[str, Any]], untrained: Sequence[str]) -> Figure:
    """Held-out rewards by round; those that are never trained on on their own axis."""
    figure, ax = axes()
    rounds = range(len(evaluations))
    with_intervals(ax, rounds, [one["reward"] for one in evaluations], "training reward", COLOURS[0])
    ax.set_xlabel("round")
    ax.set_ylabel("training reward", color=COLOURS[0])
    ax.set_xticks(list(rounds))
    if untrained:
        other = ax.twinx()
        other.grid(visible=False)
        other.spines["right"].set_visible(True)
        for name, colour in zip(untrained, COLOURS[1:], strict=False):
            values = [one["reward_by_source"][name] for one in evaluations]
            with_intervals(other, [r + 0.04 for r in rounds], values, name, colour)
        other.set_ylabel("never trained on: " + ", ".join(untrained))
        other.legend(frameon=False, loc="lower right")
    return figure


def win_rate(evaluations: Sequence[dict[str, Any]]) -> Figure:
    """Share of pairs won against the start, by round."""
    figure, ax = axes()
    rounds = range(len(evaluations))
    with_intervals(ax, rounds, [one["reward_win_rate"] for one in evaluations], "win rate", COLOURS[0])
    ax.axhline(0.5, color="0.4", linestyle="--", linewidth=1)
    ax.set_xlabel("round")
    ax.set_ylabel("win rate against the start")
    ax.set_ylim(0, 1)
    ax.set_xticks(list(rounds))
    return figure


def frontier(evaluations: Sequence[dict[str, Any]]) -> Figure:
    """Reward against KL, a point a round."""
    figure, ax = axes()
    x = [one["kl_per_response"]["mean"] for one in evaluations]
    with_intervals(ax, x, [one["reward"] for one in evaluations], "training reward", COLOURS[0])
    for index, (at, one) in enumerate(zip(x, evaluations, strict=True)):
        ax.annotate(str(index), (at, one["reward"]["mean"]), textcoords="offset points", xytext=(6, -10))
    ax.set_xlabel("KL to the start, nats per response")
    ax.set_ylabel("training reward")
    return figure


def time_spent(seconds: Sequence[dict[str, float]]) -> Figure:
    """Seconds by stage, one bar a round."""
    figure, ax = axes(9.4, 0.5 * len(seconds) + 1.2)
    names = list(dict.fromkeys(name for one in seconds for name in one))
    for row, one in enumerate(seconds):
        left = 0.0
        for name, colour in zip(names, COLOURS, strict=False):
            width = one.get(name, 0.0)
            ax.barh(row, width, left=left, color=colour, label=name if row == 0 else None)
            left += width
    ax.set_yticks(range(len(seconds)), [f"round {row + 1}" for row in range(len(seconds))])
    ax.invert_yaxis()
    ax.set_xlabel("seconds")
    ax.legend(frameon=False, ncols=len(names), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def curve(steps: Sequence[dict[str, Any]], name: str, label: str, colour: str = COLOURS[0]) -> Figure:
    """One step metric over optimizer steps."""
    figure, ax = axes()
    ax.plot([one["step"] for one in steps], [one[name] for one in steps], color=colour, linewidth=1.2)
    ax.set_xlabel("optimizer step")
    ax.set_ylabel(label)
    return figure


def dispersion_boxes(points: Sequence[dict[str, Any]], estimator: str) -> Figure:
    """Estimated index by class of prompts, in the order of their true dispersion."""
    figure, ax = axes(4.6, 3.2)
    classes = sorted({(p["truth"], p["entropy"], p["dispersion"]) for p in points})
    values = [[p[estimator] for p in points if (p["truth"], p["entropy"], p["dispersion"]) == one] for one in classes]
    ax.boxplot(values, showfliers=False, medianprops={"color": COLOURS[1]})
    names = [f"{truth:.2f}\n{entropy} entropy" for truth, entropy, _ in classes]
    ax.set_xticks(range(1, len(names) + 1), names, fontsize=7)
    ax.set_xlabel("true dispersion, and the class's token entropy")
    ax.set_ylabel(f"index by {estimator}")
    return figure


def correlations(estimators: Sequence[dict[str, Any]], ceiling: float) -> Figure:
    """Rank correlation of each estimator with the truth, beside the same after shuffling."""
    figure, ax = axes(4.6, 3.2)
    for row, one in enumerate(estimators):
        for offset, key, colour in ((-0.12, "correlation", COLOURS[0]), (0.12, "shuffled", COLOURS[4])):
            found = one[key]
            error = [[found["mean"] - found["low"]], [found["high"] - found["mean"]]]
            label = key if row == 0 else None
            ax.errorbar(found["mean"], row + offset, xerr=error, fmt="o", ms=4, capsize=3, color=colour, label=label)
    ax.axvline(0, color="0.4", linewidth=1)
    ax.axvline(ceiling, color=COLOURS[2], linestyle="--", linewidth=1, label="perfect estimator")
    ax.set_yticks(range(len(estimators)), [one["name"].replace("_", "\n") for one in estimators])
    ax.invert_yaxis()
    ax.set_xlabel("rank correlation with the truth")
    ax.legend(frameon=False, fontsize=7, loc="lower right")
    return figure
