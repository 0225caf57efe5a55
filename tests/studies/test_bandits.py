"""The bandit's ground truth: rankings against enumeration, the policy's measure against arithmetic, psi by estimate."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch

from raypo import dispersion
from raypo.dispersion.mallows import kendall, spearman
from raypo.objective import preset
from raypo.studies import bandit
from raypo.studies.arena import (
    Path,
    Sets,
    World,
    draw,
    generator,
    make_world,
    measure,
    rewards_of,
    seed_of,
    train,
)
from raypo.studies.drawings import frontier
from raypo.studies.rankings import BT_LOG_ODDS, draw_orders, psi_of_truth
from raypo.studies.result import Row, compared, overall

DRAWS = 20_000


@pytest.mark.parametrize(("truth", "distance"), [("theta", spearman), ("phi", kendall)])
def test_rankings_are_drawn_with_the_mallows_probabilities(truth: str, distance: object) -> None:
    """All six rankings of three arms around (2, 0, 1): phi^d / Z with phi = e^-0.4. Four standard errors: 0.014."""
    center, lam = torch.tensor([2, 0, 1]), 0.4
    drawn = draw_orders(center.expand(1, DRAWS, 3), torch.full((1, DRAWS), lam), truth, generator(0))[0]
    everyone = torch.tensor(list(permutations(range(3))))
    weights = torch.exp(-lam * distance(everyone, center).float())  # type: ignore[operator]
    share = torch.stack([(drawn == one).all(-1).float().mean() for one in everyone])
    assert share.tolist() == pytest.approx((weights / weights.sum()).tolist(), abs=0.014)


def test_parts_of_neighbouring_seeds_share_no_stream() -> None:
    """With seed + n they would: 3 + 2 = 2 + 3. A part's draws are those of its seed, again and again."""
    said = [
        torch.rand(4, generator=generator(*one)).tolist() for one in ((2, "3"), (3, "2"), (5, ""), (2, ""), (2, "3"))
    ]
    assert said[0] == said[-1]
    assert len({tuple(one) for one in said}) == 4
    # the first 8 bytes of SHA-256 of "0 collapse"
    assert seed_of(0, "collapse") == 0x79C9B71BF68A428E


def test_bradley_terry_prefers_by_the_difference_of_ranks() -> None:
    """Ranks 0, 1, 2: arm 0 before arm 2 with probability sigma(2 * 0.5) = 0.731, before 1 with sigma(0.5) = 0.622."""
    drawn = draw_orders(torch.arange(3).expand(1, DRAWS, 3), torch.ones(1, DRAWS), "bradley-terry", generator(0))[0]
    for other, gap in ((1, 1), (2, 2)):
        share = float((drawn[:, 0] < drawn[:, other]).float().mean())
        assert share == pytest.approx(1 / (1 + math.exp(-BT_LOG_ODDS * gap)), abs=0.014)


@pytest.mark.parametrize("truth", ["theta", "phi"])
def test_true_psi_is_that_of_the_mallows_model(truth: str) -> None:
    lam = torch.tensor([[0.01, 0.5, 1.5]], dtype=torch.float64)
    expected = dispersion.psi_of(torch.exp(-lam), model=truth)
    assert psi_of_truth(lam, truth).tolist() == [pytest.approx(expected[0].tolist())]


def test_arms_are_drawn_without_repeats_and_with_their_probabilities() -> None:
    """First of two out of (0.6, 0.3, 0.1); the second by its share of what is left: 0.3 / 0.4."""
    logps = torch.tensor([0.6, 0.3, 0.1]).log().expand(1, DRAWS, 3)
    drawn = draw(logps, 2, generator(0))[0]
    assert bool((drawn[:, 0] != drawn[:, 1]).all())
    first = torch.bincount(drawn[:, 0], minlength=3) / DRAWS
    assert first.tolist() == pytest.approx([0.6, 0.3, 0.1], abs=0.014)
    after = drawn[drawn[:, 0] == 0, 1]
    assert float((after == 1).float().mean()) == pytest.approx(0.75, abs=0.016)


def world_of_two() -> World:
    """One held-out context, two arms, one feature: 1 and 0. Utilities 1 and 0, a uniform reference."""
    features = torch.tensor([[[[1.0], [0.0]]]])
    return World(features, torch.tensor([[[1.0, 0.0]]]), torch.full((1, 1, 2), -math.log(2)), train=0)


def test_kl_and_gain_of_two_arms() -> None:
    """Weight ln 3: pi = (3/4, 1/4). KL = 3/4 ln 3/2 + 1/4 ln 1/2 = 0.13081; gain 1/4 over a spread of sqrt(1/2)."""
    kl, gain, right = measure(world_of_two(), torch.tensor([[math.log(3)]]))
    assert (float(right), float(measure(world_of_two(), torch.tensor([[-1.0]]))[2])) == (1.0, 0.0)  # one pair
    assert float(kl) == pytest.approx(0.13081, abs=1e-5)
    assert float(gain) == pytest.approx(0.25 / math.sqrt(0.5), abs=1e-6)


def test_adam_begins_with_its_rate_towards_the_better_arm() -> None:
    """One context to train, one to measure; the better arm has the feature: the first step is +0.05, or -0.05."""
    one = world_of_two()
    two = World(one.features.repeat(1, 2, 1, 1), one.utility.repeat(1, 2, 1), one.reference.repeat(1, 2, 1), train=1)
    objective = preset("dpo", beta=0.1, label_smoothing=0.0)
    for rewards, expected in (([2.0, 1.0], 0.05), ([1.0, 2.0], -0.05)):
        path = train(objective, two, Sets(torch.tensor([[[0, 1]]]), torch.tensor([[rewards]])), steps=1)
        assert path.weights.item() == pytest.approx(expected, abs=1e-5)


def test_gain_at_a_kl_is_straight_in_its_root() -> None:
    """Points (KL, gain) = (1/4, 1), (1, 2): at 9/16 half way between roots 1/2 and 1; at 1/16 half of the first."""
    path = Path(np.array([[0.25], [1.0]]), np.array([[1.0], [2.0]]), np.array([[0.6], [0.8]]), torch.zeros(1, 1))
    assert [float(path.at(kl)[0]) for kl in (0.0625, 0.25, 0.5625, 1.0)] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert np.isnan(path.at(1.1)[0])
    assert [float(path.accuracy_at(kl)[0]) for kl in (0.0625, 0.5625)] == pytest.approx([0.55, 0.7])  # from 1/2 on


def test_a_gain_that_training_left_again_is_not_read() -> None:
    """KL 0, 4, 1, 9 with gains 0, 9, 2, 6 passes 9/4 at last between 1 and 9: roots 1, 3/2, 3, so 2 + 4 / 4 = 3.

    A second seed, 0, 4, 1, 1, did not end at 9/4.
    """
    kl, gain = np.array([[4.0, 4.0], [1.0, 1.0], [9.0, 1.0]]), np.array([[9.0, 9.0], [2.0, 2.0], [6.0, 2.0]])
    path = Path(kl, gain, gain, torch.zeros(2, 1))
    assert path.at(2.25).tolist() == pytest.approx([3.0, float("nan")], nan_ok=True)


def test_a_path_is_drawn_by_its_gain_or_by_its_accuracy() -> None:
    """From KL 0 to 1, twice the KL compared at: gain 0 to 2, accuracy from a coin's 0.5 to 0.8; compared at 0.5."""
    path = Path(np.array([[0.25], [1.0]]), np.array([[1.0], [2.0]]), np.array([[0.6], [0.8]]), torch.zeros(1, 1))
    ends = []
    for more in ({}, {"value": Path.accuracy_at}):
        ax = frontier({"a": path}, 0.5, "seen", **more).axes[0]
        ends.append([float(ax.lines[0].get_ydata()[at]) for at in (0, -1)])
        assert (list(ax.lines[1].get_xdata()), ax.get_ylabel()) == ([0.5, 0.5], "seen")
    assert ends == [[0.0, 2.0], [0.5, 0.8]]


def test_true_rewards_beat_turned_ones_and_not_the_other_way() -> None:
    """The whole chain on a claim whose answer is known; the same seed gives the same path."""
    rng = generator(3)
    world = make_world(rng, seeds=6, contexts=24, heldout=24)
    arms = draw(world.reference[:, :24], 8, rng)
    objective, rewards = preset("mpo", beta=0.1), rewards_of(world, arms)
    right, again, wrong = (train(objective, world, Sets(arms, one)) for one in (rewards, rewards, -rewards))
    assert (right.kl == again.kl).all()
    assert (right.gain == again.gain).all()
    assert wrong.accuracy[-1].max() < 0.5 < right.accuracy[-1].min()
    better = right.at(0.5) - wrong.at(0.5)
    assert compared("a", "b", better, n=24, matters=0.02).supports() == "holds"
    assert compared("a", "b", -better, n=24, matters=0.02).supports() == "fails"


def small() -> tuple[World, torch.Tensor, torch.Tensor]:
    """A bandit of two seeds and 32 contexts, its dispersions, and the arms shown."""
    rng = generator(0)
    world, lam = bandit.make(rng, 2, 32, 8, informed=True)
    shown, _ = bandit.choices(world, lam, "theta", rng)
    return world, lam, shown


def test_an_annotator_without_dispersion_ranks_by_utility() -> None:
    world, lam, _ = small()
    shown, scores = bandit.choices(world, torch.full_like(lam, 50.0), "theta", generator(1))
    utility = rewards_of(world, shown)
    assert bool((scores.argsort(-1) == utility.argsort(-1)).all())


def test_an_informed_reference_is_more_certain_where_readers_agree() -> None:
    world, lam, _ = small()
    entropy = -(world.reference.exp() * world.reference).sum(-1)
    agree = lam > lam.median()
    assert float(entropy[agree].mean()) < float(entropy[~agree].mean()) - 0.2


@pytest.mark.parametrize("estimate", bandit.ESTIMATES)
def test_psi_of_every_estimate(estimate: str) -> None:
    """The true one as it is, 2 lambda; one number, and a permutation, have its mean; estimates have mean 1."""
    world, lam, shown = small()
    true = 2 * lam[:, :32]
    psi = bandit.psi_by(estimate, world, lam, "theta", shown, generator(1))
    assert psi.shape == (2, 32)
    if estimate in ("true", "shuffled"):
        same = psi.sort(-1).values if estimate == "shuffled" else psi
        assert torch.equal(same, true.sort(-1).values if estimate == "shuffled" else true)
        assert torch.equal(psi, true) == (estimate == "true")
    elif estimate == "constant":
        assert float(psi.std(-1).max()) == pytest.approx(0, abs=1e-6)
        assert psi.mean(-1).tolist() == pytest.approx(true.mean(-1).tolist())
    else:
        assert psi.mean(-1).tolist() == pytest.approx([1.0, 1.0], abs=1e-4)
        assert float(psi.min()) > 0


def rows_of_bandit(effect: float) -> list[Row]:
    """A row of each method in each world, all with one effect, sure to 0.01."""
    return [
        Row(
            f"beta 0.1, {truth}, reference {known}, {method}",
            bandit.GAIN,
            8,
            40,
            effect,
            effect - 0.01,
            effect + 0.01,
            p=0.001,
            matters=0.02,
        )
        for truth in ("theta", "phi", "bradley-terry")
        for known in ("informed", "independent")
        for method in (bandit.IPO, *bandit.CLAIMED, "mallows-theta by shuffled")
    ]


def test_the_claim_of_the_bandit_is_about_mallows_truths_and_an_informed_reference() -> None:
    assert overall(bandit.votes(rows_of_bandit(0.05))) == "holds"
    assert overall(bandit.votes(rows_of_bandit(-0.05))) == "fails"
    outside = [
        row
        if "informed" in row.condition and "bradley" not in row.condition and "shuffled" not in row.condition
        else rows_of_bandit(-0.05)[place]
        for place, row in enumerate(rows_of_bandit(0.05))
    ]
    assert overall(bandit.votes(outside)) == "holds"
    told = bandit.finding(rows_of_bandit(0.05))
    assert (
        "Beta 0.1, 0.3 nats, theta truth, reference informed: ipo of beta 0.1 +0.050 [+0.040, +0.060], confirmed;"
        in told
    )
    assert "confirmed" not in bandit.finding(rows_of_bandit(-0.05))
