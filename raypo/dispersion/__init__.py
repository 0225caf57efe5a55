"""How far a prompt's preferences deserve to be believed.

index     estimators of dispersion from responses and rewards, and its scale psi
mallows   dispersion itself, from the rankings of several annotators
"""

from __future__ import annotations

from raypo.dispersion.index import (
    INDEX_HIGH,
    INDEX_LOW,
    PUBLISHED_SCALE,
    clamp_index,
    entropy_index,
    fit_psi_scale,
    likelihood_index,
    psi,
    psi_of,
    reward_spread_index,
    reward_spread_scale,
)
from raypo.dispersion.mallows import DISTANCES, Fit, fit, known_index

__all__ = [
    "DISTANCES",
    "INDEX_HIGH",
    "INDEX_LOW",
    "PUBLISHED_SCALE",
    "Fit",
    "clamp_index",
    "entropy_index",
    "fit",
    "fit_psi_scale",
    "known_index",
    "likelihood_index",
    "psi",
    "psi_of",
    "reward_spread_index",
    "reward_spread_scale",
]
