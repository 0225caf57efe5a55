"""Log-ratios r = log pi(y|x) - log zeta(y|x): what the policy is measured against.

Shapes: B prompts, K responses; all sums over response tokens, the stop token included, nats.

The function is the log-ratio and not zeta: for SimPO, LN-DPO, SparsePO and others zeta depends on the policy, and the
gradient flows through it (arXiv 2501.01544; the general loss is -log sigmoid(alpha log pi/zeta (y_w) - alpha log
pi/zeta (y_l))). For any h with loss -log sigmoid(h(y_w) - h(y_l)), zeta = pi exp(-h / beta) gives h = beta r exactly:
a prior here is a method's h / beta.

The learned prior (preset `learned-prior`) is the linear one whose reference moves: a moving average of the policy,
held and updated by the trainer. The best zeta for a fixed policy minimises E_x KL(pi(.|x) || zeta), which the marginal
E_x pi(.|x) does when zeta may not see the prompt; an average over past policies, which may see it, is chosen instead
of a trained head over responses: responses to different prompts hardly share support, so a prompt-free marginal of
text measures whether a response fits its prompt at all, which cancels in no comparison that matters, while the
moving average bounds how far a step may go from where the policy has been, costs no new parameters, and has two
numbers to choose (`training.reference_mixing` of the policy every `training.reference_steps` steps).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from raypo.objective.choices import LinearPrior, Prior, TokenPrior, TransformPrior

CLAMP = 60.0  # nats: e^60 is far from overflow in fp32, and no log-ratio in use comes near it
LOG2 = 0.6931471805599453


def log_ratios(
    prior: Prior, policy_logps: Tensor, reference_logps: Tensor, lengths: Tensor, terms: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """r+ and r-: the log-ratio of a response where it is preferred, and where it is not.

    Args:
        prior: which one, and its numbers.
        policy_logps: [B, K], with gradient.
        reference_logps: [B, K].
        lengths: [B, K], tokens, >= 1.
        terms: [B, K] extras that the prior declares.

    Returns:
        two [B, K] tensors.
    """
    return PRIORS[prior.kind](prior, policy_logps, reference_logps, lengths, terms)


def linear(
    prior: LinearPrior, policy: Tensor, reference: Tensor, lengths: Tensor, terms: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """r = (a lp - b lr) / |y|^eta + rho |y| - h [preferred]."""
    size = lengths.to(policy.dtype)
    ratio = prior.a * policy
    if prior.b:
        ratio = ratio - prior.b * reference
    if prior.eta:
        ratio = ratio / size**prior.eta
    if prior.rho:
        ratio = ratio + prior.rho * size
    return (ratio - prior.h if prior.h else ratio), ratio


def token(
    prior: TokenPrior, policy: Tensor, reference: Tensor, lengths: Tensor, terms: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """r = sum_t m_t (lp_t - lr_t) + kl KL, from the sums that `raypo.objective.tokens` makes.

    TDPO1 (arXiv 2404.11999) is kl 1; TDPO2 is kl a with the preferred KL constant; SparsePO (2410.05102) has masks and
    kl 1; at masks of one it is TDPO1.
    """
    ratio = policy - reference if prior.weights == "none" else terms["weighted_log_ratios"]
    if not prior.kl:
        return ratio, ratio
    divergence = terms["forward_kl"]
    preferred = divergence.detach() if prior.detach_preferred_kl else divergence
    return ratio + prior.kl * preferred, ratio + prior.kl * divergence


def transform(
    prior: TransformPrior, policy: Tensor, reference: Tensor, lengths: Tensor, terms: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """r = f(lp - lr) or f(lp / |y|), which may depend on the role."""
    argument = policy - reference if prior.needs_reference else policy / lengths.to(policy.dtype)
    preferred, other = TRANSFORMS[prior.transform](argument, **prior.parameters)
    return (preferred - prior.h if prior.h else preferred), other


PRIORS: dict[str, Callable[[Any, Tensor, Tensor, Tensor, Mapping[str, Tensor]], tuple[Tensor, Tensor]]] = {
    "linear": linear,
    "token": token,
    "transform": transform,
}


def _same(value: Tensor) -> tuple[Tensor, Tensor]:
    return value, value


def reverse_kl(s: Tensor) -> tuple[Tensor, Tensor]:
    """f'(u) = log u (+ 1), u = e^s: r = s, DPO's own. f-DPO (arXiv 2309.16240)."""
    return _same(s)


def forward_kl(s: Tensor) -> tuple[Tensor, Tensor]:
    """f'(u) = -1/u: r = -e^-s, s clamped to +-60 nats. f-DPO (arXiv 2309.16240)."""
    return _same(-torch.exp(-s.clamp(-CLAMP, CLAMP)))


def jensen_shannon(s: Tensor) -> tuple[Tensor, Tensor]:
    """f'(u) = log(2u / (1 + u)): r = log 2 + log sigma(s). f-DPO (arXiv 2309.16240)."""
    return _same(LOG2 + logsigmoid(s))


def alpha_divergence(s: Tensor, *, order: float) -> tuple[Tensor, Tensor]:
    """f'(u) = (u^(a-1) - 1) / (a - 1), order a in (0, 1); a -> 1 is the reverse KL.

    As TRL has it since f2cd577; its older fork and f-DPO's text have (1 - u^-a) / a, which is order 1 - a here.
    """
    power = order - 1
    if not power:
        return _same(s)
    return _same(torch.expm1((power * s).clamp(-CLAMP, CLAMP)) / power)


def chi(s: Tensor) -> tuple[Tensor, Tensor]:
    """r = u + log u, u = e^s the sequence ratio, s clamped at 60 nats in the exponent. chi-PO (arXiv 2407.13399)."""
    return _same(torch.exp(s.clamp_max(CLAMP)) + s)


def positive(s: Tensor, *, penalty: float) -> tuple[Tensor, Tensor]:
    """r = s - penalty max(0, -s) where preferred, s elsewhere. DPOP, Smaug (arXiv 2402.13228): inside the link."""
    return s - penalty * torch.relu(-s), s


def alpha_power(mean_logp: Tensor, *, order: float) -> tuple[Tensor, Tensor]:
    """r = (1 - p^-a) / a, p = e^(lp/|y|); a -> 0 is SimPO's lp/|y|. AlphaPO (arXiv 2501.03884)."""
    if not order:
        return _same(mean_logp)
    return _same(-torch.expm1((-order * mean_logp).clamp(-CLAMP, CLAMP)) / order)


def odds(mean_logp: Tensor) -> tuple[Tensor, Tensor]:
    """r = log p - log(1 - p), p = e^(lp/|y|), lp/|y| < 0 held at most -1e-6. ORPO (arXiv 2403.07691)."""
    logp = mean_logp.clamp_max(-1e-6)
    return _same(mean_logp - torch.log(-torch.expm1(logp)))


TRANSFORMS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "reverse-kl": reverse_kl,
    "forward-kl": forward_kl,
    "jensen-shannon": jensen_shannon,
    "alpha-divergence": alpha_divergence,
    "chi": chi,
    "positive": positive,
    "alpha": alpha_power,
    "odds": odds,
}
