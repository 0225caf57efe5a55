"""Log-ratios r = log pi(y|x) - log zeta(y|x): what the policy is measured against.

Shapes: B prompts, K responses; all sums over response tokens, the stop token included, nats.

The function is the log-ratio and not zeta: for SimPO, LN-DPO and others zeta depends on the policy, and the gradient
flows through it (arXiv 2501.01544; the general loss is -log sigmoid(alpha log pi/zeta (y_w) - alpha log pi/zeta
(y_l))).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from raypo.objective.choices import LinearPrior


def log_ratios(
    prior: LinearPrior, policy_logps: Tensor, reference_logps: Tensor, lengths: Tensor, terms: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """r+ and r-: the log-ratio of a response where it is preferred, and where it is not.

    r = (a lp - b lr) / |y|^eta + rho |y| - h [preferred]

    Args:
        prior: the five numbers.
        policy_logps: [B, K], with gradient.
        reference_logps: [B, K].
        lengths: [B, K], tokens, >= 1.
        terms: [B, K] extras that the prior declares; the linear prior declares none.

    Returns:
        two [B, K] tensors.
    """
    size = lengths.to(policy_logps.dtype)
    ratio = prior.a * policy_logps
    if prior.b:
        ratio = ratio - prior.b * reference_logps
    if prior.eta:
        ratio = ratio / size**prior.eta
    if prior.rho:
        ratio = ratio + prior.rho * size
    return (ratio - prior.h if prior.h else ratio), ratio
