"""Which contrast learns most from ordinal rewards: a pair, all pairs, sets, levels, or the whole ranking.

Rewards are stars: utility with noise, cut into a few equal levels. Then the same with responses that come in families:
members of a family differ little, and a family's lead over the others is counted once per member. Sums of exponentials
(sets, one against the rest, Plackett-Luce) count each copy as a response of its own; utilities there do not add up to
choices, which is the red-bus-blue-bus failure of Luce's model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from raypo.objective import AnyObjective, preset
from raypo.studies.arena import Path, Sets, World, draw, generator, make_world, rewards_of, train
from raypo.studies.drawings import forest, frontier
from raypo.studies.result import Drawing, Result, Row, Setting, adjusted, compared, overall

RESPONSES, BETA, KL, MATTERS, NOISE = 8, 1.0, 0.5, 0.02, 0.5

METHODS: dict[str, AnyObjective] = {
    "dpo": preset("dpo", beta=BETA, label_smoothing=0.0),
    "all-pairs": preset("all-pairs", beta=BETA),
    "mpo": preset("mpo", beta=BETA),
    "mpo-levels": preset("mpo-levels", beta=BETA, levels=4.0),
    "plackett-luce": preset("plackett-luce", beta=BETA),
    "one-vs-rest": preset("one-vs-rest", beta=BETA),
}
LEVELS = (2, 3, 5, 8)
FAMILY = 4


def stars(values: Tensor, levels: int) -> Tensor:
    """Values cut at their own quantiles into levels 0 .. levels - 1, over all sets of a seed: [S, N, K]."""
    flat = values.flatten(1)
    ranks = flat.argsort(1).argsort(1).float() / flat.shape[1]
    return (ranks * levels).floor().view_as(values)


def families(world: World, arms: Tensor, rng: torch.Generator, likeness: float) -> tuple[World, Tensor]:
    """Every set's last responses become near copies of its first: one family of FAMILY beside the others.

    Args:
        world: changed where its first contexts' arms are drawn.
        arms: [S, N, K] drawn ones.
        rng: of what is not copied.
        likeness: correlation of a copy's features and utility with its original's, in [0, 1).

    Returns:
        the world with copies in it, and the same arms.
    """
    features, utility = world.features.clone(), world.utility.clone()
    count = arms.shape[1]
    original, copies = arms[..., :1], arms[..., 1:FAMILY]
    rest = (1 - likeness**2) ** 0.5
    wide = (*copies.shape, world.features.shape[-1])
    index = copies[..., None].expand(wide)
    source = features[:, :count].gather(2, original[..., None].expand(*original.shape, wide[-1])).expand(wide)
    features[:, :count].scatter_(2, index, likeness * source + rest * torch.randn(wide, generator=rng))
    alike = utility[:, :count].gather(2, original).expand(copies.shape)
    utility[:, :count].scatter_(2, copies, likeness * alike + rest * torch.randn(copies.shape, generator=rng))
    return World(features, utility, world.reference, world.train), arms


def run(setting: Setting) -> Result:
    """Every contrast at every number of levels, then with families; each against DPO on the same seeds."""
    rng = generator(setting.seed)
    seeds, contexts, heldout = setting.size(40, 200), 48, 64
    world = make_world(rng, seeds=seeds, contexts=contexts, heldout=heldout)
    arms = draw(world.reference[:, :contexts], RESPONSES, rng)
    noise = NOISE * torch.randn(arms.shape, generator=rng)
    rows: list[Row] = []
    shown: dict[str, Path] = {}
    gains = {}
    for levels in LEVELS:
        sets = Sets(arms, stars(rewards_of(world, arms) + noise, levels))
        paths = {name: train(objective, world, sets) for name, objective in METHODS.items()}
        shown = paths if levels == 5 else shown
        gains[levels] = {name: path.at(KL) for name, path in paths.items()}
        rows += [
            compared(f"{levels} levels, {name}", "gain over dpo", gain - gains[levels]["dpo"], n=heldout, matters=MATTERS)
            for name, gain in gains[levels].items()
            if name != "dpo"
        ]
    alike, _ = families(world, arms, rng, 0.95)
    sets = Sets(arms, stars(rewards_of(alike, arms) + noise, 5))
    copied = {name: train(objective, alike, sets).at(KL) for name, objective in METHODS.items()}
    rows += [
        compared(f"5 levels, {FAMILY} of 8 alike, {name}", "gain over dpo", gain - copied["dpo"], n=heldout, matters=MATTERS)
        for name, gain in copied.items()
        if name != "dpo"
    ]
    rows += [
        compared(f"5 levels, {FAMILY} of 8 alike, {name}", "loss by likeness", gains[5][name] - copied[name], n=heldout, matters=MATTERS)
        for name in METHODS
    ]
    rows = adjusted(rows)
    main = [row for row in rows if row.condition.endswith(" mpo") and row.measure == "gain over dpo"]
    return Result(
        rows=rows,
        verdict=overall([row.supports() for row in main if "alike" not in row.condition]),
        finding=finding(rows),
        drawings=[
            Drawing("effects", f"Gain over DPO at {KL:g} nats; the band would not matter.", forest(
                [row for row in rows if row.measure == "gain over dpo"], "gain over DPO, spreads of utility", matters=MATTERS)),
            Drawing("frontier", "Five levels: gain against KL.", frontier(shown, KL)),
        ],
        settings={"responses": RESPONSES, "beta": BETA, "kl": KL, "noise": NOISE, "contexts": contexts, "family": FAMILY},
    )


def finding(rows: list[Row]) -> str:
    """The sets against best and worst, the best contrast at each number of levels, and what families cost."""
    against = [row for row in rows if row.measure == "gain over dpo"]
    told = [f"Gain over DPO on best and worst at {KL:g} nats, in spreads of utility."]
    told.append("MPO: " + "; ".join(f"{row.condition.removesuffix(', mpo')} {row.words()}" for row in against if row.condition.endswith(" mpo")) + ".")
    for levels in LEVELS:
        best = max((row for row in against if row.condition.startswith(f"{levels} levels, ") and "alike" not in row.condition), key=lambda row: row.effect)
        told.append(f"Best at {levels} levels: {best.condition.split(', ')[1]} {best.words()}.")
    lost = sorted((row for row in rows if row.measure == "loss by likeness"), key=lambda row: -row.effect)
    told.append(
        f"When {FAMILY} of {RESPONSES} responses are near copies, methods lose: "
        + ", ".join(f"{row.condition.rsplit(', ')[-1]} {row.told()}" for row in lost)
        + "."
    )
    return " ".join(told)
