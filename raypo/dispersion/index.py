"""Estimators of dispersion from responses, and its scale psi.

Shapes: B prompts, K responses. An *index* d(x) in (0, 1] says how dispersed preferences are: near 0 everyone agrees,
at 1 a preference tells nothing. It becomes psi(x) = -c ln d(x), the log-odds that the better of two responses one unit
of implicit reward apart is preferred (so psi > 0, and psi = 0 would be a coin).

The index is clamped to [1e-3, 0.999] before the logarithm, so that psi is finite and positive: psi in (0, 6.91 c].
c is fitted once (mean psi over the sets that can train is 1) and then frozen: policies sharpen over rounds and d falls;
refitting would hide that.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

INDEX_LOW, INDEX_HIGH = 1e-3, 0.999

PUBLISHED_SCALE = 0.29
"""c of the MallowsPO code: the fit on Llama3-8B-Instruct and UltraFeedback-ArmoRM, not a constant of nature."""


def clamp_index(index: Tensor) -> Tensor:
    """An index within [1e-3, 0.999]."""
    return index.clamp(INDEX_LOW, INDEX_HIGH)


def _mean_over_set(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the responses that there are; 1 (nothing known) for a set without any. [B, K] -> [B]."""
    count = mask.sum(-1)
    mean = torch.where(mask, values, torch.zeros_like(values)).sum(-1) / count.clamp_min(1)
    return torch.where(count > 0, mean, torch.ones_like(mean))


def entropy_index(entropy_sums: Tensor, lengths: Tensor, mask: Tensor, vocab_size: int) -> Tensor:
    """The published estimator: the reference's token entropy over the response / ln V, mean over the set.

    d(x) = mean_k [ sum_t H_t(y_k) / (|y_k| ln V) ], H_t the entropy of the reference's next-token distribution
    (MallowsPO, arXiv 2405.14953; its code c188a2e, where K = 2; survey arXiv 2409.11564 eq. 54).

    Args:
        entropy_sums: [B, K] sums of token entropies over each response, nats.
        lengths: [B, K] tokens per response.
        mask: [B, K] bool, False where there is no such response.
        vocab_size: V, the width of the logits (padded embedding size, as in the published code).

    Returns:
        [B] clamped index.
    """
    per_token = entropy_sums / lengths.clamp_min(1)
    return clamp_index(_mean_over_set(per_token, mask) / math.log(vocab_size))


def likelihood_index(reference_logps: Tensor, lengths: Tensor, mask: Tensor, vocab_size: int) -> Tensor:
    """Mean sampled negative log-likelihood per token / ln V: the Monte-Carlo form of `entropy_index`.

    Needs no entropies, only the K log-prob sums that are there anyway. For responses drawn from the reference its
    expectation is the sequence entropy per token.

    Args:
        reference_logps: [B, K] log-prob sums under the reference, nats.
        lengths: [B, K] tokens per response.
        mask: [B, K] bool.
        vocab_size: V.

    Returns:
        [B] clamped index.
    """
    per_token = -reference_logps / lengths.clamp_min(1)
    return clamp_index(_mean_over_set(per_token, mask) / math.log(vocab_size))


def reward_spread_index(rewards: Tensor, mask: Tensor, scale: Tensor | None = None) -> Tensor:
    """The wider the rewards of a prompt's own responses, the less dispersed its preferences: d = 1 / (1 + std / scale).

    scale is the mean within-set standard deviation over the batch, so that d = 1/2 for a prompt of average spread: the
    index then does not depend on the unit of the reward. All rewards equal: d -> 1, a preference tells nothing.

    Args:
        rewards: [B, K]; what masked entries hold is not read.
        mask: [B, K] bool.
        scale: scalar > 0, the `reward_spread_scale` of another batch, beside which this one shows that all its rewards
            spread more or less; None: this batch's own, which hides it.

    Returns:
        [B] clamped index.
    """
    own = reward_spread_scale(rewards, mask) if scale is None else scale
    return clamp_index(1.0 / (1.0 + _spreads(rewards, mask) / own))


def reward_spread_scale(rewards: Tensor, mask: Tensor) -> Tensor:
    """Mean standard deviation within those sets whose rewards differ; 1 where none do. [B, K] -> scalar."""
    std = _spreads(rewards, mask)
    differ = std[std > 0]
    return differ.mean() if differ.numel() else torch.ones((), dtype=std.dtype)


def _spreads(rewards: Tensor, mask: Tensor) -> Tensor:
    """Standard deviation within each set, over the number of its responses. [B, K] -> [B]."""
    values = torch.where(mask, rewards, torch.zeros_like(rewards))
    count = mask.sum(-1)
    mean = values.sum(-1) / count.clamp_min(1)
    squares = torch.where(mask, (values - mean[:, None]) ** 2, torch.zeros_like(values))
    return (squares.sum(-1) / count.clamp_min(1)).sqrt()


def fit_psi_scale(index: Tensor, trainable: Tensor) -> Tensor:
    """C = 1 / mean(-ln d) over the sets that can train, so that their mean psi is 1.

    Args:
        index: [B] clamped index.
        trainable: [B] bool, at least one True.

    Returns:
        scalar tensor.

    Raises:
        ValueError: no set can train.
    """
    if not bool(trainable.any()):
        raise ValueError("fit_psi_scale: no trainable set to fit on")
    return 1.0 / (-clamp_index(index[trainable]).log()).mean()


def psi(index: Tensor, scale: float | Tensor) -> Tensor:
    """psi(x) = -c ln d(x).

    Args:
        index: [B] index; clamped here as well.
        scale: c > 0.

    Returns:
        [B], > 0.
    """
    return -scale * clamp_index(index).log()


def psi_of(phi: Tensor, *, model: str) -> Tensor:
    """Psi of a known Mallows dispersion phi in (0, 1]. Never normalised afterwards.

    For whoever knows phi: a bandit's truth, or a Mallows fit of several people's rankings of a prompt's responses
    (`raypo.dispersion.mallows`). A run takes it as the index exp(-psi), in the column `dispersion` of its prompts or
    sets, with `dispersion.estimator: given`; the other estimators' indices become psi by `psi`.

    Mallows-theta (Spearman): sigma(-2 ln phi s) at gap s, so psi = -2 ln phi. Mallows-phi (Kendall):
    g_phi(1) = 1 / (1 + phi) = sigma(-ln phi), so psi = -ln phi (arXiv 2405.14953; one convention for both).

    Args:
        phi: any shape, in (0, 1].
        model: "theta" or "phi".

    Raises:
        ValueError: another model.
    """
    if model not in ("theta", "phi"):
        raise ValueError(f"model={model!r}, expected 'theta' or 'phi'")
    return (-2.0 if model == "theta" else -1.0) * phi.log()
