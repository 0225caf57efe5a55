"""Links: from a margin z to a loss, each `(z, psi, target, **parameters) -> loss`, elementwise.

Shapes: z [B, C] margins of C comparisons; psi broadcastable to z, or None; target broadcastable to z, or None.
Every form is finite in value and gradient in fp32 at |z| = 1e4. psi is read by the phi-link alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

LinkFunction = Callable[..., Tensor]

LAMBDA_LOW, LAMBDA_HIGH = 1e-6, 13.8155  # phi between 1 - 1e-6 and 1e-6


def logistic(z: Tensor, psi: Tensor | None, target: Tensor | None, *, label_smoothing: float) -> Tensor:
    """-(1 - eps) log sigma(z) - eps log sigma(-z), eps in [0, 1/2].

    DPO (arXiv 2305.18290, Eq. 7) at eps = 0; cDPO at eps > 0 (original DPO code f8b8c0f).
    """
    if not label_smoothing:
        return softplus(-z)
    return (1 - label_smoothing) * softplus(-z) + label_smoothing * softplus(z)


def clipped_logistic(z: Tensor, psi: Tensor | None, target: Tensor | None, *, bound: float) -> Tensor:
    """-log sigma(clip(z, -bound, bound)), without gradient beyond; chi-PO (arXiv 2407.13399), bound 2 R_max."""
    return softplus(-z.clamp(-bound, bound))


def robust(z: Tensor, psi: Tensor | None, target: Tensor | None, *, label_smoothing: float) -> Tensor:
    """[-(1 - eps) log sigma(z) + eps log sigma(-z)] / (1 - 2 eps), eps in [0, 1/2). Robust DPO, arXiv 2403.00409.

    Unbounded below as z grows: never compare runs by it.
    """
    return ((1 - label_smoothing) * softplus(-z) - label_smoothing * softplus(z)) / (1 - 2 * label_smoothing)


def squared(z: Tensor, psi: Tensor | None, target: Tensor | None, *, target_margin: float, scale: float) -> Tensor:
    """((z - target) / scale)^2. IPO (arXiv 2310.12036, Eq. 17) is target 1/2 and scale beta: (Delta - 1/(2 beta))^2."""
    return ((z - target_margin) / scale) ** 2


def hinge(z: Tensor, psi: Tensor | None, target: Tensor | None, *, threshold: float) -> Tensor:
    """relu(threshold - z). SLiC as normalised by RSO, arXiv 2309.06657, at threshold 1."""
    return torch.relu(threshold - z)


def squared_hinge(z: Tensor, psi: Tensor | None, target: Tensor | None, *, threshold: float) -> Tensor:
    """relu(threshold - z)^2. RainbowPO's `mallows_ipo_modified` (arXiv 2410.04203, code 6dccae3) at threshold 1/2."""
    return torch.relu(threshold - z) ** 2


def sigmoid(z: Tensor, psi: Tensor | None, target: Tensor | None) -> Tensor:
    """1 - sigma(z). The bounded loss of KTO (arXiv 2402.01306) and APO (2408.06266)."""
    return torch.sigmoid(-z)


def cauchy(z: Tensor, psi: Tensor | None, target: Tensor | None) -> Tensor:
    """-log(atan(z)/pi + 1/2), as atan2(1, -z)/pi, which does not cancel at large -z. MallowsPO code c188a2e."""
    return math.log(math.pi) - torch.atan2(torch.ones_like(z), -z).log()


def exo(z: Tensor, psi: Tensor | None, target: Tensor | None, *, label_smoothing: float) -> Tensor:
    """KL(sigma(z) || 1 - eps), eps in (0, 1). EXO, arXiv 2402.00856, pairwise.

    eps = 1e-3 is TRL's; the authors' code (a8ab360) writes -10 for log eps and 0 for log(1 - eps), which is eps = e^-10
    to within 5e-5.
    """
    up, down = logsigmoid(z), logsigmoid(-z)
    return up.exp() * (up - math.log1p(-label_smoothing)) + down.exp() * (down - math.log(label_smoothing))


def soft_exo(z: Tensor, psi: Tensor | None, target: Tensor | None) -> Tensor:
    """sigma(z) (log sigma(z) - log t), t the target > 0. EXO with K responses, arXiv 2402.00856.

    With z_i = u_i - logsumexp of the others, sigma(z_i) = softmax(u)_i: the sum over i is KL(softmax(u) || t).

    Raises:
        ValueError: target is None.
    """
    if target is None:
        raise ValueError("the soft EXO link needs targets: softmax of the rewards")
    up = logsigmoid(z)
    return up.exp() * (up - target.clamp_min(torch.finfo(z.dtype).tiny).log())


def discopop(z: Tensor, psi: Tensor | None, target: Tensor | None, *, temperature: float) -> Tensor:
    """(1 - m) softplus(-z) + m e^{-z}, m = sigma(z / tau). DiscoPOP, arXiv 2406.08414; m e^{-z} in one exponent."""
    return torch.sigmoid(-z / temperature) * softplus(-z) + torch.exp(logsigmoid(z / temperature) - z)


def phi(z: Tensor, psi: Tensor | None, target: Tensor | None) -> Tensor:
    """-log g_phi(z), phi = exp(-psi): the pair probability of a Mallows model under Kendall's tau.

    g_phi(s) = (s+1)/(1 - phi^(s+1)) - s/(1 - phi^s) for s > 0, and 1 - g_phi(-s) for s < 0 (arXiv 2405.14953).
    It jumps at s = 0, where policy == reference starts; the model's gap is an integer >= 1, so the formula is kept for
    |s| >= 1 and joined by the odd cubic in logit space that makes the link once continuously differentiable. The loss
    is convex for z < -1, on (0, 1) and for z > 1, and on (-1, 0) it cannot be.

    Args:
        z: margins.
        psi: lambda = -ln phi, broadcastable to z; detached and clamped to [1e-6, 13.8155].
        target: not read.

    Raises:
        ValueError: psi is None.
    """
    if psi is None:
        raise ValueError("the phi-link needs psi: it is the link's own parameter")
    lam = psi.detach().clamp(LAMBDA_LOW, LAMBDA_HIGH).expand_as(z)
    inside = z.abs() < 1
    near = torch.where(inside, z, torch.zeros_like(z))
    far = torch.where(inside, torch.ones_like(z), z)  # each branch sees only its own domain: no NaN crosses over
    log_q = _log_tail(far.abs(), lam)
    wrong, right = -log_q, -torch.log1p(-log_q.clamp_max(math.log(0.5)).exp())
    return torch.where(inside, _cubic(near, lam), torch.where(far < 0, wrong, right))


def _cubic(s: Tensor, lam: Tensor) -> Tensor:
    """softplus(-(a s + b s^3)): logit 0 at 0; value lam and the formula's slope kappa at s = 1."""
    phi_, one_less = torch.exp(-lam), -torch.expm1(-lam)
    exact = lam * (1 + phi_**2) / one_less**2 - (1 + phi_) / one_less
    series = lam * (2 / 3 + lam**2 / 90 - lam**4 / 2520)
    kappa = torch.where(lam < 0.1, series, exact)
    b = (kappa - lam) / 2
    return softplus(-((lam - b) * s + b * s**3))


def _log_tail(gap: Tensor, lam: Tensor) -> Tensor:
    """log(1 - g(gap)), gap >= 1, rewritten so that every term is positive: nothing cancels as phi -> 1."""
    x = lam * gap
    body = (gap * _exp_less_linear(lam) + _exp_less_linear(-x)).log()
    return -(x + lam) + body - _log1mexp(x) - _log1mexp(x + lam)


def _exp_less_linear(y: Tensor) -> Tensor:
    """e^y - 1 - y; by its series to y^17 for |y| < 1/2, where the plain form cancels."""
    small = y.abs() < 0.5
    part = torch.where(small, y, torch.zeros_like(y))
    series = torch.zeros_like(y)
    for power in range(17, 1, -1):
        series = series * part + 1 / math.factorial(power)
    plain = torch.where(small, torch.ones_like(y), y)
    return torch.where(small, series * part**2, torch.expm1(plain) - plain)


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - e^-x), x > 0."""
    near = x < math.log(2)
    low, high = torch.where(near, x, torch.ones_like(x)), torch.where(near, torch.ones_like(x), x)
    return torch.where(near, (-torch.expm1(-low)).log(), torch.log1p(-torch.exp(-high)))


LINKS: dict[str, LinkFunction] = {
    "logistic": logistic,
    "clipped-logistic": clipped_logistic,
    "robust": robust,
    "squared": squared,
    "hinge": hinge,
    "squared-hinge": squared_hinge,
    "sigmoid": sigmoid,
    "cauchy": cauchy,
    "exo": exo,
    "soft-exo": soft_exo,
    "discopop": discopop,
    "phi": phi,
}
