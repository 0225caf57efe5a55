"""Over rounds: psi's scale and the reward scale frozen or fitted again, the reference kept or renewed, at equal KL.

Each round samples from the current policy, a panel of readers scores, dispersion is estimated from the panel's spread
(readers who agree give rewards that spread), and W-MPO with psi trains. As policies sharpen, responses become alike and
rewards spread less; a scale that is fitted again undoes that, a frozen one shows it. Psi has two scales, the spread
that counts as average and the factor that makes its mean 1: both are frozen, or both fitted again. Dispersions that are
known are tried as they are, and normalised to mean 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from raypo import dispersion
from raypo.objective import preset
from raypo.studies.arena import Path, Sets, World, draw, generator, make_world, train
from raypo.studies.drawings import forest, frontier
from raypo.studies.result import Drawing, Result, Row, Setting, Verdict, adjusted, compared
from raypo.studies.sentences import joined, sides, voted

RESPONSES, ALPHA, KL, MATTERS = 8, 1.0, 1.5, 0.02
BETAS = (0.1, 1.0)
"""At 0.1 the loss is nearly straight in the margin up to KL: a factor on psi, or another reference, can hardly act."""

ROUNDS, STEPS, RATE, READERS = 8, 20, 0.01, 16
PSI = (2.0, 0.2)
"""True psi of contexts where readers agree, and where they do not: those of the quickstart's language."""


@dataclass(frozen=True)
class Way:
    """How a run normalises.

    Args:
        psi: "frozen" or "refit" scales of the estimate; "known" as it is, "known-mean-1" divided by its mean.
        reward: "frozen" or "refit" scale.
        reference: "initial" or "previous".
    """

    psi: str = "frozen"
    reward: str = "frozen"
    reference: str = "initial"

    def __str__(self) -> str:
        return f"psi {self.psi}, reward scale {self.reward}, reference {self.reference}"


BASE = Way()
WAYS = (
    BASE,
    Way(psi="refit"),
    Way(reward="refit"),
    Way(reference="previous"),
    Way(psi="refit", reward="refit"),
    Way(psi="refit", reward="refit", reference="previous"),
    Way(psi="known"),
    Way(psi="known-mean-1"),
)


def panel(utility: Tensor, psi: Tensor, rng: torch.Generator) -> Tensor:
    """Share of READERS who like each response, sigma(psi utility) each: [S, N, K]."""
    chance = torch.sigmoid(psi[..., None] * 2 * utility)
    return torch.binomial(torch.full_like(chance, READERS), chance, generator=rng) / READERS


def scale_of_rewards(rewards: Tensor) -> Tensor:
    """Root mean variance within sets of each seed, [S, 1, 1]."""
    return rewards.var(-1, keepdim=True).mean(1, keepdim=True).sqrt()


def spread_of(rewards: Tensor) -> Tensor:
    """The spread that counts as average in each seed, [S]."""
    everyone = torch.ones_like(rewards[0], dtype=torch.bool)
    return torch.stack([dispersion.reward_spread_scale(one, everyone) for one in rewards])


def index_of(rewards: Tensor, spread: Tensor) -> Tensor:
    """The index by reward spread beside a spread [S] within each seed, [S, N]."""
    everyone = torch.ones_like(rewards[0], dtype=torch.bool)
    return torch.stack(
        [dispersion.reward_spread_index(one, everyone, own) for one, own in zip(rewards, spread, strict=True)]
    )


def scale_of_psi(index: Tensor) -> Tensor:
    """The scale that makes a seed's mean psi 1, [S, 1]."""
    trains = torch.ones_like(index[0], dtype=torch.bool)
    return torch.stack([dispersion.fit_psi_scale(one, trains) for one in index])[:, None]


def rounds(way: Way, world: World, true: Tensor, seed: int, beta: float) -> Path:
    """A run of every seed; the path is measured over all rounds.

    Args:
        way: how it normalises.
        world: contexts and arms.
        true: [S, N] psi of the training contexts.
        seed: of sampling and readers, the same for every way.
        beta: of the objective.
    """
    rng, count = generator(seed), world.train
    weights = torch.zeros(world.seeds, world.features.shape[-1])
    psi_scale = reward_scale = spread = None
    paths = []
    for _ in range(ROUNDS):
        arms = draw(world.logps(weights)[:, :count], RESPONSES, rng)
        rewards = panel(world.utility[:, :count].gather(-1, arms), true, rng)
        if reward_scale is None or way.reward == "refit":
            reward_scale = scale_of_rewards(rewards)
        if way.psi.startswith("known"):
            psi = true / (true.mean(1, keepdim=True) if way.psi == "known-mean-1" else 1.0)
        else:
            if spread is None or psi_scale is None or way.psi == "refit":
                spread = spread_of(rewards)
                psi_scale = scale_of_psi(index_of(rewards, spread))
            index = index_of(rewards, spread)
            psi = dispersion.psi(index, psi_scale)
        against = weights if way.reference == "previous" else None
        sets = Sets(arms, rewards / reward_scale, psi)
        objective = preset("mallows-mpo", beta=beta, alpha=ALPHA)
        path = train(objective, world, sets, start=weights, against=against, steps=STEPS, rate=RATE)
        weights = path.weights
        paths.append(path)
    kl, gain, accuracy = (
        np.concatenate(values) for values in zip(*((one.kl, one.gain, one.accuracy) for one in paths), strict=True)
    )
    return Path(kl, gain, accuracy, weights)


def run(setting: Setting) -> Result:
    """Every way against everything frozen, on the same seeds."""
    rng = generator(setting.seed)
    seeds, contexts, heldout = setting.size(40, 200), setting.size(48, 48), setting.size(64, 64)
    world = make_world(rng, seeds=seeds, contexts=contexts, heldout=heldout)
    agree = torch.rand(seeds, contexts, generator=rng) < 0.5
    true = torch.where(agree, torch.tensor(PSI[0]), torch.tensor(PSI[1]))
    rows: list[Row] = []
    shown: dict[float, dict[str, Path]] = {}
    for beta in BETAS:
        paths = shown[beta] = {str(way): rounds(way, world, true, setting.seed + 1, beta) for way in WAYS}
        base = paths[str(BASE)].at(KL)
        rows += [
            compared(f"beta {beta:g}, {name}", GAIN, path.at(KL) - base, n=heldout, matters=MATTERS)
            for name, path in paths.items()
            if name != str(BASE)
        ]
    rows = adjusted(rows)
    return Result.decided(
        rows,
        votes(rows),
        [plain(rows), finding(rows)],
        headline=claimed(rows),
        drawings=[
            Drawing("effects", f"Gain over all frozen at {KL:g} nats.", forest(rows, LABEL, matters=MATTERS)),
            *(
                Drawing(f"frontier-{beta:g}", f"Gain against KL over the rounds, beta {beta:g}.", frontier(paths, KL))
                for beta, paths in shown.items()
            ),
        ],
        settings={
            "responses": RESPONSES,
            "alpha": ALPHA,
            "kl": KL,
            "rounds": ROUNDS,
            "steps": STEPS,
            "readers": READERS,
            "contexts": contexts,
        },
    )


GAIN, LABEL = "gain over all frozen", "gain over all frozen, spreads of utility"


def claimed(rows: list[Row]) -> list[Row]:
    """Every way that is not all frozen; known dispersions are no part of the claim."""
    return [row for row in rows if "known" not in row.condition]


def votes(rows: list[Row]) -> list[Verdict]:
    """What each row says that decides the claim."""
    return [row.supports(-1) for row in claimed(rows)]


PARTS = {"psi": Way(psi="refit"), "the reward scale": Way(reward="refit"), "the reference": Way(reference="previous")}
"""The claim is three: of each part alone, the way that changes nothing else."""


def plain(rows: list[Row]) -> str:
    """Each of the three parts of the claim alone, then together, in words."""
    verdicts = {part: _votes_of(rows, way) for part, way in PARTS.items()}
    alone = "; ".join(f"{part} {voted(each)}" for part, each in verdicts.items())
    decides = [part for part, each in verdicts.items() if "holds" in each]
    says = (
        f"by itself a difference comes from {joined(decides)} alone" if decides else "none decides anything by itself"
    )
    both = Way(psi="refit", reward="refit")
    known = [row for row in rows if "known" in row.condition]
    return (
        f"That each part is better left as it is, part by part over the betas: {alone} ({says}); both scales at once "
        f"{voted(_votes_of(rows, both))}, with the reference as well "
        f"{voted(_votes_of(rows, replace(both, reference='previous')))}; dispersion that is known is "
        f"{sides(known)} against dispersion that is estimated."
    )


def _votes_of(rows: list[Row], way: Way) -> list[Verdict]:
    return [row.supports(-1) for row in rows if row.condition.endswith(str(way))]


def finding(rows: list[Row]) -> str:
    """Way by way; known dispersions are no part of the claim."""
    claimed = "; ".join(f"{row.condition} {row.words(-1)}" for row in rows if "known" not in row.condition)
    known = "; ".join(
        f"{', '.join(row.condition.split(', ')[:2])} {row.told()}" for row in rows if "known" in row.condition
    )
    return (
        f"Gain over everything frozen and the first reference at {KL:g} nats, in spreads of utility; the claim is that "
        f"each of these loses. {claimed}. Dispersion that is known instead of estimated: {known}."
    )
