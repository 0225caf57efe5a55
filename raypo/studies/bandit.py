"""A bandit whose contexts differ in dispersion: has MallowsPO less regret than DPO, and what dispersion does it need?

Annotators rank arms by Mallows-theta, Mallows-phi or Bradley-Terry around the true order; each context has its own phi.
Policies are log-linear and share weights over contexts, are trained on one choice per context and measured on others.
Utility is the true rank, so gain is the regret that was removed; it is compared at one KL. The reference's entropy
follows phi in one world (the assumption of the published estimator) and is independent of it in the other.
"""

from __future__ import annotations

import re

import numpy as np
import torch
from torch import Tensor

from raypo import dispersion
from raypo.evaluation.significance import Floats
from raypo.evaluation.statistics import correlation
from raypo.objective import AnyObjective, preset
from raypo.studies.arena import Path, Sets, World, draw, generator, loss, make_world, train
from raypo.studies.drawings import forest, frontier
from raypo.studies.rankings import TRUTHS, draw_orders, psi_of_truth
from raypo.studies.result import Drawing, Result, Row, Setting, Verdict, adjusted, compared, measured
from raypo.studies.sentences import grouped, sides, sign, voted

ARMS, SHOWN, PANEL, MATTERS = 6, 4, 5, 0.02
"""Arms; those of them that are drawn from the reference; readers who score them; smallest gain that matters."""

COMPARED_AT = {0.1: 0.3, 1.0: 0.1}
"""Beta, and the KL in nats at which its policies are compared: at beta 1 they converge to little more."""

IPO_BETA = 0.1
"""IPO drives every gap to 1 / (2 beta): at beta 1 it would never go so far."""

IPO = f"ipo of beta {IPO_BETA:g}"
"""Its name in rows, which else begin with the beta of the others."""

LAMBDA = (0.01, 1.5)
"""-ln phi is uniform in its logarithm between these: phi from 0.99 to 0.22."""

SHARPNESS = (0.3, 2.5)
"""Spread of the reference's log-odds in the most and the least entropic context."""

LABELS, TABLE_STEPS, TABLE_RATE = 24, 80, 0.05
"""Of the policies without shared weights, on which reward collapse shows: choices per context, steps of Adam, rate."""


def methods(beta: float) -> dict[str, AnyObjective]:
    """What is compared, DPO first."""
    return {
        "dpo": preset("dpo", beta=beta, label_smoothing=0.0),
        IPO: preset("ipo", beta=IPO_BETA),
        "mallows-theta": preset("mallows-theta", beta=beta),
        "mallows-phi": preset("mallows-phi", beta=beta),
    }


ESTIMATES = ("true", "entropy", "likelihood", "reward spread", "constant", "shuffled")


def make(rng: torch.Generator, seeds: int, contexts: int, heldout: int, *, informed: bool) -> tuple[World, Tensor]:
    """Contexts with a dispersion each.

    Args:
        rng: of all draws.
        seeds: S.
        contexts: that train.
        heldout: that are measured on.
        informed: whether the reference's entropy follows dispersion.

    Returns:
        the world, whose utility is the true rank from 0 (worst) to 1, and lambda = -ln phi, [S, N].
    """
    plain = make_world(rng, seeds=seeds, contexts=contexts, heldout=heldout, arms=ARMS, hidden=0.0)
    low, high = (float(np.log(one)) for one in LAMBDA)
    place = torch.rand(plain.utility.shape[:2], generator=rng)  # 0: all readers differ, 1: all agree
    sharp = place if informed else torch.rand(place.shape, generator=rng)
    odds = (SHARPNESS[0] + (SHARPNESS[1] - SHARPNESS[0]) * sharp)[..., None] * torch.randn(
        plain.utility.shape, generator=rng
    )
    utility = plain.utility.argsort(-1).argsort(-1) / (ARMS - 1)
    world = World(plain.features, utility, torch.log_softmax(odds, -1), contexts)
    return world, (low + (high - low) * place).exp()


def ranks_of(world: World) -> Tensor:
    """True ranks of the arms of training contexts, 0 the best: [S, N, M]."""
    return ((1 - world.utility[:, : world.train]) * (ARMS - 1)).round().long()


def choices(world: World, lam: Tensor, truth: str, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """SHOWN arms drawn from the reference, and one annotator's scores of them: [S, N, SHOWN] each."""
    shown = draw(world.reference[:, : world.train], SHOWN, rng)
    return shown, -draw_orders(ranks_of(world), lam[:, : world.train], truth, rng).gather(-1, shown).float()


def psi_by(estimate: str, world: World, lam: Tensor, truth: str, shown: Tensor, rng: torch.Generator) -> Tensor:
    """Psi of every training context by an estimate, [S, N]: mean 1 in each seed, and the true one as it is."""
    lam = lam[:, : world.train]
    true = psi_of_truth(lam, truth)
    if estimate == "true":
        return true
    if estimate == "constant":
        return true.mean(1, keepdim=True).expand_as(true)
    if estimate == "shuffled":
        return torch.stack([one[torch.randperm(len(one), generator=rng)] for one in true])
    index = torch.stack([_index(estimate, world, seed, lam, truth, shown, rng) for seed in range(world.seeds)])
    scale = torch.stack([dispersion.fit_psi_scale(one, torch.ones_like(one, dtype=torch.bool)) for one in index])
    return dispersion.psi(index, scale[:, None])


def _index(
    estimate: str, world: World, seed: int, lam: Tensor, truth: str, shown: Tensor, rng: torch.Generator
) -> Tensor:
    reference = world.reference[seed, : world.train]
    mask, ones = torch.ones_like(shown[seed], dtype=torch.bool), torch.ones_like(shown[seed])
    if estimate == "entropy":
        entropy = -(reference.exp() * reference).sum(-1, keepdim=True).expand(shown[seed].shape)
        return dispersion.entropy_index(entropy, ones, mask, ARMS)
    if estimate == "likelihood":
        return dispersion.likelihood_index(reference.gather(-1, shown[seed]), ones, mask, ARMS)
    center = ranks_of(world)[seed : seed + 1]
    readers = [draw_orders(center, lam[seed : seed + 1], truth, rng)[0] for _ in range(PANEL)]
    return dispersion.reward_spread_index(-torch.stack(readers).float().mean(0).gather(-1, shown[seed]), mask)


def run(setting: Setting) -> Result:
    """Methods in every truth, with true dispersion; then the estimates; then collapse."""
    seeds, contexts, heldout = setting.size(32, 400), setting.size(96, 96), setting.size(64, 64)
    rows: list[Row] = []
    shown: dict[str, Path] = {}
    for beta, kl in COMPARED_AT.items():
        for truth in TRUTHS:
            for informed in (True, False):
                found = _world(setting, truth, informed, beta, (seeds, contexts, heldout))
                where = f"{truth}, reference {'informed' if informed else 'independent'}"
                rows += [
                    compared(
                        f"beta {beta:g}, {where}, {name}",
                        GAIN,
                        path.at(kl) - found["dpo"].at(kl),
                        n=heldout,
                        matters=MATTERS,
                    )
                    for name, path in found.items()
                    if name != "dpo"
                ]
                rows += [
                    measured(f"beta {beta:g}, {where}, {name}", ACCURACY, path.accuracy_at(kl), n=heldout)
                    for name, path in found.items()
                ]
                shown = shown or {
                    name: path for name, path in found.items() if " by " not in name or " by true" in name
                }
    rows = adjusted(rows) + collapse(setting, seeds)
    gains = [row for row in rows if row.measure == GAIN]
    return Result.decided(
        rows,
        votes(rows),
        [plain(rows), finding(rows)],
        headline=claimed(rows),
        drawings=[
            Drawing(
                f"beta-{beta:g}",
                f"Gain over DPO at {kl:g} nats, beta {beta:g}.",
                forest([row for row in gains if row.condition.startswith(f"beta {beta:g}, ")], LABEL, matters=MATTERS),
            )
            for beta, kl in COMPARED_AT.items()
        ]
        + [
            Drawing("frontier", f"{SHOWN_WORLD}: gain against KL.", frontier(shown, 0.3)),
            Drawing(
                "accuracy",
                f"{SHOWN_WORLD}: accuracy of the implicit reward on pairs of arms against KL; a coin's is 0.5.",
                frontier(shown, 0.3, "share of pairs ordered rightly", Path.accuracy_at),
            ),
        ],
        settings={"arms": ARMS, "contexts": contexts, "kl": COMPARED_AT, "panel": PANEL, "lambda": LAMBDA},
    )


SHOWN_WORLD = "Mallows-theta truth, true dispersion, beta 0.1"
GAIN, LABEL = "regret removed beyond dpo's", "regret removed beyond DPO's, spreads of utility"
ACCURACY, COLLAPSE = "accuracy on pairs of arms", "rank correlation of implicit spread and psi"
CLAIMED = ("mallows-theta by true", "mallows-phi by true", "mallows-theta by entropy")


def _world(setting: Setting, truth: str, informed: bool, beta: float, sizes: tuple[int, int, int]) -> dict[str, Path]:
    """Every method and estimate in one world; the same seeds for all."""
    rng = generator(setting.seed)
    world, lam = make(rng, *sizes, informed=informed)
    shown, scores = choices(world, lam, truth, rng)
    given, known = (shown[..., :2], scores[..., :2]), methods(beta)
    psis = {name: psi_by(name, world, lam, truth, shown, rng) for name in ESTIMATES}
    found = {name: train(known[name], world, Sets(*given)) for name in (("dpo", IPO) if informed else ("dpo",))}
    if informed:
        found["mallows-phi by true"] = train(known["mallows-phi"], world, Sets(*given, psis["true"]))
    # under Bradley-Terry the true dispersion is one number, and so are its mean and its permutations
    estimates = [name for name in ESTIMATES if truth != "bradley-terry" or name not in ("constant", "shuffled")]
    return found | {
        f"mallows-theta by {name}": train(known["mallows-theta"], world, Sets(*given, psis[name])) for name in estimates
    }


def collapse(setting: Setting, seeds: int) -> list[Row]:
    """Reward collapse: does the spread of a context's implicit rewards follow how far its readers agree?

    Policies without shared weights, LABELS choices per context, true dispersion. Rank correlation over contexts of
    psi with the standard deviation over arms of log pi / pi_ref; 0 is collapse: one spread of rewards for all contexts.
    """
    rng = generator(setting.seed, "collapse")
    contexts = 48
    world, lam = make(rng, seeds, contexts, 1, informed=False)
    psi = psi_of_truth(lam[:, :contexts], "theta")
    reference = torch.full((seeds, contexts, ARMS), -float(np.log(ARMS)))
    center = ranks_of(world)
    pairs = torch.stack([draw(reference, 2, rng) for _ in range(LABELS)], 2)  # [S, N, LABELS, 2]
    orders = torch.stack([draw_orders(center, lam[:, :contexts], "theta", rng) for _ in range(LABELS)], 2)
    scores = -orders.gather(-1, pairs).float()
    found = []
    for name, objective in methods(1.0).items():
        spread = _tabled(objective, reference, pairs, scores, psi)
        each = np.array([correlation(a, b) for a, b in zip(spread, psi.double().numpy(), strict=True)])
        found.append(measured(f"theta, table, {name}", COLLAPSE, each, n=contexts))
    return found


def _tabled(objective: AnyObjective, reference: Tensor, pairs: Tensor, scores: Tensor, psi: Tensor) -> Floats:
    """Spread over arms of the implicit rewards of every context, [S, N]."""
    seeds, contexts, labels, _ = pairs.shape
    table = torch.zeros_like(reference, requires_grad=True)
    optimizer = torch.optim.Adam([table], lr=TABLE_RATE)
    arms = pairs.flatten(2)
    wide = psi[..., None].expand(seeds, contexts, labels).flatten(1)
    sets = Sets(pairs.flatten(1, 2), scores.flatten(1, 2), wide)
    against = reference.gather(-1, arms).view(seeds, -1, 2)
    for _ in range(TABLE_STEPS):
        logps = torch.log_softmax(reference + table, -1).gather(-1, arms).view(seeds, -1, 2)
        optimizer.zero_grad()
        loss(objective, logps, against, sets).backward()
        optimizer.step()
    spread: Floats = table.detach().std(-1).double().numpy()
    return spread


def claimed(rows: list[Row]) -> list[Row]:
    """CLAIMED methods under the Mallows truths, where the reference's entropy follows dispersion."""
    gains = [row for row in rows if row.measure == GAIN and row.condition.split(", ")[-1] in CLAIMED]
    return [row for row in gains if not re.search("bradley|independent", row.condition)]


def votes(rows: list[Row]) -> list[Verdict]:
    """What each row says that decides the claim."""
    return [row.supports() for row in claimed(rows)]


def plain(rows: list[Row]) -> str:
    """The claim with either dispersion, the ablation, IPO, and reward collapse, in words."""
    decided = claimed(rows)
    gains = [row for row in rows if row.measure == GAIN and "bradley" not in row.condition]
    parts = [(one, gains, f"mallows-theta by {one}") for one in ESTIMATES if one != "entropy"]
    for known, told in (("informed", "that follows dispersion"), ("independent", "that does not")):
        cases = [row for row in gains if f"reference {known}" in row.condition]
        parts.append((f"the entropy of a reference {told}", cases, "mallows-theta by entropy"))
    ablation = ", ".join(f"by {name} {sides(_ending(cases, end))}" for name, cases, end in parts)
    spread = {row.condition.split(", ")[-1]: sign(row) for row in rows if row.measure == COLLAPSE}
    words = {"above": "wider under", "below": "narrower under", "unclear": "no wider as far as can be told under"}
    follows = {name: words[one] for name, one in spread.items()}
    return (
        "That MallowsPO has less regret than DPO is, with true dispersion, "
        f"{voted([row.supports() for row in decided if row.condition.endswith('by true')])}, and with the reference's "
        f"entropy {voted([row.supports() for row in decided if row.condition.endswith('by entropy')])}; of estimates "
        f"of dispersion under the Mallows truths, MallowsPO-theta against DPO is {ablation}; IPO against DPO is "
        f"{sides(_ending(gains, IPO))}; where readers agree implicit rewards spread "
        f"{grouped(follows, list(words.values()))} (alike everywhere would be reward collapse)."
    )


def _ending(rows: list[Row], method: str) -> list[Row]:
    return [row for row in rows if row.condition.endswith(f", {method}")]


def finding(rows: list[Row]) -> str:
    """Methods with true dispersion, the ablation of estimates, and collapse."""
    told = ["Regret removed beyond DPO's at the same KL, in spreads of utility."]
    for beta, kl in COMPARED_AT.items():
        here = [row for row in rows if row.condition.startswith(f"beta {beta:g}, ") and row.measure == GAIN]
        for truth in TRUTHS:
            for informed in ("informed", "independent"):
                cases = [row for row in here if f" {truth}, reference {informed}" in row.condition]
                each = "; ".join(f"{row.condition.split(', ')[-1]} {row.words()}" for row in cases)
                told.append(f"Beta {beta:g}, {kl:g} nats, {truth} truth, reference {informed}: {each}.")
    collapsed = ", ".join(f"{row.condition.split(', ')[-1]} {row.told(2)}" for row in rows if row.measure == COLLAPSE)
    known = f"beta {min(COMPARED_AT):g}, theta, reference informed, "
    right = [row for row in rows if row.measure == ACCURACY and row.condition.startswith(known)]
    if right:
        each = ", ".join(f"{row.condition.removeprefix(known)} {row.effect:.3f}" for row in right)
        told.append(f"Share of pairs of arms that the implicit reward orders rightly ({known.rstrip(', ')}): {each}.")
    told.append(f"Implicit rewards spread with agreement (rank correlation; 0 is collapse): {collapsed}.")
    return " ".join(told)
