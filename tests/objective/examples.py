"""Objectives with values for what they need, and inputs in float64, shared by the tests of this folder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from raypo.config import HYPERPARAMETER_DEFAULTS
from raypo.objective import AnyObjective, SetLoss, preset, set_loss
from raypo.objective.presets import TABLE, hyperparameters

EXTRA = HYPERPARAMETER_DEFAULTS | {"alpha": 0.6, "gamma": 0.5}
NAMES = sorted(TABLE)
LONE = ["kto"]  # one response is enough: ties do not matter to it


def objective(name: str, **given: float) -> Any:
    """A preset with values for what it needs."""
    names = [key for key in hyperparameters(name) if key not in ("beta", "tie_eps")]
    return preset(name, **({"beta": 0.1} | {key: EXTRA[key] for key in names} | given))


def inputs(policy: list[list[float]], rewards: list[list[float]], **given: Any) -> dict[str, Any]:
    """Keyword arguments of set_loss in float64, with a reference of -5 for every response."""
    lp = torch.tensor(policy, dtype=torch.float64)
    filled = {
        "policy_logps": lp,
        "reference_logps": torch.full_like(lp, -5.0),
        "lengths": torch.full(lp.shape, 4),
        "rewards": torch.tensor(rewards, dtype=torch.float64),
        "mask": torch.ones(lp.shape, dtype=torch.bool),
        "psi": torch.ones(len(policy), dtype=torch.float64),
    }
    return filled | given


def terms(chosen: AnyObjective, policy: Tensor, reference: Tensor) -> dict[str, Tensor]:
    """Terms as functions of each response's own log-probs, so that they follow it when it moves."""
    s = policy - reference
    made = {
        "weighted_log_ratios": 0.8 * s,
        "forward_kl": 0.3 - 0.05 * s,
        "mask_sizes": torch.full_like(s, 0.4),
        "anchor": torch.full_like(s, 0.05),
        "response_weights": torch.full_like(s, 0.9),
        "eos_logps": -(s.abs() + 0.5),
        "eos_before": 0.02 * s.abs(),
        "eos_after": 0.01 * s.abs() + 0.003,
        "ended": torch.ones_like(s),
        "embeddings": torch.stack([s.detach(), s.detach().cos()], -1),
    }
    return {name: made[name] for name in chosen.terms}


def as_needed(chosen: AnyObjective, given: dict[str, Any]) -> dict[str, Any]:
    """The same arguments, with labels for an objective that takes no others: 1 above 1/2."""
    if not chosen.needs_labels:
        return given
    rewards = given["rewards"]
    return given | {"rewards": torch.where(rewards.isfinite(), (rewards > 0.5).to(rewards.dtype), rewards)}


def loss(name: str, given: dict[str, Any], **hyper: float) -> SetLoss:
    """set_loss of a preset, its terms made."""
    chosen = objective(name, **hyper)
    reference = given["reference_logps"]
    reference = torch.zeros_like(given["policy_logps"]) if reference is None else reference
    return set_loss(chosen, **as_needed(chosen, given), terms=terms(chosen, given["policy_logps"], reference))
