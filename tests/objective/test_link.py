"""Links: literals, gradients, extremes, and the Mallows-phi link against mpmath at 60 digits."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raypo.objective.link import LINKS

PARAMETERS: dict[str, dict[str, float]] = {
    "logistic": {"label_smoothing": 0.1},
    "clipped-logistic": {"bound": 10.0},
    "robust": {"label_smoothing": 0.1},
    "squared": {"target_margin": 0.5, "scale": 0.1},
    "hinge": {"threshold": 1.0},
    "squared-hinge": {"threshold": 0.5},
    "sigmoid": {},
    "cauchy": {},
    "exo": {"label_smoothing": 1e-3},
    "soft-exo": {},
    "discopop": {"temperature": 0.05},
    "phi": {},
}


def value(name: str, z: float, psi: float = 1.0, dtype: torch.dtype = torch.float64, **parameters: float) -> float:
    """One link at one margin."""
    given = parameters or PARAMETERS[name]
    return float(LINKS[name](torch.tensor([z], dtype=dtype), torch.tensor([psi], dtype=dtype), None, **given))


def g(gap: float, phi: float) -> mpmath.mpf:
    """g_phi(s) = (s+1)/(1 - phi^(s+1)) - s/(1 - phi^s), and 1 - g(-s) below 0: arXiv 2405.14953, by definition."""
    with mpmath.workdps(60):
        s, p = mpmath.mpf(abs(gap)), mpmath.mpf(phi)
        above = (s + 1) / (1 - p ** (s + 1)) - s / (1 - p**s)
        return above if gap > 0 else 1 - above


def test_every_link_has_its_parameters_here() -> None:
    assert PARAMETERS.keys() == LINKS.keys()


@pytest.mark.parametrize(
    ("name", "z", "parameters", "expected"),
    [
        ("logistic", 0.0, {"label_smoothing": 0.0}, math.log(2)),
        ("logistic", 2.0, {"label_smoothing": 0.0}, 0.126928011042972),  # ln(1 + e^-2)
        ("logistic", 2.0, {"label_smoothing": 0.25}, 0.626928011042972),  # .75 (.126928) + .25 (2.126928)
        ("robust", 2.0, {"label_smoothing": 0.25}, -0.873071988957028),  # (.75 (.126928) - .25 (2.126928)) / .5
        ("squared", 0.0, {"target_margin": 0.5, "scale": 0.1}, 25.0),  # IPO at beta .1: 1/(4 beta^2)
        ("hinge", 0.25, {"threshold": 1.0}, 0.75),
        ("squared-hinge", 0.25, {"threshold": 0.5}, 0.0625),
        ("sigmoid", 0.0, {}, 0.5),
        ("cauchy", 1.0, {}, 0.28768207245178),  # -ln(3/4)
        ("exo", 0.0, {"label_smoothing": 1e-3}, 2.76123),  # 2402.00856: (ln .5 - ln .999)/2 + (ln .5 - ln .001)/2
        ("discopop", 0.0, {"temperature": 0.05}, 0.5 * math.log(2) + 0.5),
    ],
)
def test_links_at_hand_worked_margins(name: str, z: float, parameters: dict[str, float], expected: float) -> None:
    """The arithmetic stands beside each row."""
    found = float(LINKS[name](torch.tensor([z], dtype=torch.float64), None, None, **parameters))
    assert found == pytest.approx(expected, abs=5e-6 if name == "exo" else 1e-12)


@pytest.mark.parametrize("name", sorted(LINKS))
@pytest.mark.parametrize("z", [-1e4, -1.0, -0.3, 0.0, 0.3, 1.0, 1e4])
def test_every_link_is_finite_in_fp32_up_to_ten_thousand(name: str, z: float) -> None:
    """Value and gradient."""
    margin = torch.tensor([z], dtype=torch.float32, requires_grad=True)
    loss = LINKS[name](margin, torch.tensor([2.0]), torch.tensor([0.3]), **PARAMETERS[name])
    loss.sum().backward()
    assert math.isfinite(loss.item())
    assert math.isfinite(margin.grad.item())


@pytest.mark.parametrize("name", sorted(LINKS))
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    """Away from the hinges' corners."""
    z = torch.tensor([-3.3, -1.7, -0.6, 0.2, 0.7, 2.4], dtype=torch.float64, requires_grad=True)
    psi = torch.full_like(z, 0.7).detach()
    assert torch.autograd.gradcheck(
        lambda x: LINKS[name](x, psi, torch.full_like(z, 0.3).detach(), **PARAMETERS[name]), (z,)
    )


@pytest.mark.parametrize(
    ("gap", "phi", "expected"),
    [(1, 0.5, 2 / 3), (3, 0.5, 0.838095), (10, 0.5, 0.995599), (10, 0.9, 0.677160), (0.5, 0.2, 0.710407)],
)
def test_phi_link_literals(gap: float, phi: float, expected: float) -> None:
    """g_.5(1) = 1/(1 + .5); the last lies inside |s| < 1, where the cubic holds and not the formula (.742834)."""
    assert math.exp(-value("phi", gap, -math.log(phi))) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("lam", [1e-6, 1e-3, 0.05, 0.3, 1.0, 5.0, 13.8])
@pytest.mark.parametrize("gap", [1.0, 1.5, 7.0, 300.0, 1e4])
def test_phi_link_is_the_formula_to_fourteen_digits(lam: float, gap: float) -> None:
    """Against 60 digits, on both sides."""
    with mpmath.workdps(60):
        phi = mpmath.e ** (-mpmath.mpf(lam))
        for sign in (1.0, -1.0):
            exact = -mpmath.log(g(sign * gap, phi))
            found = value("phi", sign * gap, lam)
            assert abs(found - float(exact)) <= 3e-14 * max(1.0, abs(float(exact)))


@given(st.floats(1e-6, 13.8), st.floats(-50, 50))
def test_phi_probabilities_of_both_orders_sum_to_one(lam: float, gap: float) -> None:
    """g(s) + g(-s) = 1."""
    total = math.exp(-value("phi", gap, lam)) + math.exp(-value("phi", -gap, lam))
    assert total == pytest.approx(1.0, abs=1e-13)


@pytest.mark.parametrize("lam", [1e-3, 0.1, 1.0, 8.0])
def test_phi_link_is_once_continuously_differentiable_at_the_seam(lam: float) -> None:
    """Value and slope on either side of |s| = 1, a distance of 1e-7 apart."""
    for seam in (-1.0, 1.0):
        slopes, values = [], []
        for z in (seam - 1e-7, seam + 1e-7):
            margin = torch.tensor([z], dtype=torch.float64, requires_grad=True)
            loss = LINKS["phi"](margin, torch.tensor([lam], dtype=torch.float64), None)
            loss.backward()
            values.append(loss.item())
            slopes.append(margin.grad.item())
        assert values[0] == pytest.approx(values[1], abs=1e-5)
        assert slopes[0] == pytest.approx(slopes[1], abs=1e-5)


def test_phi_link_falls_as_the_margin_grows() -> None:
    """Monotone in float64 over a fine grid; convexity is not asserted, for it cannot hold."""
    z = torch.linspace(-5, 5, 4001, dtype=torch.float64)
    for lam in (0.01, 0.5, 3.0):
        loss = LINKS["phi"](z, torch.tensor([lam], dtype=torch.float64), None)
        assert bool((loss.diff() < 0).all())


def test_phi_link_needs_psi() -> None:
    with pytest.raises(ValueError, match="needs psi"):
        LINKS["phi"](torch.zeros(1), None, None)
