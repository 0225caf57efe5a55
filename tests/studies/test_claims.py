"""What weights, calibration, contrast, prior and normalisation stand on: cases in which the answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from raypo.studies import calibration, contrast, normalisation, prior, weights
from raypo.studies.arena import Sets, World, draw, generator, make_world, rewards_of, train
from raypo.studies.normalisation import BASE, Way
from raypo.studies.result import Row, compared, overall

SEEDS, CONTEXTS, HELDOUT = 6, 16, 16  # of fewer than six seeds the paired test finds nothing


def small(responses: int = 8, **changes: int) -> tuple[World, torch.Tensor]:
    """A world of a few seeds and contexts, and arms drawn from its reference."""
    rng = generator(0)
    world = make_world(rng, seeds=SEEDS, contexts=CONTEXTS, heldout=HELDOUT, **changes)
    return world, draw(world.reference[:, :CONTEXTS], responses, rng)


def row(condition: str, measure: str, effect: float, matters: float = 0.02) -> Row:
    """A sure effect of 40 seeds."""
    return Row(condition, measure, 8, 40, effect, effect - 0.01, effect + 0.01, p=0.001, matters=matters)


# weights


@pytest.mark.parametrize("shape", [*weights.SHAPES, "outliers"])
def test_a_shape_has_unit_spread_within_sets_and_keeps_the_order(shape: str) -> None:
    noisy = torch.randn(2, 200, 8, generator=generator(1))
    found = weights.shaped(shape, noisy, generator(2))
    assert float(found.var(-1).mean()) == pytest.approx(1.0, abs=1e-4)
    kept = (found.argsort(-1) == noisy.argsort(-1)).all(-1).float().mean()
    assert float(kept) == 1.0 if shape != "outliers" else 0.4 < float(kept) < 0.9  # 0.95^8 = 0.66 have no outlier


def test_shapes_are_what_they_are_called() -> None:
    """exp(z) of a normal z is skewed by (e + 2) sqrt(e - 1) = 6.2 in theory; ranks lie in [0, 1] and are even."""
    z = torch.randn(100_000, generator=generator(0))
    assert abs(float(((z - z.mean()) ** 3).mean())) < 0.05
    lognormal = weights.skewed(z)
    assert float((((lognormal - lognormal.mean()) / lognormal.std()) ** 3).mean()) > 3
    assert float((weights.bimodal(z).abs() > 0.7).float().mean()) > 0.8
    ranks = weights.uniform(z)
    assert torch.histc(ranks, 10, 0, 1).tolist() == pytest.approx([10_000] * 10, rel=0.05)


def test_weights_change_nothing_where_all_rewards_are_equally_far_from_the_mean() -> None:
    """Rewards 1, 1, -1, -1: e^(alpha |r - mean|) is one factor of numerator and denominator. W-MPO is MPO: no gain."""
    world, arms = small(4)
    rewards = torch.where(rewards_of(world, arms).argsort(-1).argsort(-1) > 1, 1.0, -1.0)
    plain, weighed = (
        train(weights.preset(name, beta=0.1, **more), world, Sets(arms, rewards))
        for name, more in (("mpo", {}), ("w-mpo", {"alpha": 1.0, "power": 1.0}))
    )
    assert weighed.gain == pytest.approx(plain.gain, abs=1e-4)
    found = compared("a", "b", weighed.at(0.5) - plain.at(0.5), n=HELDOUT, matters=weights.MATTERS)
    assert found.supports() == "fails"


def test_the_claim_on_weights_is_about_absolute_deviations_at_alpha_1() -> None:
    def rows(claimed: float, other: float) -> list[Row]:
        return [
            row(
                f"beta {beta:g}, {shape}, {kind}, power {power}, alpha {alpha:g}",
                "gain over mpo",
                claimed if (kind, power, alpha) == ("abs", 1, 1.0) else other,
            )
            for beta in weights.BETAS
            for shape in (*weights.SHAPES, "outliers")
            for kind, power, alpha in weights.WEIGHTS
        ]

    assert overall(weights.votes(rows(0.05, -0.05))) == "holds"
    assert overall(weights.votes(rows(-0.05, 0.05))) == "fails"
    told = weights.finding(rows(0.05, -0.05))
    assert "Beta 0.1, abs deviations: symmetric +0.050 [+0.040, +0.060], confirmed;" in told
    assert "Beta 0.1, signed deviations: symmetric -0.050 [-0.060, -0.040], the opposite;" in told


# calibration


def test_distortions_are_what_they_say() -> None:
    r = torch.tensor([[[0.0, 1.0, -1.0]]])
    length, rng = torch.tensor([[[2.0, 0.0, 1.0]]]), generator(0)
    assert calibration.monotone(r, length, 1.0, rng).flatten().tolist() == pytest.approx(
        [0, math.e - 1, 1 / math.e - 1]
    )
    assert calibration.long(r, length, 0.5, rng).flatten().tolist() == [1.0, 1.0, -0.5]
    assert calibration.noise(r, length, 0.0, rng).tolist() == r.tolist()
    assert calibration.mislabelled(r, length, 1.0, rng).tolist() == (-r).tolist()
    many = calibration.mislabelled(torch.ones(1, 20_000, 2), torch.ones(1), 0.3, rng)
    assert bool((many[..., 0] == many[..., 1]).all())  # a whole set is turned
    assert float((many[..., 0] < 0).float().mean()) == pytest.approx(0.3, abs=0.014)


def test_the_adversary_turns_the_sets_with_the_largest_gaps() -> None:
    """Gaps 1, 4, 2, 3 of four sets: at 0.3 one of them (1.2 rounded), at 0.5 two. The order within sets is kept."""
    r, rng = torch.tensor([[[0.0, 1.0], [-2.0, 2.0], [1.0, -1.0], [0.0, 3.0]]]), generator(0)
    none = torch.zeros(1)
    assert calibration.adversarial(r, none, 0.0, rng).tolist() == r.tolist()
    assert calibration.adversarial(r, none, 0.3, rng)[0].tolist() == [[0.0, 1.0], [2.0, -2.0], [1.0, -1.0], [0.0, 3.0]]
    half = calibration.adversarial(r, none, 0.5, rng)[0]
    assert half.tolist() == [[0.0, 1.0], [2.0, -2.0], [1.0, -1.0], [0.0, -3.0]]


def test_an_adversary_costs_more_than_chance() -> None:
    """Three sets in ten turned: those whose responses lie farthest apart teach most, and then the wrong."""
    world, arms = small(neutral=1)
    true, length = rewards_of(world, arms), calibration.lengths_of(world, arms)
    chance, chosen = (
        calibration.gains(world, arms, distort(true, length, 0.3, generator(0)))
        for distort in (calibration.mislabelled, calibration.adversarial)
    )
    assert all(chosen[name].mean() < chance[name].mean() for name in calibration.METHODS)


def test_a_monotone_distortion_leaves_dpo_as_it_is_and_turned_labels_take_all_from_everyone() -> None:
    """DPO reads the best and the worst: exp(s r) has the same. Rewards turned around lose more than all of the gain."""
    world, arms = small(neutral=1)
    true, length = rewards_of(world, arms), calibration.lengths_of(world, arms)
    whole = calibration.gains(world, arms, true)
    same = calibration.gains(world, arms, calibration.monotone(true, length, 1.0, generator(0)))
    assert same["dpo"].tolist() == whole["dpo"].tolist()
    turned = calibration.gains(world, arms, -true)
    assert all(turned[name].mean() < 0 < whole[name].mean() for name in calibration.METHODS)


def test_length_is_the_feature_without_a_part_in_utility() -> None:
    """Correlation over 4 x 32 x 24 = 3,072 arms: four standard errors are 0.072."""
    world, _ = small(neutral=1)
    pairs = np.corrcoef(world.features[..., 0].flatten().numpy(), world.utility.flatten().numpy())
    assert abs(pairs[0, 1]) < 0.072


def test_the_check_doubts_turned_rewards_and_not_true_ones() -> None:
    world, arms = small(neutral=1)
    true, length = rewards_of(world, arms), calibration.lengths_of(world, arms)
    assert calibration.alarms(-true, true, length, generator(0)).tolist() == [1.0] * SEEDS
    assert calibration.alarms(true + 4 * length, true, length, generator(0)).tolist() == [1.0] * SEEDS


def test_a_retained_share_holds_what_is_uncertain_of_the_whole() -> None:
    """Gains 1, 3 of wholes 2, 6: each seed kept half, so 2 / 4 = 1/2 is sure. Of wholes 4, 4: 1/4 and 3/4 apart.

    Seed one: 1/4 - (2/16)(2 - 4) = 1/2; seed two: 3/4 - (2/16)(6 - 4) = 1/2.
    """
    assert calibration.retained(np.array([1.0, 3.0]), np.array([2.0, 6.0])).tolist() == [0.5, 0.5]
    assert calibration.retained(np.array([1.0, 3.0]), np.array([4.0, 4.0])).tolist() == [0.25, 0.75]
    lost = calibration.retained(np.array([1.0, np.nan, 3.0]), np.array([2.0, 9.0, 6.0]))
    assert np.isnan(lost).tolist() == [False, True, False]


def test_where_half_is_lost() -> None:
    kept = {"noise": {"mpo": [np.array([0.9, 0.7]), np.array([0.6, 0.6]), np.array([0.4, 0.5]), np.array([0.1, 0.1])]}}
    assert calibration.breaking(kept, "noise", "mpo") == "at 2"
    assert calibration.breaking({"noise": {"mpo": [np.array([0.5])] * 4}}, "noise", "mpo") == "never"


def test_the_claim_on_calibration_is_that_w_mpo_retains_less() -> None:
    def rows(effect: float) -> list[Row]:
        each = [
            row(name, f"retained by w-mpo less {other}", effect, 0.05)
            for name in calibration.DISTORTIONS
            for other in ("mpo", "dpo")
        ]
        return [row("true rewards", "sets of rewards that are doubted", 0.0, math.nan), *each]

    assert overall(calibration.votes(rows(-0.2))) == "holds"
    assert overall(calibration.votes(rows(0.2))) == "fails"


# contrast


def test_stars_are_quantiles() -> None:
    assert contrast.stars(torch.tensor([[[3.0, 1.0], [2.0, 0.0]]]), 4).tolist() == [[[3.0, 1.0], [2.0, 0.0]]]
    assert contrast.stars(torch.tensor([[[3.0, 1.0], [2.0, 0.0]]]), 2).tolist() == [[[1.0, 0.0], [1.0, 0.0]]]


def test_of_two_responses_every_contrast_is_a_pair() -> None:
    """Sets of one against one: no contrast gains over DPO, by construction, and the claim fails."""
    world, arms = small(2)
    sets = Sets(arms, rewards_of(world, arms))
    paths = {name: train(one, world, sets) for name, one in contrast.methods(0.1).items() if name != "mpo-levels"}
    for name, path in paths.items():
        assert path.gain == pytest.approx(paths["dpo"].gain, abs=1e-4), name
    gains = {name: path.at(0.2) for name, path in paths.items()}
    found = {one.condition: one for one in contrast.over_dpo("beta 0.1, 2 levels", gains, HELDOUT)}
    assert found["beta 0.1, 2 levels, mpo"].supports() == "fails"
    assert overall(contrast.votes(list(found.values()))) == "fails"


def test_a_family_is_alike_and_the_others_are_untouched() -> None:
    """Correlation of a copy's features with its original's is 0.95; features outside of the family are the same."""
    world, arms = small()
    alike = contrast.families(world, arms, 0.95)
    index = arms[..., None].expand(*arms.shape, world.features.shape[-1])
    before, after = (one.features[:, :CONTEXTS].gather(2, index) for one in (world, alike))
    assert torch.equal(after[:, :, 0], before[:, :, 0])
    assert torch.equal(after[:, :, contrast.FAMILY :], before[:, :, contrast.FAMILY :])
    copies = np.corrcoef(after[:, :, 0].flatten().numpy(), after[:, :, 1].flatten().numpy())
    assert copies[0, 1] == pytest.approx(0.95, abs=0.02)
    assert torch.equal(alike.features[:, CONTEXTS:], world.features[:, CONTEXTS:])


def test_copies_have_the_utility_of_their_features() -> None:
    """Where features show all of utility they still do: least squares leave nothing, and its variance stays 1."""
    rng = generator(0)
    world = make_world(rng, seeds=1, contexts=64, heldout=1, hidden=0.0)
    arms = draw(world.reference[:, :64], 8, rng)
    alike = contrast.families(world, arms, 0.95)
    x, y = alike.features.flatten(0, 2).double(), alike.utility.flatten()[:, None].double()
    left = y - x @ torch.linalg.lstsq(x, y).solution
    assert float(left.abs().max()) < 1e-5
    copies = rewards_of(alike, arms)[..., 1 : contrast.FAMILY]
    assert float(copies.var()) == pytest.approx(1.0, abs=0.25)  # 64 families: an error of sqrt(2 / 64) = 0.18 at most


def test_the_claim_on_contrasts_is_about_sets_without_families() -> None:
    rows = [
        row(f"beta {beta:g}, {levels} levels, mpo", contrast.GAIN, 0.05)
        for beta in contrast.BETAS
        for levels in contrast.LEVELS
    ]
    other = [
        row("beta 0.1, 4 of 8 alike, mpo", contrast.GAIN, -0.05),
        row("beta 0.1, 2 levels, all-pairs", contrast.GAIN, -0.05),
    ]
    assert overall(contrast.votes(rows + other)) == "holds"
    assert overall(contrast.votes([row("beta 0.1, 2 levels, mpo", contrast.GAIN, -0.05), *rows[1:]])) == "mixed"


# prior


def test_a_uniform_prior_is_the_reference_where_the_reference_is_uniform() -> None:
    """No effect by construction: a claim that it gains fails. Where the reference favours bad arms they differ."""
    for knows, same in ((0.0, True), (-1.0, False)):
        rng = generator(0)
        world = prior.make(rng, SEEDS, CONTEXTS, HELDOUT, knows)
        arms = draw(world.reference[:, :CONTEXTS], 8, rng)
        sets = Sets(arms, rewards_of(world, arms))
        fixed, uniform = (prior.trained(one, world, sets, 0.1) for one in ("reference", "uniform"))
        assert bool(np.allclose(fixed.gain, uniform.gain, atol=1e-4)) == same
        if same:
            found = compared("a", "b", uniform.at(0.3) - fixed.at(0.3), n=HELDOUT, matters=prior.MATTERS)
            assert found.supports() == "fails"


def test_the_marginal_prior_is_the_mean_of_the_policies() -> None:
    """Two contexts with (3/4, 1/4) and (1/4, 3/4): (1/2, 1/2) in both."""
    logps = torch.tensor([[[0.75, 0.25], [0.25, 0.75]]]).log()
    world = World(torch.zeros(1, 2, 2, 1), torch.zeros(1, 2, 2), logps, 2)
    zeta = prior.ZETA["marginal"](world, logps, torch.zeros(1, 1), torch.zeros(1, 2))
    assert zeta.exp().flatten().tolist() == pytest.approx([0.5] * 4)


def test_the_claim_on_priors_is_about_those_that_learn() -> None:
    def rows(learned: float, uniform: float) -> list[Row]:
        return [
            row(f"beta {beta:g}, start {start}, {one}", prior.GAIN, uniform if one == "uniform" else learned)
            for start in prior.STARTS
            for beta in prior.BETAS
            for one in prior.PRIORS[1:]
        ]

    assert overall(prior.votes(rows(0.05, -0.05))) == "holds"
    assert overall(prior.votes(rows(-0.05, 0.05))) == "fails"
    assert "joint: beta 0.1, start good -0.050 [-0.060, -0.040], the opposite;" in prior.finding(rows(-0.05, 0.05))


# normalisation


def test_scales_by_hand() -> None:
    """Sets (0, 2) and (0, 0): variances 2 and 0, root mean 1. Readers agree with probability sigma(2 * 2 * 0.5)."""
    assert normalisation.scale_of_rewards(torch.tensor([[[0.0, 2.0], [0.0, 0.0]]])).flatten().tolist() == [1.0]
    liked = normalisation.panel(torch.full((1, 4000, 1), 0.5), torch.full((1, 4000), 2.0), generator(0))
    assert float(liked.mean()) == pytest.approx(1 / (1 + math.exp(-2)), abs=0.006)
    rewards = torch.rand(2, 8, 4, generator=generator(0))
    index = normalisation.index_of(rewards, normalisation.spread_of(rewards))
    psi = -normalisation.scale_of_psi(index) * index.log()
    assert psi.mean(1).tolist() == pytest.approx([1.0, 1.0], abs=1e-4)


def test_a_frozen_spread_shows_that_all_rewards_spread_less() -> None:
    """Half of every spread beside the frozen one: a set of average spread goes from 1/2 to 1 / (1 + 1/2) = 2/3."""
    rewards = torch.tensor([[[0.0, 2.0], [2.0, 0.0]]])
    spread = normalisation.spread_of(rewards)
    assert spread.tolist() == [1.0]
    assert normalisation.index_of(rewards, spread).tolist() == [[0.5, 0.5]]
    assert normalisation.index_of(rewards / 2, spread).flatten().tolist() == pytest.approx([2 / 3, 2 / 3])
    assert normalisation.index_of(rewards / 2, normalisation.spread_of(rewards / 2)).tolist() == [[0.5, 0.5]]


def test_frozen_and_refitted_scales_are_one_in_the_first_round_and_part_in_the_next() -> None:
    world, _ = small()
    true = torch.full((SEEDS, CONTEXTS), 2.0)
    ways = [BASE, Way(psi="refit"), Way(reward="refit"), Way(reference="previous")]
    base, *others = (normalisation.rounds(way, world, true, 1, 1.0) for way in ways)
    first = len(base.kl) // normalisation.ROUNDS
    for other in others:
        assert other.gain[:first].tolist() == base.gain[:first].tolist()
        assert other.gain.tolist() != base.gain.tolist()


def test_the_claim_on_normalisation_is_that_each_other_way_loses() -> None:
    def rows(effect: float, known: float) -> list[Row]:
        return [row(str(way), "gain", known if "known" in str(way) else effect) for way in normalisation.WAYS[1:]]

    assert overall(normalisation.votes(rows(-0.05, 0.05))) == "holds"
    assert overall(normalisation.votes(rows(0.05, -0.05))) == "fails"
    assert overall(normalisation.votes([*rows(-0.05, 0.0)[1:], row("psi refit", "gain", 0.05)])) == "mixed"
