"""Which contrast learns most from ordinal rewards: a pair, all pairs, sets, levels, or the whole ranking.

Rewards are stars: utility with noise, cut into a few equal levels. Then the same with responses that come in families:
members of a family differ little, and a family's lead over the others is counted once per member. Sums of exponentials
(sets, one against the rest, Plackett-Luce) count each copy as a response of its own; utilities there do not add up to
choices, which is the red-bus-blue-bus failure of Luce's model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from raypo.evaluation.significance import Floats
from raypo.objective import AnyObjective, preset
from raypo.studies.arena import Path, Sets, World, draw, generator, make_world, rewards_of, train
from raypo.studies.drawings import forest, frontier
from raypo.studies.result import Drawing, Result, Row, Setting, Verdict, adjusted, compared
from raypo.studies.sentences import grouped, side, sides, voted

RESPONSES, KL, MATTERS, NOISE = 8, 0.5, 0.02, 0.5
BETAS = (0.1, 1.0)
LEVELS = (2, 3, 5, 8)
FAMILY, LIKENESS = 4, 0.95


def methods(beta: float) -> dict[str, AnyObjective]:
    """The contrasts at one beta, DPO first: the others are compared with it."""
    return {
        "dpo": preset("dpo", beta=beta, label_smoothing=0.0),
        "all-pairs": preset("all-pairs", beta=beta),
        "mpo": preset("mpo", beta=beta),
        "mpo-levels": preset("mpo-levels", beta=beta, levels=4.0),
        "plackett-luce": preset("plackett-luce", beta=beta),
        "one-vs-rest": preset("one-vs-rest", beta=beta),
    }


def stars(values: Tensor, levels: int) -> Tensor:
    """Values cut at their own quantiles into levels 0 .. levels - 1, over all sets of a seed: [S, N, K]."""
    flat = values.flatten(1)
    ranks = flat.argsort(1).argsort(1).float() / flat.shape[1]
    return (ranks * levels).floor().view_as(values)


def families(world: World, arms: Tensor, likeness: float) -> World:
    """The responses after each set's first become near copies of it: one family of FAMILY beside the others.

    A copy is `likeness` of the original and the rest of what the arm was, in features and utility alike: what features
    tell of utility stays what it was, and copies have no noise that others lack.

    Args:
        world: changed where its first contexts' arms are drawn.
        arms: [S, N, K] drawn ones.
        likeness: correlation of a copy's features and utility with its original's, in [0, 1).

    Returns:
        the world with copies in it.
    """
    features, utility = world.features.clone(), world.utility.clone()
    count = arms.shape[1]
    original, copies = arms[..., :1], arms[..., 1:FAMILY]
    rest = (1 - likeness**2) ** 0.5
    wide = (*copies.shape, world.features.shape[-1])
    index = copies[..., None].expand(wide)
    source = features[:, :count].gather(2, original[..., None].expand(*original.shape, wide[-1])).expand(wide)
    own = features[:, :count].gather(2, index)
    features[:, :count].scatter_(2, index, likeness * source + rest * own)
    alike = utility[:, :count].gather(2, original).expand(copies.shape)
    own = utility[:, :count].gather(2, copies)
    utility[:, :count].scatter_(2, copies, likeness * alike + rest * own)
    return World(features, utility, world.reference, world.train)


def run(setting: Setting) -> Result:
    """Every contrast at every number of levels, then with families; each against DPO on the same seeds."""
    rng = generator(setting.seed)
    seeds, contexts, heldout = setting.size(40, 200), setting.size(48, 48), setting.size(64, 64)
    world = make_world(rng, seeds=seeds, contexts=contexts, heldout=heldout)
    arms = draw(world.reference[:, :contexts], RESPONSES, rng)
    noise = NOISE * torch.randn(arms.shape, generator=rng)
    alike = families(world, arms, LIKENESS)
    rows: list[Row] = []
    shown: dict[str, Path] = {}
    for beta in BETAS:
        gains = {}
        for levels in LEVELS:
            sets = Sets(arms, stars(rewards_of(world, arms) + noise, levels))
            paths = {name: train(objective, world, sets) for name, objective in methods(beta).items()}
            shown = paths if (beta, levels) == (BETAS[0], 5) else shown
            gains[levels] = {name: path.at(KL) for name, path in paths.items()}
            rows += over_dpo(f"beta {beta:g}, {levels} levels", gains[levels], heldout)
        sets = Sets(arms, stars(rewards_of(alike, arms) + noise, 5))
        copied = {name: train(objective, alike, sets).at(KL) for name, objective in methods(beta).items()}
        where = f"beta {beta:g}, {FAMILY} of {RESPONSES} alike"
        rows += over_dpo(where, copied, heldout)
        rows += [
            compared(f"{where}, {name}", COST, gains[5][name] - gain, n=heldout, matters=MATTERS)
            for name, gain in copied.items()
        ]
    rows = adjusted(rows)
    against = [row for row in rows if row.measure == GAIN]
    return Result.decided(
        rows,
        votes(rows),
        [plain(rows), finding(rows)],
        headline=claimed(rows),
        drawings=[
            Drawing(
                "effects",
                f"Gain over DPO at {KL:g} nats; the band would not matter.",
                forest(against, "gain over DPO, spreads of utility", matters=MATTERS),
            ),
            Drawing("frontier", f"Five levels, beta {BETAS[0]:g}: gain against KL.", frontier(shown, KL)),
        ],
        settings={"responses": RESPONSES, "kl": KL, "noise": NOISE, "contexts": contexts, "likeness": LIKENESS},
    )


GAIN, COST = "gain over dpo", "cost of likeness"


def over_dpo(where: str, gains: dict[str, Floats], heldout: int) -> list[Row]:
    """Each other contrast's gain over DPO's."""
    return [
        compared(f"{where}, {name}", GAIN, gain - gains["dpo"], n=heldout, matters=MATTERS)
        for name, gain in gains.items()
        if name != "dpo"
    ]


def claimed(rows: list[Row]) -> list[Row]:
    """Sets against best and worst, at every number of levels; families are no part of the claim."""
    return [row for row in rows if row.condition.endswith(" levels, mpo")]


def votes(rows: list[Row]) -> list[Verdict]:
    """What each row says that decides the claim."""
    return [row.supports() for row in claimed(rows)]


COPIES = {
    "better": "lower the gain of",
    "worse": "raise that of",
    "no different": "do not change that of",
    "open": "leave open what becomes of",
}
"""What a cost of likeness says, by the side on which it lies."""


def plain(rows: list[Row]) -> str:
    """Sets, all pairs, levels and rankings on stars, then what near copies cost, in words."""
    stars = [row for row in rows if row.measure == GAIN and row.condition.split(", ")[1].endswith(" levels")]
    names = list(dict.fromkeys(row.condition.split(", ")[2] for row in stars))
    others = "; ".join(
        f"{name} {sides([row for row in stars if row.condition.endswith(f', {name}')])}"
        for name in names
        if name != "mpo"
    )
    costs = [f"at beta {beta:g} {grouped(_costs(rows, beta), list(COPIES.values()))}" for beta in BETAS]
    return (
        f"That a contrast of two sets (mpo) beats best against worst is {voted(votes(rows))}; the other contrasts "
        f"against best and worst are: {others}; near copies among the responses {'; '.join(costs)}."
    )


def _costs(rows: list[Row], beta: float) -> dict[str, str]:
    """What near copies do to each contrast's gain."""
    cases = [row for row in rows if row.measure == COST and row.condition.startswith(f"beta {beta:g}, ")]
    return {row.condition.rsplit(", ", 1)[-1]: COPIES[side(row)] for row in cases}


def finding(rows: list[Row]) -> str:
    """The sets against best and worst, the best contrast at each number of levels, and what families cost."""
    against = [row for row in rows if row.measure == GAIN]
    told = [f"Gain over DPO on best and worst at {KL:g} nats, in spreads of utility."]
    for name in ("mpo", "all-pairs"):
        cases = [row for row in against if row.condition.endswith(f", {name}")]
        told.append(f"{name}: " + "; ".join(f"{row.condition.rsplit(', ', 1)[0]} {row.words()}" for row in cases) + ".")
    for beta in BETAS:
        here = [row for row in against if row.condition.startswith(f"beta {beta:g}, ") and "alike" not in row.condition]
        best = max(here, key=lambda row: row.effect)
        told.append(f"Best at beta {beta:g}: {best.condition.split(', ', 1)[1]} {best.words()}.")
    lost = [row for row in rows if row.measure == COST and row.condition.startswith(f"beta {BETAS[0]:g}")]
    told.append(
        f"When {FAMILY} of {RESPONSES} responses are near copies, at beta {BETAS[0]:g} methods lose: "
        + ", ".join(f"{row.condition.rsplit(', ', 1)[-1]} {row.told()}" for row in sorted(lost, key=_by_effect))
        + "."
    )
    return " ".join(told)


def _by_effect(row: Row) -> float:
    return -row.effect
