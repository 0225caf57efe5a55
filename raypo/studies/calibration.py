"""Rewards made wrong in five ways, more and more: which objective breaks first, and does a check warn beforehand?

    monotone     exp(s r): the order is right, the sizes are not
    noise        r + s noise
    length       r + s length, where length has no part in utility
    mislabelled  in a share s of the sets, drawn at random, rewards are turned around
    adversarial  in the share s of the sets whose true rewards lie farthest apart, rewards are turned around

The adversary knows true rewards and chooses where a turned set costs most; it does not know the policies.

An objective's *retained* gain is its gain in true utility at a KL, over its own gain on true rewards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from raypo.evaluation.doubts import Doubts, doubts
from raypo.evaluation.significance import Floats
from raypo.objective import AnyObjective, preset
from raypo.report import plots
from raypo.report.plots import Figure
from raypo.studies.arena import Sets, World, draw, generator, make_world, rewards_of, train
from raypo.studies.drawings import forest
from raypo.studies.result import Drawing, Result, Row, Setting, Verdict, adjusted, compared, measured
from raypo.studies.sentences import joined, voted

DOUBTED = "sets of rewards that are doubted"
RESPONSES, BETA, ALPHA, KL, MATTERS, AUDIT = 8, 0.1, 1.0, 0.5, 0.05, 100
"""The last: pairs that a trusted judge looks at, per seed."""

METHODS: dict[str, AnyObjective] = {
    "dpo": preset("dpo", beta=BETA, label_smoothing=0.0),
    "mpo": preset("mpo", beta=BETA),
    "w-mpo": preset("w-mpo", beta=BETA, alpha=ALPHA),
}

Distortion = Callable[[Tensor, Tensor, float, torch.Generator], Tensor]


def monotone(r: Tensor, length: Tensor, s: float, rng: torch.Generator) -> Tensor:
    """Right order, wrong sizes."""
    return torch.expm1(s * r) / s if s else r


def noise(r: Tensor, length: Tensor, s: float, rng: torch.Generator) -> Tensor:
    """A reward that errs."""
    return r + s * torch.randn(r.shape, generator=rng)


def long(r: Tensor, length: Tensor, s: float, rng: torch.Generator) -> Tensor:
    """A reward that likes length."""
    return r + s * length


def mislabelled(r: Tensor, length: Tensor, s: float, rng: torch.Generator) -> Tensor:
    """Random sets whose best is called worst."""
    turned = torch.rand((*r.shape[:2], 1), generator=rng) < s
    return torch.where(turned, -r, r)


def adversarial(r: Tensor, length: Tensor, s: float, rng: torch.Generator) -> Tensor:
    """The sets with the largest gap between best and worst turned around, the nearest whole number of each seed's."""
    gap = r.amax(-1) - r.amin(-1)
    place = gap.argsort(-1, descending=True).argsort(-1)  # 0: the largest gap
    return torch.where((place < round(s * r.shape[1]))[..., None], -r, r)


DISTORTIONS: dict[str, tuple[Distortion, tuple[float, ...]]] = {
    "monotone": (monotone, (0.5, 1.0, 2.0, 4.0)),
    "noise": (noise, (0.5, 1.0, 2.0, 4.0)),
    "length": (long, (0.5, 1.0, 2.0, 4.0)),
    "mislabelled": (mislabelled, (0.1, 0.2, 0.3, 0.4)),
    "adversarial": (adversarial, (0.1, 0.2, 0.3, 0.4)),
}


def run(setting: Setting) -> Result:
    """Every distortion at every strength, and the check's alarms on the same rewards."""
    rng = generator(setting.seed)
    seeds, contexts, heldout = setting.size(40, 200), setting.size(48, 48), setting.size(64, 64)
    world = make_world(rng, seeds=seeds, contexts=contexts, heldout=heldout, neutral=1)
    arms = draw(world.reference[:, :contexts], RESPONSES, rng)
    true, length = rewards_of(world, arms), lengths_of(world, arms)
    whole = gains(world, arms, true)
    alarm = alarms(true, true, length, rng)
    rows = [measured("true rewards", DOUBTED, alarm, n=contexts)]
    kept: dict[str, dict[str, list[Floats]]] = {}
    for name, (distort, strengths) in DISTORTIONS.items():
        kept[name] = {method: [] for method in METHODS}
        for strength in strengths:
            given = distort(true, length, strength, rng)
            for method, gain in gains(world, arms, given).items():
                kept[name][method].append(retained(gain, whole[method]))
            alarm = alarms(given, true, length, rng)
            rows.append(measured(f"{name} {strength:g}", DOUBTED, alarm, n=contexts))
        mean = {method: np.mean(values, axis=0) for method, values in kept[name].items()}
        rows += [
            compared(name, f"retained by w-mpo less {other}", mean["w-mpo"] - mean[other], n=heldout, matters=MATTERS)
            for other in ("mpo", "dpo")
        ]
    rows = adjusted(rows)
    tested = claimed(rows)
    return Result.decided(
        rows,
        votes(rows),
        [plain(rows, kept), finding(rows, kept)],
        headline=claimed(rows),
        drawings=[
            Drawing("retained", "Retained gain by strength of each distortion.", _figure(kept)),
            Drawing("effects", "Retained by W-MPO less others, mean over strengths.", forest(tested, "share of gain")),
        ],
        settings={"responses": RESPONSES, "beta": BETA, "alpha": ALPHA, "kl": KL, "contexts": contexts, "audit": AUDIT},
    )


def retained(gain: Floats, whole: Floats) -> Floats:
    """Share of the whole gain that is left, one per seed, [S]: the mean is mean(gain) / mean(whole).

    A ratio of means over the same seeds: each seed counts with its part in both, g/W - (G/W^2)(w - W) with means G and
    W (the linearised ratio; Cochran, Sampling Techniques, section 6.4), so that intervals hold what is uncertain of W.
    NaN for a seed that has not both.
    """
    both = np.isfinite(gain) & np.isfinite(whole)
    above, below = float(gain[both].mean()), float(whole[both].mean())
    return gain / below - above / below**2 * (whole - below)


def lengths_of(world: World, arms: Tensor) -> Tensor:
    """The feature that has no part in utility, [S, N, K]."""
    return world.features[:, : arms.shape[1], :, 0].gather(-1, arms)


def gains(world: World, arms: Tensor, rewards: Tensor) -> dict[str, Floats]:
    """Gain at KL of every method, rewards divided by their spread as a run divides them."""
    scaled = rewards / rewards.var(-1, keepdim=True).mean((1, 2), keepdim=True).sqrt()
    return {name: train(one, world, Sets(arms, scaled)).at(KL) for name, one in METHODS.items()}


def audit(given: Tensor, true: Tensor, length: Tensor, rng: torch.Generator) -> Doubts:
    """The check on one seed's rewards [N, K], with AUDIT pairs judged by true utility."""
    sets = torch.randint(len(true), (AUDIT,), generator=rng)
    pair = torch.stack([torch.randperm(true.shape[1], generator=rng)[:2] for _ in range(AUDIT)])
    verdict = torch.rand(AUDIT, generator=rng) < torch.sigmoid(2 * _gap(true, sets, pair))
    return doubts(
        given.tolist(),
        list(length.double().numpy()),
        _gap(given, sets, pair).double().numpy(),
        verdict.double().numpy(),
    )


def _gap(values: Tensor, sets: Tensor, pair: Tensor) -> Tensor:
    return values[sets, pair[:, 0]] - values[sets, pair[:, 1]]


def alarms(given: Tensor, true: Tensor, length: Tensor, rng: torch.Generator) -> Floats:
    """1 for each seed whose rewards are doubted, else 0: [S]."""
    each = [audit(*one, rng) for one in zip(given, true, length, strict=True)]
    return np.array([float(bool(one.warnings)) for one in each])


def breaking(kept: dict[str, dict[str, list[Floats]]], name: str, method: str) -> str:
    """The first strength at which less than half of the gain is left, in words."""
    for strength, values in zip(DISTORTIONS[name][1], kept[name][method], strict=True):
        if np.nanmean(values) < 0.5:
            return f"at {strength:g}"
    return "never"


def claimed(rows: list[Row]) -> list[Row]:
    """What W-MPO retains less each other, under each distortion."""
    return [row for row in rows if row.measure.startswith("retained")]


def votes(rows: list[Row]) -> list[Verdict]:
    """What each row says that decides the claim."""
    return [row.supports(-1) for row in claimed(rows)]


def plain(rows: list[Row], kept: dict[str, dict[str, list[Floats]]]) -> str:
    """What W-MPO retains less the others, who first loses half, and whether the check warns by then, in words."""
    against = "; ".join(
        f"than {other} {voted([row.supports(-1) for row in claimed(rows) if row.measure.endswith(other)])}"
        for other in ("mpo", "dpo")
    )
    broken = {name: first for name in kept if (first := _first(kept, name)) is not None}
    lost = "; ".join(f"{name} at {at:g} ({joined(who)})" for name, (at, who) in broken.items())
    spared = joined([name for name in kept if name not in broken])
    half = f"half of the gain is lost first under: {lost}" if broken else "no objective loses half of its gain"
    half += f", and by none under {spared}" if broken and spared else ""
    seen = {row.condition: row.effect for row in rows if row.measure == DOUBTED}
    warned = [f"{name} at {at:g}" for name in kept if (at := _warned(name, seen)) is not None]
    there = f"most seeds' from {joined(warned)} on" if warned else "most seeds' under no distortion"
    return (
        f"That W-MPO retains less is, over the distortions: {against}; {half}; the check doubts true rewards in "
        f"{seen['true rewards']:.0%} of seeds, and {there}."
    )


def _first(kept: dict[str, dict[str, list[Floats]]], name: str) -> tuple[float, list[str]] | None:
    """The weakest strength at which somebody has less than half of the gain left, and who has."""
    for at, strength in enumerate(DISTORTIONS[name][1]):
        who = [method for method, values in kept[name].items() if np.nanmean(values[at]) < 0.5]
        if who:
            return strength, who
    return None


def _warned(name: str, seen: Mapping[str, float]) -> float | None:
    """The weakest strength at which the check doubts the rewards of most seeds."""
    return next((one for one in DISTORTIONS[name][1] if seen.get(f"{name} {one:g}", 0.0) > 0.5), None)


def finding(rows: list[Row], kept: dict[str, dict[str, list[Floats]]]) -> str:
    """Distortion by distortion: who retains what, who breaks first, and what the check sees."""
    told = [f"Gain retained at {KL:g} nats, mean over strengths; the claim is that W-MPO retains less."]
    for name in DISTORTIONS:
        cases = [row for row in rows if row.condition == name]
        broke = ", ".join(f"{method} {breaking(kept, name, method)}" for method in METHODS)
        told.append(
            f"{name}: "
            + "; ".join(f"{row.measure[12:]} {row.words(-1)}" for row in cases)
            + f"; half is lost: {broke}."
        )
    seen = [row for row in rows if row.measure == DOUBTED]
    told.append(
        f"The check with {AUDIT} audited pairs doubts true rewards in {seen[0].effect:.0%} of seeds, and "
        + ", ".join(f"{row.condition} in {row.effect:.0%}" for row in seen[1:])
        + "."
    )
    return " ".join(told)


def _figure(kept: dict[str, dict[str, list[Floats]]]) -> Figure:
    figure, ax = plots.axes(9.0, 3.4)
    left = 0
    ticks, names = [], []
    for name, (_, strengths) in DISTORTIONS.items():
        at = [left + index for index in range(len(strengths))]
        for method, colour in zip(METHODS, plots.COLOURS, strict=False):
            means = [float(np.nanmean(values)) for values in kept[name][method]]
            ax.plot(at, means, marker="o", markersize=3, color=colour, label=method if not left else None)
        ticks += at
        names += [f"{name}\n{strength:g}" for strength in strengths]
        left += len(strengths) + 1
    ax.axhline(0.5, color="0.4", linestyle="--", linewidth=1)
    ax.set_xticks(ticks, names, fontsize=6)
    ax.set_ylabel("share of the gain on true rewards")
    ax.legend(frameon=False)
    return figure
