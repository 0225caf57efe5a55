"""Does a prior that is learned together with the policy beat a fixed one? The question MI-DPO leaves open.

    loss = -log sigma(beta [log pi/zeta (y_w|x) - log pi/zeta (y_l|x)])

Arms are the same in every context, so that a prior over responses that does not see the context, zeta(y), has a
meaning. Priors: the reference (DPO); uniform (no reference); *joint*, zeta trained by the same gradient; *marginal*,
zeta = E_x pi(y|x) at each step, the best for a fixed policy; *moving*, a moving average
of the policy that sees the context, which is raypo's `learned-prior`. All start from the same policy, the reference,
which favours arms that are good, bad, or none; KL is to that start.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from raypo.objective import preset
from raypo.studies.arena import POINTS, RATE, STEPS, Path, Sets, World, draw, generator, loss, measure, rewards_of
from raypo.studies.drawings import forest, frontier
from raypo.studies.result import Drawing, Result, Row, Setting, Verdict, adjusted, compared
from raypo.studies.sentences import sides, voted

RESPONSES, KL, MATTERS, NOISE = 8, 0.5, 0.02, 0.5
BETAS = (0.1, 1.0)
"""At 0.1 the loss is nearly straight in the margin up to KL, and a prior, which shifts margins, can hardly act."""

ARMS, ATTRIBUTES = 12, 5
MIXING, EVERY = 0.6, 8
"""Of the moving prior: share of the policy in each update (TR-DPO's 0.6), and steps between updates."""

LEARNED = ("joint", "marginal", "moving")
PRIORS = ("reference", "uniform", *LEARNED)
STARTS = {"good": 1.0, "none": 0.0, "bad": -1.0}
"""What the reference knows of the arms: how it weighs their mean utility."""


def make(rng: torch.Generator, seeds: int, contexts: int, heldout: int, knows: float) -> World:
    """Contexts with ATTRIBUTES each, and a common set of arms; an arm's utility has a part of its own.

    Args:
        rng: of all draws.
        seeds: S.
        contexts: that train.
        heldout: that are measured on.
        knows: weight of an arm's own part in the reference's log-odds.
    """
    count = contexts + heldout
    attributes = torch.cat([torch.ones(seeds, count, 1), torch.randn(seeds, count, ATTRIBUTES, generator=rng)], -1)
    features = torch.einsum("sna,my->snmay", attributes, torch.eye(ARMS)).flatten(3)  # one block of weights per arm
    own = torch.randn(seeds, 1, ARMS, generator=rng)
    taste = torch.randn(seeds, ATTRIBUTES, ARMS, generator=rng) / ATTRIBUTES**0.5
    utility = (own + attributes[..., 1:] @ taste) / 2**0.5
    reference = torch.log_softmax(knows * own.expand(seeds, count, ARMS), -1)
    return World(features, utility, reference, contexts)


def trained(prior: str, world: World, sets: Sets, beta: float) -> Path:
    """A policy of every seed under one of PRIORS, measured as it trains."""
    count = sets.arms.shape[1]
    first = World(world.features[:, :count], world.utility[:, :count], world.reference[:, :count], count)
    weights = torch.zeros(world.seeds, world.features.shape[-1], requires_grad=True)
    moving = torch.zeros_like(weights)
    free = (
        first.reference.exp().mean(1).log().clone().requires_grad_(prior == "joint")
    )  # [S, M]: starts as the marginal
    optimizer = torch.optim.Adam([weights, *([free] if prior == "joint" else [])], lr=RATE)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for step in range(1, STEPS + 1):
        logps = first.logps(weights)
        zeta = ZETA[prior](first, logps, moving, free)
        # zeta's gradient must flow, and a reference's would not: the ratio is given as the policy's log-prob
        ratio = (logps - zeta).gather(-1, sets.arms)
        optimizer.zero_grad()
        loss(preset("all-pairs", beta=beta), ratio, torch.zeros_like(ratio), sets).backward()
        optimizer.step()
        if step % EVERY == 0:
            moving = MIXING * weights.detach() + (1 - MIXING) * moving
        if step in POINTS:
            found.append(measure(world, weights.detach()))
    kl, gain, accuracy = (torch.stack(values).double().numpy() for values in zip(*found, strict=True))
    return Path(kl, gain, accuracy, weights.detach())


ZETA: dict[str, Callable[[World, Tensor, Tensor, Tensor], Tensor]] = {
    "reference": lambda world, logps, moving, free: world.reference,
    "uniform": lambda world, logps, moving, free: torch.zeros_like(world.reference),
    "joint": lambda world, logps, moving, free: torch.log_softmax(free, -1)[:, None].expand_as(world.reference),
    "marginal": lambda world, logps, moving, free: logps.detach().exp().mean(1, keepdim=True).log().expand_as(logps),
    "moving": lambda world, logps, moving, free: world.logps(moving),
}


def run(setting: Setting) -> Result:
    """Every prior from every start, against the fixed reference on the same seeds."""
    seeds, contexts, heldout = setting.size(40, 200), setting.size(64, 64), setting.size(64, 64)
    rows: list[Row] = []
    shown: dict[str, Path] = {}
    for start, knows in STARTS.items():
        rng = generator(setting.seed)
        world = make(rng, seeds, contexts, heldout, knows)
        arms = draw(world.reference[:, :contexts], RESPONSES, rng)
        rewards = rewards_of(world, arms)
        sets = Sets(arms, rewards + NOISE * torch.randn(rewards.shape, generator=rng))
        for beta in BETAS:
            paths = {prior: trained(prior, world, sets, beta) for prior in PRIORS}
            shown = paths if (start, beta) == ("bad", BETAS[-1]) else shown
            fixed = paths["reference"].at(KL)
            rows += [
                compared(
                    f"beta {beta:g}, start {start}, {prior}", GAIN, path.at(KL) - fixed, n=heldout, matters=MATTERS
                )
                for prior, path in paths.items()
                if prior != "reference"
            ]
    rows = adjusted(rows)
    return Result.decided(
        rows,
        votes(rows),
        [plain(rows), finding(rows)],
        headline=claimed(rows),
        drawings=[
            Drawing("effects", f"Gain over the fixed prior at {KL:g} nats.", forest(rows, LABEL, matters=MATTERS)),
            Drawing(
                "frontier",
                f"From a reference that favours bad arms, beta {BETAS[-1]:g}: gain against KL.",
                frontier(shown, KL),
            ),
        ],
        settings={"responses": RESPONSES, "kl": KL, "noise": NOISE, "arms": ARMS, "contexts": contexts},
    )


GAIN, LABEL = "gain over a fixed prior", "gain over a fixed prior, spreads of utility"


def claimed(rows: list[Row]) -> list[Row]:
    """Every prior that is learned, from every start; a uniform one is not."""
    return [row for row in rows if row.condition.endswith(tuple(f", {one}" for one in LEARNED))]


def votes(rows: list[Row]) -> list[Verdict]:
    """What each row says that decides the claim."""
    return [row.supports() for row in claimed(rows)]


def plain(rows: list[Row]) -> str:
    """Prior by prior, in words."""
    each = {prior: [row for row in rows if row.condition.endswith(f", {prior}")] for prior in PRIORS[1:]}
    learned = "; ".join(f"{one} {voted([row.supports() for row in each[one]])}" for one in LEARNED)
    return (
        f"That a prior which is learned beats the fixed reference is, prior by prior: {learned} starts and betas; a "
        f"uniform one against the reference is {sides(each['uniform'])}."
    )


def finding(rows: list[Row]) -> str:
    """Prior by prior."""
    told = [f"Gain over the reference as a fixed prior, at {KL:g} nats, in spreads of utility, all pairs."]
    for prior in PRIORS[1:]:
        cases = [row for row in rows if row.condition.endswith(f", {prior}")]
        each = "; ".join(f"{row.condition.rsplit(', ', 1)[0]} {row.words()}" for row in cases)
        told.append(f"{prior}: {each}.")
    return " ".join(told)
