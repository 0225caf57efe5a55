"""Dispersion: hand-worked sets, domains, and the scale that makes the mean psi one."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raypo import dispersion

ON = torch.tensor([[True, True]])


def tensor(*rows: list[float]) -> torch.Tensor:
    """float64 rows."""
    return torch.tensor(rows, dtype=torch.float64)


def test_entropy_index_is_the_mean_token_entropy_over_ln_v() -> None:
    """V = 4. Responses of 2 and 4 tokens, entropy sums ln 4 each: per token over ln 4 1/2 and 1/4, mean .375."""
    sums = tensor([math.log(4), math.log(4)])
    assert dispersion.entropy_index(sums, tensor([2, 4]), ON, 4).tolist() == [pytest.approx(0.375)]


def test_likelihood_index_uses_the_drawn_tokens() -> None:
    """-lp per token: 2.772589/2 and 1.386294/4, over ln 4: 1 and .25; mean .625."""
    logps = tensor([-2 * math.log(4), -math.log(4)])
    assert dispersion.likelihood_index(logps, tensor([2, 4]), ON, 4).tolist() == [pytest.approx(0.625)]


def test_masked_responses_do_not_count() -> None:
    """The second response holds NaN and is not there: .5 remains."""
    mask = torch.tensor([[True, False]])
    found = dispersion.entropy_index(tensor([math.log(4), math.nan]), tensor([2, 0]), mask, 4)
    assert found.tolist() == [pytest.approx(0.5)]


def test_reward_spread_index_is_one_half_at_the_average_spread() -> None:
    """Two sets with standard deviations 1 and 3, mean 2: d = 1/(1 + 1/2) = 2/3 and 1/(1 + 3/2) = .4."""
    mask = torch.ones(2, 2, dtype=torch.bool)
    found = dispersion.reward_spread_index(tensor([1, -1], [3, -3]), mask)
    assert found.tolist() == [pytest.approx(2 / 3), pytest.approx(0.4)]


def test_the_index_is_clamped_before_the_logarithm() -> None:
    """No entropy at all gives 1e-3 and not 0: psi = 6.907755 c, finite."""
    index = dispersion.entropy_index(tensor([0.0, 0.0]), tensor([2, 2]), ON, 4)
    assert index.tolist() == [1e-3]
    assert dispersion.psi(index, 1.0).tolist() == [pytest.approx(6.907755, abs=1e-6)]


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=20))
def test_the_fitted_scale_makes_the_mean_psi_one(values: list[float]) -> None:
    index = torch.tensor(values, dtype=torch.float64)
    scale = dispersion.fit_psi_scale(index, torch.ones(len(values), dtype=torch.bool))
    assert dispersion.psi(index, scale).mean().item() == pytest.approx(1.0)


def test_the_scale_is_fitted_on_trainable_sets_alone() -> None:
    """-ln .5 = .693147 for the one that trains: c = 1.442695."""
    scale = dispersion.fit_psi_scale(torch.tensor([0.5, 0.9]), torch.tensor([True, False]))
    assert scale.item() == pytest.approx(1.442695, abs=1e-6)
    with pytest.raises(ValueError, match="no trainable set"):
        dispersion.fit_psi_scale(torch.tensor([0.5]), torch.tensor([False]))


def test_known_dispersions_become_psi_by_one_convention() -> None:
    """Phi = e^-1/2: theta -2 ln phi = 1, phi-model -ln phi = 1/2."""
    phi = torch.tensor([math.exp(-0.5)], dtype=torch.float64)
    assert dispersion.psi_of(phi, model="theta").tolist() == [pytest.approx(1.0)]
    assert dispersion.psi_of(phi, model="phi").tolist() == [pytest.approx(0.5)]
