"""Figures of a study: parallel coordinates, importances, and reward against KL over trials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from raypo.report.plots import COLOURS, axes, legend

Rows = Sequence[dict[str, Any]]


def measured(rows: Rows) -> list[dict[str, Any]]:
    """Trials that have figures."""
    return [row for row in rows if row["reward"] is not None]


def front(rows: Rows, start: float, kl_bound: float, best: int | None) -> Figure:
    """Reward against KL, with the Pareto front and the bound."""
    figure, ax = axes(4.6, 3.4)
    known = measured(rows)
    kinds = (("finished", COLOURS[0], "o"), ("stopped", COLOURS[7], "x"), ("failed", COLOURS[3], "+"))
    for state, colour, marker in kinds:
        part = [row for row in known if row["state"] == state]
        if part:
            ax.scatter([r["kl"] for r in part], [r["reward"] for r in part], c=colour, marker=marker, s=26, label=state)
    joined = sorted((row for row in known if row["front"]), key=lambda row: row["kl"])
    ax.step([r["kl"] for r in joined], [r["reward"] for r in joined], where="post", color=COLOURS[2], label="front")
    ax.scatter([0.0], [start], marker="s", c="#000000", s=26, label="start")
    for row in known:
        if row["trial"] == best:
            ax.scatter([row["kl"]], [row["reward"]], s=130, facecolors="none", edgecolors=COLOURS[1], label="winner")
    ax.axvline(kl_bound, color="0.4", linestyle="--", linewidth=1)
    ax.set_xlabel("KL to the start, nats per response")
    ax.set_ylabel("held-out reward")
    legend(ax)
    return figure


def importance(shares: dict[str, float], name: str) -> Figure:
    """A bar a parameter."""
    figure, ax = axes(4.6, 0.4 * len(shares) + 1.4)
    ordered = sorted(shares.items(), key=lambda one: one[1])
    ax.barh([path for path, _ in ordered], [share for _, share in ordered], color=COLOURS[0])
    ax.set_xlim(0, 1)
    ax.set_xlabel(f"share of the variation of the {'held-out reward' if name == 'reward' else 'KL'}")
    return figure


def parallel(rows: Rows, paths: Sequence[str], logarithmic: Sequence[str], best: int | None) -> Figure:
    """A line a trial through an axis a parameter, coloured by reward."""
    keys = [*paths, "kl", "reward"]
    figure, ax = axes(9.4, 3.8)
    known = measured(rows)
    scales = {key: scale([row[key] for row in known], log=key in logarithmic) for key in keys}
    rewards = [row["reward"] for row in known]
    low, high = (min(rewards), max(rewards)) if rewards else (0.0, 1.0)
    for row in sorted(known, key=lambda one: one["reward"]):
        heights = [scales[key][0][position] for key, position in ((k, label_of(row[k])) for k in keys)]
        share = (row["reward"] - low) / (high - low) if high > low else 0.5
        colour = colormaps["viridis"](0.25 + 0.6 * share)  # its ends are lost on a dark or a white page
        ax.plot(
            range(len(keys)),
            heights,
            color=colour,
            linewidth=3 if row["trial"] == best else 1.2,
            linestyle="-" if row["state"] == "finished" else ":",
        )
    for number, key in enumerate(keys):
        ax.axvline(number, color="0.7", linewidth=1)
        for height, text in scales[key][1]:
            ax.annotate(
                text,
                (number, height),
                xytext=(4, 5),
                textcoords="offset points",
                fontsize=7,
                va="center",
            )
    ax.set_xticks(range(len(keys)), [key.rpartition(".")[2].replace("_", "\n") for key in keys])
    ax.set_xlim(-0.1, len(keys) - 0.6)
    ax.set_ylim(-0.06, 1.06)
    ax.yaxis.set_visible(False)
    ax.grid(visible=False)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    return figure


def label_of(value: Any) -> str:
    """How a value is told apart and written on its axis."""
    return f"{value:.4g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def scale(values: Sequence[Any], *, log: bool) -> tuple[dict[str, float], list[tuple[float, str]]]:
    """Heights in [0, 1] by label, and what is written at which height.

    Numbers stand where they are between the least and the greatest, choices at equal distances.
    """
    labels = {label_of(value): value for value in values}
    numbers = [v for v in labels.values() if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) < len(labels) or not numbers:
        names = sorted(labels)
        heights = {name: (i / (len(names) - 1) if len(names) > 1 else 0.5) for i, name in enumerate(names)}
        return heights, [(height, name) for name, height in heights.items()]
    put = math.log if log else float
    low, high = put(min(numbers)), put(max(numbers))
    heights = {name: (put(value) - low) / (high - low) if high > low else 0.5 for name, value in labels.items()}
    spots = np.linspace(low, high, 4) if high > low else [low]
    back = math.exp if log else float
    return heights, [((spot - low) / (high - low) if high > low else 0.5, f"{back(spot):.3g}") for spot in spots]
