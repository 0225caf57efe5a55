"""Figures as inline SVG: labelled axes with units, intervals, colours that colour-blind readers can tell apart.

What is drawn in black takes the page's ink and the background is left out, so a figure reads in light and dark alike.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#8C8C8C")
STYLE = {
    "svg.hashsalt": "raypo",
    "text.parse_math": False,  # a name with dollar signs is a name
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
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = buffer.getvalue()
    # the picture alone: the metadata names vocabularies by address, and a page names nothing outside itself
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    inked = text.replace("#000000", "currentColor")
    # paths without a colour of their own, as glyphs are, are black by SVG's rule
    return inked.replace("<svg ", '<svg fill="currentColor" ', 1)


def axes(width: float = 4.6, height: float = 3.0) -> tuple[Figure, Axes]:
    """One pair of axes in the common style."""
    with plt.rc_context(STYLE):
        return plt.subplots(figsize=(width, height))


def with_intervals(ax: Axes, x: Sequence[float], found: Sequence[dict[str, float]], label: str, colour: str) -> None:
    """Means joined by a line, with their intervals as bars."""
    bars(ax, x, found, label, colour, fmt="o-")


def bars(
    ax: Axes, x: Sequence[float], found: Sequence[dict[str, float]], label: str, colour: str, fmt: str = "o"
) -> None:
    """Intervals around means; one without bounds is a point."""
    means = [one["mean"] for one in found]
    below = [max(0.0, one["mean"] - one["low"]) if math.isfinite(one["low"]) else 0.0 for one in found]
    above = [max(0.0, one["high"] - one["mean"]) if math.isfinite(one["high"]) else 0.0 for one in found]
    ax.errorbar(
        x, means, yerr=[below, above], fmt=fmt, markersize=4, capsize=3, color=colour, elinewidth=1.2, label=label
    )


def legend(ax: Axes) -> None:
    """Above the axes, where it hides nothing."""
    ax.legend(frameon=False, fontsize=8, ncols=2, loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.2)


def by_round(evaluations: Sequence[dict[str, Any]], named: Sequence[tuple[str, str]], label: str) -> Figure:
    """Some figures of the evaluation by round.

    Args:
        evaluations: per weight version.
        named: key of a figure and its name in the legend; versions without it are left out.
        label: of the axis, with the unit.
    """
    figure, ax = axes()
    for place, ((key, name), colour) in enumerate(zip(named, COLOURS, strict=False)):
        shown = [(index, one[key]) for index, one in enumerate(evaluations) if one.get(key)]
        shift = 0.06 * (place - (len(named) - 1) / 2)
        with_intervals(ax, [index + shift for index, _ in shown], [one for _, one in shown], name, colour)
    ax.set_xlabel("round")
    ax.set_ylabel(label)
    ax.set_xticks(range(len(evaluations)))
    if len(named) > 1:
        legend(ax)
    return figure


BEST_OF = "Reward of the best of n responses: what is left to gain by choosing."
"""Below such a figure."""


def best_of(lines: Sequence[tuple[str, Mapping[str, Any], str]], *, height: float = 3.0) -> Figure:
    """Reward of the best of n responses, a line a policy.

    Args:
        lines: name, figures with a `best_of_n` each, and colour; at least one.
        height: inches.
    """
    figure, ax = axes(height=height)
    counts: list[str] = []
    for name, one, colour in lines:
        counts = sorted(one["best_of_n"], key=int)
        with_intervals(ax, [int(n) for n in counts], [one["best_of_n"][n] for n in counts], name, colour)
    ax.set_xscale("log", base=2)
    ax.set_xticks([int(n) for n in counts], counts)
    ax.set_xlabel("n, responses to choose from")
    ax.set_ylabel("reward of the best")
    legend(ax)
    return figure


def spread_and_dispersion(points: Sequence[tuple[float, float]]) -> Figure:
    """Estimated dispersion of a set against the spread of its rewards, a point a set."""
    figure, ax = axes()
    ax.scatter([x for x, _ in points], [y for _, y in points], s=12, alpha=0.75, color=COLOURS[0], linewidths=0)
    ax.set_xlabel("spread of a set's rewards, in units of the reward scale")
    ax.set_ylabel("dispersion index d")
    return figure


def histogram(counts: Sequence[int]) -> Figure:
    """Sets per bin of the dispersion index, equal bins over [0, 1]."""
    figure, ax = axes()
    width = 1 / len(counts)
    ax.bar([width * i for i in range(len(counts))], counts, width=0.92 * width, align="edge", color=COLOURS[0])
    ax.set_xlim(0, 1)
    ax.locator_params(axis="y", integer=True)
    ax.set_xlabel("dispersion index d")
    ax.set_ylabel("sets")
    return figure


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
    """Share of pairs won against the start, a bar a round; beside it, where there is one, the length-controlled."""
    figure, ax = axes()
    rounds = range(1, len(evaluations))
    kinds = [("reward_win_rate", "by reward"), ("reward_win_rate_controlled", "lengths held equal")]
    kinds = [kind for kind in kinds if any(evaluations[r].get(kind[0]) for r in rounds)]
    width = 0.7 / max(1, len(kinds))
    for place, ((key, label), colour) in enumerate(zip(kinds, (COLOURS[0], COLOURS[5]), strict=False)):
        shift = (place - (len(kinds) - 1) / 2) * width
        shown = [(r + shift, evaluations[r][key]) for r in rounds if evaluations[r].get(key)]
        found = [one for _, one in shown]
        places = [at for at, _ in shown]
        ax.bar(places, [one["mean"] for one in found], width=0.9 * width, color=colour, alpha=0.85, label=label)
        bars(ax, places, found, label="", colour="black", fmt="none")
    ax.axhline(0.5, color="0.5", linestyle="--", linewidth=1)
    ax.set_xlabel("round")
    ax.set_ylabel("win rate against the start")
    ax.set_ylim(0, 1)
    ax.set_xticks(list(rounds))
    legend(ax)
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
    """Seconds by stage: a bar for the start and one for each round; one bar alone is all of a run without rounds."""
    figure, ax = axes(9.4, 0.5 * len(seconds) + 1.2)
    names = list(dict.fromkeys(name for one in reversed(seconds) for name, spent in one.items() if spent))
    for row, one in enumerate(seconds):
        left = 0.0
        for name, colour in zip(names, COLOURS, strict=False):
            width = one.get(name, 0.0)
            ax.barh(row, width, left=left, color=colour, label=name if row == 0 else None)
            left += width
    rows = ["start" if len(seconds) > 1 else "run", *(f"round {row}" for row in range(1, len(seconds)))]
    ax.set_yticks(range(len(seconds)), rows)
    ax.invert_yaxis()
    ax.set_xlabel("seconds")
    ax.legend(frameon=False, ncols=len(names), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def curve(steps: Sequence[dict[str, Any]], name: str, label: str, colour: str = COLOURS[0]) -> Figure:
    """One step metric over optimizer steps."""
    figure, ax = axes()
    ax.plot([one["step"] for one in steps], [one[name] for one in steps], color=colour, linewidth=1.2)
    ax.locator_params(axis="x", integer=True)
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
