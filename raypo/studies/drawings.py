"""Figures that several studies share: effects with their intervals, and gain against KL."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from raypo.evaluation.significance import Floats
from raypo.report import plots
from raypo.studies.arena import Path
from raypo.studies.result import Row


def forest(rows: Sequence[Row], label: str, *, matters: float | None = None) -> Figure:
    """Effects below each other with their intervals; a band shows what would not matter."""
    figure, ax = plots.axes(7.5, 0.22 * len(rows) + 1.2)
    measures = list(dict.fromkeys(row.measure for row in rows))
    for at, row in enumerate(rows):
        colour = plots.COLOURS[measures.index(row.measure) % len(plots.COLOURS)]
        first = row.measure not in {one.measure for one in rows[:at]}
        ax.errorbar(
            row.effect,
            at,
            xerr=[[max(0.0, row.effect - row.low)], [max(0.0, row.high - row.effect)]],
            fmt="o",
            markersize=4,
            capsize=3,
            color=colour,
            label=row.measure if first else None,
        )
    if matters is not None:
        ax.axvspan(-matters, matters, color="0.5", alpha=0.2, linewidth=0)  # over light paper and over dark
    ax.axvline(0, color="0.4", linewidth=1)
    ax.set_yticks(range(len(rows)), [row.condition for row in rows], fontsize=7)
    ax.invert_yaxis()
    ax.set_xlabel(label)
    if len(measures) > 1:
        ax.legend(frameon=False, fontsize=7)
    return figure


def frontier(
    paths: Mapping[str, Path],
    kl: float,
    label: str = "gain, spreads of utility",
    value: Callable[[Path, float], Floats] = Path.at,
) -> Figure:
    """Mean over seeds against KL, a line a method; the dashed line is where methods are compared.

    Args:
        paths: of each method.
        kl: nats at which methods are compared; drawn up to twice of it.
        label: of what is drawn.
        value: of a path at a KL, [S]: `Path.at`, its gain, or `Path.accuracy_at`.
    """
    figure, ax = plots.axes(5.4, 3.6)
    grid = np.linspace(0.0, 2 * kl, 25)
    styles = ("-", "--", ":")
    for index, (name, path) in enumerate(paths.items()):
        with_all = [
            float(np.mean(value(path, float(at)))) for at in grid
        ]  # NaN where a seed did not end so far: no line
        ax.plot(
            grid,
            with_all,
            color=plots.COLOURS[index % len(plots.COLOURS)],
            linestyle=styles[index // len(plots.COLOURS) % len(styles)],
            linewidth=1.2,
            label=name,
        )
    ax.axvline(kl, color="0.4", linestyle="--", linewidth=1)
    ax.set_xlabel("KL to the reference, nats")
    ax.set_ylabel(label)
    ax.legend(frameon=False, fontsize=7)
    return figure
