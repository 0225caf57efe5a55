"""Token weights and sums, by hand: two responses of three and two tokens."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raypo.models.masks import MaskHead
from raypo.objective import tokens

OWNER = torch.tensor([0, 0, 0, 1, 1])


def test_weighted_log_ratios_sum_by_response() -> None:
    """1 (-1+2) + 2 (-3+1) + 0.5 (-2+4) = 1 - 4 + 1 = -2; 3 (-1+1) + 1 (-5+2) = -3."""
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.0])
    policy, reference = torch.tensor([-1.0, -3, -2, -1, -5]), torch.tensor([-2.0, -1, -4, -1, -2])
    assert tokens.weighted_log_ratios(weights, policy, reference, OWNER, 2).tolist() == [-2.0, -3.0]


def test_length_desensitized_weights_what_lies_beyond_the_shortest() -> None:
    """The shortest of the set has two tokens: the third of the first response counts 0.25."""
    found = tokens.length_desensitized(OWNER, torch.tensor([2, 2]), tail=0.25)
    assert found.tolist() == [1.0, 1.0, 0.25, 1.0, 1.0]


def test_importance_is_tis_dpos() -> None:
    """Gaps 0.5, -3 (clipped to -1.5) and 1.5 preferred: 1 - 0.3 gap / 1.5 = 0.9, 1.3, 0.7; others 1 + 0.2 gap."""
    preferred = torch.tensor([True, True, True, False, False])
    found = tokens.importance(torch.tensor([0.5, -3.0, 1.5, 1.0, 9.0]), preferred)
    assert found.tolist() == pytest.approx([0.9, 1.3, 0.7, 1.2, 1.3])


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9), st.booleans())
def test_importance_stays_between_its_bounds_and_mirrors(gaps: list[float], preferred: bool) -> None:
    """In [0.7, 1.3]; the same gap weighs a preferred token and another one symmetrically about 1."""
    values = torch.tensor(gaps, dtype=torch.float64)
    ours = tokens.importance(values, torch.full((len(gaps),), preferred))
    other = tokens.importance(values, torch.full((len(gaps),), not preferred))
    assert ours.min() >= 0.7 - 1e-12
    assert ours.max() <= 1.3 + 1e-12
    assert torch.allclose(ours + other, torch.full_like(ours, 2.0))


def test_stopping_chances_are_split_at_the_budget() -> None:
    """Budget 2 of lengths 3 and 2: before it the first place, after it the third alone."""
    found = tokens.stopping_chances(torch.tensor([0.1, 0.2, 0.4, 0.3, 0.5]), OWNER, 2, budget=2)
    assert found["eos_before"].tolist() == pytest.approx([0.1, 0.3])
    assert found["eos_after"].tolist() == pytest.approx([0.4, 0.0])


def test_activation_masks_run_from_the_least_to_the_greatest_activation_of_a_response() -> None:
    """Sizes 1 2 4 and 3 3: (s - min) / (max - min) = 0 1/3 1; all ones where they are equal."""
    sizes = torch.tensor([1.0, -2, 4, 3, -3])
    assert tokens.activation_mask(sizes[None, :, None], OWNER, 2).tolist() == pytest.approx([0, 1 / 3, 1, 1, 1])


def test_confidence_is_the_mean_of_token_log_ratios() -> None:
    """exp of mean(-1+2, -1+1, -1+0) = exp 0 = 1; exp of mean(0-1, 0-2) = e^-1.5; without gradient."""
    logps = torch.tensor([-1.0, -1, -1, 0, 0], requires_grad=True)
    squares = torch.tensor([-2.0, -1, 0, 1, 2])
    found = tokens.confidence_weights(logps, squares, OWNER, 2)
    assert found.tolist() == pytest.approx([1.0, math.exp(-1.5)])
    assert not found.requires_grad


@pytest.mark.parametrize("masks", [1, 2])
def test_masks_start_at_one_and_follow_their_own_parameters(masks: int) -> None:
    """relu(1/2 relu(w s + 1) + 1/2 relu(w s + 1)) at w = 0 is 1; w of the last mask -1 and state 3 makes it 0."""
    head = MaskHead(2, 1, masks)
    states = torch.tensor([[[3.0], [0.5]], [[3.0], [0.5]]])  # two layers, two tokens
    assert head(states).tolist() == [[1.0, 1.0]] * masks
    with torch.no_grad():
        head.weight[-1] = -1.0
    assert head(states)[-1].tolist() == [0.0, 0.5]
    assert head(states)[0].tolist() == ([1.0, 1.0] if masks == 2 else [0.0, 0.5])
