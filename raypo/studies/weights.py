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
from raypo.studies.arena import Sets, draw, generator, make_world, rewards_of, train
from raypo.studies.drawings import forest
from raypo.studies.result import Drawing, Result, Row, Setting, Verdict, adjusted, compared
from raypo.studies.sentences import sides, voted

RESPONSES, KL, MATTERS = 8, 0.5, 0.02
"""Responses of a set; nats at which gains are compared; the smallest gain, in spreads of utility, that matters."""

BETAS = (0.1, 1.0)
WEIGHTS = tuple(
    (kind, power, alpha) for kind in ("abs", "signed") for power, alpha in ((1, 0.25), (1, 1.0), (1, 4.0), (2, 1.0))
)
"""Kinds of deviation, their powers and alphas. raypo's own defaults are abs, 1 and 1 at beta 0.1."""

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
    """All shapes and weights, each against MPO on the same seeds and data."""
    rng = generator(setting.seed)
    seeds, contexts, heldout = setting.size(40, 200), setting.size(48, 48), setting.size(64, 64)
    world = make_world(rng, seeds=seeds, contexts=contexts, heldout=heldout)
    arms = draw(world.reference[:, :contexts], RESPONSES, rng)
    noisy = rewards_of(world, arms)
    noisy = noisy + NOISE * torch.randn(noisy.shape, generator=rng)
    given = {shape: Sets(arms, shaped(shape, noisy, rng)) for shape in (*SHAPES, "outliers")}
    rows: list[Row] = []
    for beta in BETAS:
        for shape, sets in given.items():
            by_mpo = train(preset("mpo", beta=beta), world, sets).at(KL)
            for kind, power, alpha in WEIGHTS:
                name = "w-mpo" if kind == "abs" else "w-mpo-signed"
                found = train(preset(name, beta=beta, alpha=alpha, power=float(power)), world, sets)
                condition = f"beta {beta:g}, {shape}, {kind}, power {power}, alpha {alpha:g}"
                rows.append(compared(condition, "gain over mpo", found.at(KL) - by_mpo, n=heldout, matters=MATTERS))
    rows = adjusted(rows)
    return Result.decided(
        rows,
        votes(rows),
        [plain(rows), finding(rows)],
        headline=claimed(rows),
        drawings=[
            Drawing(
                f"beta-{beta:g}",
                f"Gain over MPO at {KL:g} nats, beta {beta:g}; the band would not matter.",
                forest([row for row in rows if row.condition.startswith(f"beta {beta:g}")], LABEL, matters=MATTERS),
            )
            for beta in BETAS
        ],
        settings={"responses": RESPONSES, "kl": KL, "noise": NOISE, "contexts": contexts},
    )


LABEL = "gain over MPO, spreads of utility"


def claimed(rows: list[Row]) -> list[Row]:
    """Absolute deviations at power 1 and alpha 1, over all shapes and betas."""
    return [row for row in rows if row.condition.endswith("abs, power 1, alpha 1")]


def votes(rows: list[Row]) -> list[Verdict]:
    """What each row says that decides the claim."""
    return [row.supports() for row in claimed(rows)]


def plain(rows: list[Row]) -> str:
    """Absolute deviations, signed ones, other powers and alphas, in words."""
    told = {
        f"{'absolute' if kind == 'abs' else kind} deviations at power {power} and alpha {alpha:g}": sides(
            [row for row in rows if row.condition.endswith(f"{kind}, power {power}, alpha {alpha:g}")]
        )
        for kind, power, alpha in WEIGHTS
        if (kind, power, alpha) != ("abs", 1, 1.0)
    }
    return (
        f"That absolute deviations at power 1 and alpha 1 beat MPO is {voted(votes(rows))} shapes and betas; the other "
        f"weights against MPO are, by {'; by '.join(f'{name}, {one}' for name, one in told.items())}."
    )


def finding(rows: list[Row]) -> str:
    """What the rows say, kind by kind and shape by shape."""
    told = [f"Gain over MPO at {KL:g} nats, in spreads of true utility, at alpha 1 and power 1."]
    for beta in BETAS:
        for kind in ("abs", "signed"):
            cases = [row for row in rows if row.condition.startswith(f"beta {beta:g}, ")]
            cases = [row for row in cases if row.condition.endswith(f"{kind}, power 1, alpha 1")]
            each = "; ".join(f"{row.condition.split(', ')[1]} {row.words()}" for row in cases)
            told.append(f"Beta {beta:g}, {kind} deviations: {each}.")
    best, worst = max(rows, key=lambda row: row.effect), min(rows, key=lambda row: row.effect)
    told.append(f"Best of all {len(rows)} settings: {best.condition}, {best.words()}.")
    told.append(f"Worst: {worst.condition}, {worst.words()}.")
    return " ".join(told)
