"""W-MPO's weights over distributions of rewards: how far alpha, its power, and absolute against signed deviations help.

Every distribution holds the same order of the same responses; only the shape differs, so that what is compared is what
W-MPO alone reads: the size of rewards.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from raypo.objective import preset
from raypo.report import plots
from raypo.studies.arena import Path, Sets, draw, generator, make_world, rewards_of, train
from raypo.studies.result import Drawing, Result, Row, Setting, adjusted, compared, overall

RESPONSES, BETA, KL, MATTERS = 8, 1.0, 0.5, 0.02
"""Responses of a set; beta; nats at which gains are compared; the smallest gain, in spreads of utility, that matters."""

NOISE = 0.5
"""Standard deviation of what a reward adds to utility, in its spreads."""


def normal(z: Tensor) -> Tensor:
    """Symmetric, light tails."""
    return z


def skewed(z: Tensor) -> Tensor:
    """Lognormal: few responses are much better."""
    return torch.exp(z)


def bimodal(z: Tensor) -> Tensor:
    """Two heaps, at -1 and 1."""
    return torch.tanh(4 * z) + 0.1 * z


def uniform(z: Tensor) -> Tensor:
    """Ranks, in [0, 1]."""
    return 0.5 * (1 + torch.erf(z / math.sqrt(2)))


SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "symmetric": normal,
    "skewed": skewed,
    "bimodal": bimodal,
    "uniform": uniform,
}


def shaped(name: str, noisy: Tensor, rng: torch.Generator) -> Tensor:
    """Rewards of a shape with unit spread within sets; `outliers` moves one in twenty by eight spreads, up or down."""
    if name == "outliers":
        struck = torch.rand(noisy.shape, generator=rng) < 0.05
        found = noisy + 8 * struck * torch.randn(noisy.shape, generator=rng).sign()
    else:
        found = SHAPES[name](noisy)
    return found / found.var(-1, keepdim=True).mean().sqrt()


def run(setting: Setting) -> Result:
    """All shapes, kinds, alphas and powers, each against MPO on the same seeds and data."""
    rng = generator(setting.seed)
    seeds, contexts, heldout = setting.size(40, 200), 48, 64
    alphas = (0.25, 1.0, 4.0)
    world = make_world(rng, seeds=seeds, contexts=contexts, heldout=heldout)
    arms = draw(world.reference[:, :contexts], RESPONSES, rng)
    noisy = rewards_of(world, arms)
    noisy = noisy + NOISE * torch.randn(noisy.shape, generator=rng)
    rows: list[Row] = []
    for shape in (*SHAPES, "outliers"):
        sets = Sets(arms, shaped(shape, noisy, rng))
        plain = train(preset("mpo", beta=BETA), world, sets).at(KL)
        for kind, name in (("abs", "w-mpo"), ("signed", "w-mpo-signed")):
            for power in (1, 2):
                for alpha in alphas:
                    found: Path = train(preset(name, beta=BETA, alpha=alpha, power=float(power)), world, sets)
                    condition = f"{shape}, {kind}, power {power}, alpha {alpha:g}"
                    rows.append(
                        compared(condition, "gain over MPO", found.at(KL) - plain, n=heldout, matters=MATTERS)
                    )
    rows = adjusted(rows)
    return Result(
        rows=rows,
        verdict=overall([row.supports() for row in rows if "abs, power 1, alpha 1" in row.condition]),
        finding=finding(rows),
        drawings=[Drawing("gain", f"Gain over MPO at {KL:g} nats, in spreads of utility.", _figure(rows, alphas))],
        settings={"responses": RESPONSES, "beta": BETA, "kl": KL, "noise": NOISE, "contexts": contexts},
    )


def finding(rows: list[Row]) -> str:
    """What the rows say, kind by kind and shape by shape."""
    told = [f"Against MPO at {KL:g} nats, in spreads of true utility, at alpha 1 and power 1:"]
    for kind in ("abs", "signed"):
        cases = [row for row in rows if f"{kind}, power 1, alpha 1" in row.condition]
        told.append(
            f"{kind} deviations: "
            + "; ".join(f"{row.condition.split(',')[0]} {row.words()}" for row in cases)
            + "."
        )
    best, worst = max(rows, key=lambda row: row.effect), min(rows, key=lambda row: row.effect)
    told.append(f"Best of all {len(rows)} settings: {best.condition}, {best.told()}.")
    told.append(f"Worst: {worst.condition}, {worst.told()}.")
    return " ".join(told)


def _figure(rows: list[Row], alphas: tuple[float, ...]) -> plots.Figure:
    figure, ax = plots.axes(9.0, 4.0)
    shapes = [*SHAPES, "outliers"]
    kinds = [(kind, power, alpha) for kind in ("abs", "signed") for power in (1, 2) for alpha in alphas]
    for index, (kind, power, alpha) in enumerate(kinds):
        chosen = [row for row in rows if row.condition.endswith(f", {kind}, power {power}, alpha {alpha:g}")]
        at = [column + (index - len(kinds) / 2) * 0.06 for column in range(len(shapes))]
        colour = plots.COLOURS[alphas.index(alpha) + (3 if kind == "signed" else 0)]
        error = [[row.effect - row.low for row in chosen], [row.high - row.effect for row in chosen]]
        ax.errorbar(
            at,
            [row.effect for row in chosen],
            yerr=error,
            fmt="o" if power == 1 else "s",
            markersize=3,
            capsize=2,
            color=colour,
            label=f"{kind} power {power} alpha {alpha:g}",
        )
    ax.axhline(0, color="0.4", linewidth=1)
    ax.set_xticks(range(len(shapes)), shapes)
    ax.set_ylabel("gain over MPO, spreads of utility")
    ax.legend(frameon=False, fontsize=6, ncols=4)
    return figure
