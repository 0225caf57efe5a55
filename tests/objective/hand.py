"""Sets whose scores are logarithms of small numbers, so that softmaxes are fractions and losses their logarithms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from examples import inputs, objective
from torch import Tensor

from raypo.objective import AnyObjective, set_loss

BETA = 0.5

LN_2 = 0.6931471805599453
LN_3 = 1.0986122886681098


class Worked(NamedTuple):
    """Loss of one set, and its derivative by the policy's log-prob sum of each response."""

    loss: float
    slope: list[float]


def worked(
    chosen: str | AnyObjective,
    odds: Sequence[float],
    rewards: Sequence[float],
    *,
    psi: float = 1.0,
    lengths: Sequence[int] | None = None,
    reference: Sequence[float] | None = None,
    terms: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
    **hyper: float,
) -> Worked:
    """`set_loss` of one set in float64 with beta 1/2.

    Args:
        chosen: a preset's name, with `hyper` for it, or an objective.
        odds: e^(beta s) of each response, s its log-ratio: the policy's log-probs are reference + 2 ln odds.
        rewards: of each response.
        psi: dispersion scale.
        lengths: tokens; 4 each when None.
        reference: log-prob sums; -5 each when None.
        terms: each a function of the log-ratios [1, K], so that it follows the policy.
    """
    ratio = torch.tensor([list(odds)], dtype=torch.float64).log() / BETA
    frozen = torch.full_like(ratio, -5.0) if reference is None else torch.tensor([list(reference)], dtype=ratio.dtype)
    policy = (frozen + ratio).requires_grad_()
    given = inputs([[0.0] * len(odds)], [list(rewards)], psi=torch.tensor([psi], dtype=torch.float64))
    given |= {"policy_logps": policy, "reference_logps": frozen}
    if lengths is not None:
        given["lengths"] = torch.tensor([list(lengths)])
    made = {name: function(policy - frozen) for name, function in (terms or {}).items()}
    if isinstance(chosen, str):
        chosen = objective(chosen, **({"beta": BETA} | hyper))
    out = set_loss(chosen, **given, terms=made)
    assert out.used.tolist() == [True]
    (slope,) = torch.autograd.grad(out.loss.sum(), policy)
    return Worked(out.loss.item(), slope[0].tolist())
