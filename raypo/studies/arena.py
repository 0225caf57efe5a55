"""A bandit in which many seeds train at once: contexts, arms with features, and a log-linear policy shared by contexts.

    pi_w(y | x) ~ pi_ref(y | x) exp(features(x, y) . w)

Contexts share w, so what is learned of one is used in others: noise in one context costs all, and weighing contexts can
matter, which a table of separate contexts would not show. True utility is features . w_true + noise that no feature
shows. Shapes: S seeds, N contexts, M arms, D features, K responses of a set, P points of a path. Seeds are independent:
their losses are added, and Adam is elementwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import torch
from torch import Tensor

from raypo.evaluation.frontier import Point, passed
from raypo.evaluation.significance import Floats
from raypo.objective import AnyObjective, set_loss

STEPS, RATE = 120, 0.05
POINTS = (1, 2, 3, 4, 6, 8, 11, 15, 20, 27, 36, 48, 64, 85, 120)
"""Steps after which the policy is measured."""


@dataclass(frozen=True)
class World:
    """Contexts and arms.

    Args:
        features: [S, N, M, D].
        utility: [S, N, M] true utility, about unit variance within a context.
        reference: [S, N, M] log-probs of the reference.
        train: the first so many contexts train, the others are held out.
    """

    features: Tensor
    utility: Tensor
    reference: Tensor
    train: int

    @property
    def seeds(self) -> int:
        """S."""
        return self.features.shape[0]

    @property
    def heldout(self) -> int:
        """Contexts that no policy trains on."""
        return self.features.shape[1] - self.train

    def logps(self, weights: Tensor) -> Tensor:
        """Log-probs of the policy with weights [S, D]: [S, N, M]."""
        return torch.log_softmax(self.reference + torch.einsum("snmd,sd->snm", self.features, weights), -1)


@dataclass(frozen=True)
class Sets:
    """What the policies are trained on: sets of the first contexts.

    Args:
        arms: [S, N, K] index of each response.
        rewards: [S, N, K] as the trainer sees them.
        psi: [S, N], or None.
    """

    arms: Tensor
    rewards: Tensor
    psi: Tensor | None = None


@dataclass(frozen=True)
class Path:
    """A policy of every seed along its training, measured on held-out contexts; float64.

    Args:
        kl: [P, S] nats to the reference, mean over contexts.
        gain: [P, S] expected true utility above the reference's, in units of its spread.
        accuracy: [P, S] share of pairs of arms that the implicit reward log pi / pi_ref orders as true utility does.
        weights: [S, D] at the end.
    """

    kl: Floats
    gain: Floats
    accuracy: Floats
    weights: Tensor

    def at(self, kl: float) -> Floats:
        """Gain of each seed where it last passed this KL, [S]; NaN for a seed whose policy did not end so far."""
        return self._at(self.gain, kl, start=0.0)

    def accuracy_at(self, kl: float) -> Floats:
        """Accuracy likewise; at the start no pair is ordered, which is as good as a coin."""
        return self._at(self.accuracy, kl, start=0.5)

    def _at(self, values: Floats, kl: float, *, start: float) -> Floats:
        found = []
        for seed in range(self.kl.shape[1]):
            path = [Point(float(k), np.array([v])) for k, v in zip(self.kl[:, seed], values[:, seed], strict=True)]
            reached = passed([Point(0.0, np.array([start])), *path], kl)
            found.append(float("nan") if reached is None else float(reached[0]))
        return np.array(found)


def seed_of(seed: int, part: str) -> int:
    """Seed of a part of a study, from 64 bits of SHA-256: parts of one seed, and of neighbouring seeds, share none.

    With `seed + 1` for a part, its draws would be those of another part in the study of the next seed.
    """
    return int.from_bytes(sha256(f"{seed} {part}".encode()).digest()[:8], "big")


def generator(seed: int, part: str = "") -> torch.Generator:
    """Of everything random in a study, or in a part of it that draws apart from the others."""
    return torch.Generator().manual_seed(seed_of(seed, part) if part else seed)


def make_world(
    rng: torch.Generator,
    *,
    seeds: int,
    contexts: int,
    heldout: int,
    arms: int = 24,
    features: int = 12,
    hidden: float = 0.3,
    neutral: int = 0,
) -> World:
    """Gaussian features, a random direction that is true, and a uniform reference.

    Args:
        rng: source of all draws.
        seeds: S.
        contexts: that train.
        heldout: that are measured on.
        arms: M.
        features: D.
        hidden: share of the utility's variance that no feature shows, in [0, 1).
        neutral: the first so many features have no part in the utility.
    """
    given = torch.randn(seeds, contexts + heldout, arms, features, generator=rng)
    true = torch.randn(seeds, features, generator=rng)
    true[:, :neutral] = 0
    true = true / true.norm(dim=-1, keepdim=True)
    noise = torch.randn(seeds, contexts + heldout, arms, generator=rng)
    utility = (1 - hidden) ** 0.5 * torch.einsum("snmd,sd->snm", given, true) + hidden**0.5 * noise
    return World(given, utility, torch.full_like(utility, -float(np.log(arms))), contexts)


def draw(logps: Tensor, responses: int, rng: torch.Generator) -> Tensor:
    """Different arms drawn one after another from a policy, by Gumbel's trick: [S, N, M] -> [S, N, K]."""
    uniform = torch.rand(logps.shape, generator=rng).clamp(1e-20, 1 - 1e-7)
    return (logps - (-uniform.log()).log()).topk(responses, dim=-1).indices


def train(
    objective: AnyObjective,
    world: World,
    sets: Sets,
    *,
    start: Tensor | None = None,
    against: Tensor | None = None,
    steps: int = STEPS,
    rate: float = RATE,
) -> Path:
    """Train one policy per seed on all its sets, and measure it along the way.

    Args:
        objective: minimized.
        world: its first contexts are those of the sets.
        sets: to train on.
        start: [S, D] weights to begin with; None: the world's reference.
        against: [S, D] weights of the loss's reference; None: the world's reference.
        steps: of Adam.
        rate: its learning rate.
    """
    count = sets.arms.shape[1]
    first = World(world.features[:, :count], world.utility[:, :count], world.reference[:, :count], count)
    zeros = torch.zeros(world.seeds, world.features.shape[-1])
    reference = _taken(first.logps(zeros if against is None else against), sets.arms)
    weights = (zeros if start is None else start).clone().requires_grad_(True)
    optimizer = torch.optim.Adam([weights], lr=rate)
    measured: list[tuple[Tensor, Tensor, Tensor]] = []
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss(objective, _taken(first.logps(weights), sets.arms), reference, sets).backward()
        optimizer.step()
        if step in POINTS or step == steps:
            measured.append(measure(world, weights.detach()))
    kl, gain, accuracy = (torch.stack(values).double().numpy() for values in zip(*measured, strict=True))
    return Path(kl, gain, accuracy, weights.detach())


def loss(objective: AnyObjective, policy: Tensor, reference: Tensor, sets: Sets) -> Tensor:
    """Mean over a seed's sets, added over seeds."""
    shape = (-1, policy.shape[-1])
    found = set_loss(
        objective,
        policy_logps=policy.reshape(shape),
        reference_logps=reference.reshape(shape),
        lengths=torch.ones_like(policy, dtype=torch.long).reshape(shape),
        rewards=sets.rewards.reshape(shape),
        mask=torch.ones_like(policy, dtype=torch.bool).reshape(shape),
        psi=None if sets.psi is None else sets.psi.reshape(-1),
    )
    return found.loss.view(policy.shape[:2]).mean(1).sum()


def measure(world: World, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """KL to the reference, gain in true utility and accuracy of each seed on held-out contexts: [S] each."""
    kept = slice(world.train, None)
    out = World(world.features[:, kept], world.utility[:, kept], world.reference[:, kept], train=0)
    logps = out.logps(weights)
    policy, reference = logps.exp(), out.reference.exp()
    kl = (policy * (logps - out.reference)).sum(-1).mean(-1)
    gain = ((policy - reference) * out.utility).sum(-1).mean(-1)
    one, other = torch.triu_indices(logps.shape[-1], logps.shape[-1], offset=1)
    implicit = logps - out.reference
    right = (implicit[..., one] - implicit[..., other]).sign() == (
        out.utility[..., one] - out.utility[..., other]
    ).sign()
    return kl, gain / out.utility.std(dim=(1, 2)), right.float().mean((1, 2))


def _taken(values: Tensor, arms: Tensor) -> Tensor:
    return values.gather(-1, arms)


def rewards_of(world: World, arms: Tensor) -> Tensor:
    """True utility of the responses, [S, N, K]."""
    return world.utility[:, : arms.shape[1]].gather(-1, arms)
