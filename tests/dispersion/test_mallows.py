"""The Mallows fit against enumeration of every ranking, on its own formulas."""

from __future__ import annotations

import math
from itertools import combinations, permutations

import pytest
import torch

from raypo.dispersion.mallows import (
    DISTANCES,
    MOST_ITEMS,
    SEARCHED,
    cayley,
    central,
    counts,
    expected_distance,
    fit,
    kendall,
    known_index,
)
from raypo.objective.link import phi as phi_link


def by_hand(distance: str, one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Each distance from its definition, without tensors; cayley by putting item after item in place."""
    pairs = list(zip(one, other, strict=True))
    if distance == "kendall":
        return sum((a - c) * (b - d) < 0 for (a, b), (c, d) in combinations(pairs, 2))
    if distance == "cayley":
        at, swaps = list(one), 0
        for place, wanted in enumerate(other):
            if at[place] != wanted:
                where = at.index(wanted)
                at[place], at[where] = at[where], at[place]
                swaps += 1
        return swaps
    cost = {"spearman": lambda a, b: (a - b) ** 2, "footrule": lambda a, b: abs(a - b), "hamming": lambda a, b: a != b}
    return sum(cost[distance](a, b) for a, b in pairs)


@pytest.mark.parametrize("distance", DISTANCES)
def test_distances_are_what_their_definitions_say(distance: str) -> None:
    everyone = list(permutations(range(4)))
    for center in everyone[::5]:
        found = DISTANCES[distance](torch.tensor(everyone), torch.tensor(center))
        assert found.tolist() == [by_hand(distance, one, center) for one in everyone]


@pytest.mark.parametrize("items", [1, 2, 5, 6])
@pytest.mark.parametrize("distance", DISTANCES)
def test_counts_are_those_of_all_rankings(distance: str, items: int) -> None:
    found = [by_hand(distance, one, tuple(range(items))) for one in permutations(range(items))]
    expected = torch.bincount(torch.tensor(found)).double()
    counted = counts(distance, items)
    assert counted[: len(expected)].tolist() == expected.tolist()
    assert counted[len(expected) :].sum() == 0


@pytest.mark.parametrize("distance", DISTANCES)
def test_counts_add_up_to_the_factorial(distance: str) -> None:
    """11! = 39,916,800: too many to list, and exact in float64."""
    assert counts(distance, 11).sum() == math.factorial(11)


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_fit_has_the_greatest_likelihood_of_all_centers_and_dispersions(distance: str) -> None:
    """Five rankings of five items against all 120 centers, each at 400 dispersions of a grid in (0, 1]."""
    torch.manual_seed(1)
    rankings = torch.stack([torch.tensor([0, 1, 2, 3, 4]), *(torch.randperm(5) for _ in range(4))])
    found = fit(rankings, distance)
    at = torch.arange(len(counts(distance, 5)))
    grid = torch.linspace(0.0025, 1.0, 400, dtype=torch.float64)
    log_z = torch.logsumexp(counts(distance, 5).log() + at * grid.log()[:, None], 1)
    best = -math.inf
    for center in permutations(range(5)):
        total = sum(by_hand(distance, tuple(one.tolist()), center) for one in rankings)
        best = max(best, float((total * grid.log() - 5 * log_z).max()))
    assert best <= found.log_likelihood + 1e-9
    assert found.log_likelihood - best < 0.01  # the grid's own step


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_expected_distance_at_the_fit_is_the_mean_distance(distance: str) -> None:
    torch.manual_seed(0)
    rankings = torch.tensor([[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 5, 4], [1, 0, 2, 3, 4, 5], [0, 2, 1, 3, 4, 5]])
    found = fit(rankings, distance)
    assert 0 < found.phi < 1
    assert expected_distance(distance, 6, found.phi) == pytest.approx(found.mean_distance, abs=1e-9)


def double(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def test_kendall_of_two_items_is_the_share_that_agrees() -> None:
    """Two items: P(agree) = 1 / (1 + phi). Three of four agree: phi = 1/3, and -ln L = -3 ln(3/4) - ln(1/4) = 2.249."""
    found = fit(torch.tensor([[0, 1], [0, 1], [0, 1], [1, 0]]), "kendall")
    assert found.phi == pytest.approx(1 / 3)
    assert found.log_likelihood == pytest.approx(3 * math.log(0.75) + math.log(0.25))
    assert found.center == (0, 1)


def test_kendall_marginals_are_the_link_of_mallows_phi() -> None:
    """Items g ranks apart: sum over rankings of phi^d / Z is g_phi(g), what the phi-link takes the logarithm of."""
    dispersion, items = 0.6, 5
    everyone = torch.tensor(list(permutations(range(items))))
    weights = dispersion ** kendall(everyone, torch.arange(items)).double()
    for gap in range(1, items):
        right = float(weights[everyone[:, 0] < everyone[:, gap]].sum() / weights.sum())
        told = phi_link(double(gap), double(-math.log(dispersion)), None)
        assert float(told) == pytest.approx(-math.log(right), abs=1e-9)


@pytest.mark.parametrize("distance", DISTANCES)
def test_agreement_and_chance_are_the_ends(distance: str) -> None:
    """All alike: phi 0. Every ranking once: phi 1, as if drawn uniformly."""
    assert fit(torch.arange(4).repeat(3, 1), distance).phi == 0
    everyone = torch.tensor(list(permutations(range(4))))
    assert fit(everyone, distance).phi == pytest.approx(1)


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_fit_finds_the_dispersion_that_rankings_were_drawn_with(distance: str) -> None:
    """2,000 of the 120 rankings of five items, drawn with phi = 0.5: four standard errors of phi are about 0.04."""
    everyone = torch.tensor(list(permutations(range(5))))
    center = torch.tensor([2, 0, 1, 4, 3])
    weights = 0.5 ** DISTANCES[distance](everyone, center).double()
    drawn = everyone[torch.multinomial(weights, 2000, replacement=True, generator=torch.Generator().manual_seed(0))]
    found = fit(drawn, distance)
    assert found.center == tuple(center.tolist())
    assert found.phi == pytest.approx(0.5, abs=0.04)


def test_the_search_under_cayley_ends_no_worse_than_every_annotator() -> None:
    """Nine items are not enumerated. No swap of two items, and no annotator's ranking, is better than what is found."""
    torch.manual_seed(3)
    rankings = torch.stack([torch.randperm(SEARCHED + 2) for _ in range(5)])
    center = central(rankings, "cayley")
    total = int(cayley(rankings, center).sum())
    assert all(total <= int(cayley(rankings, one).sum()) for one in rankings)
    for i, j in combinations(range(SEARCHED + 2), 2):
        near = center.clone()
        near[i], near[j] = center[j], center[i]
        assert total <= int(cayley(rankings, near).sum())


def test_what_is_no_ranking_is_refused() -> None:
    for wrong in (torch.tensor([[0, 0, 1]]), torch.empty(0, 3, dtype=torch.long), torch.tensor([0, 1])):
        with pytest.raises(ValueError, match="permutation"):
            fit(wrong, "kendall")
    with pytest.raises(ValueError, match="expected one of"):
        fit(torch.tensor([[0, 1]]), "ulam")
    with pytest.raises(ValueError, match=f"1 to {MOST_ITEMS}"):
        fit(torch.arange(MOST_ITEMS + 1)[None], "kendall")


@pytest.mark.parametrize("model", ["phi", "theta"])
def test_the_index_to_give_a_run_is_that_of_two_people_against_one(model: str) -> None:
    """Two responses, 2 of 3 people for the first: odds 2, psi = ln 2 and d = 1/2 under both models.

    Kendall: phi / (1 + phi) = 1/3, phi = 1/2. Spearman: 2 phi^2 / (1 + phi^2) = 2/3, phi^2 = 1/2. Clamped at both ends.
    """
    rankings = [[[0, 1], [0, 1], [1, 0]], [[0, 1], [0, 1]], [[0, 1], [1, 0]]]
    known = [known_index(torch.tensor(ranks), model=model) for ranks in rankings]
    assert known == [pytest.approx(0.5), pytest.approx(1e-3), pytest.approx(0.999)]
    with pytest.raises(ValueError, match="expected 'theta' or 'phi'"):
        known_index(torch.tensor([[0, 1], [0, 1]]), model="rho")
    for few in ([[0, 1, 2]], [[0], [0], [0]]):  # one person, one response: nothing that could differ
        with pytest.raises(ValueError, match="two of two responses at least"):
            known_index(torch.tensor(few), model=model)
