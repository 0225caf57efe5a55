"""Token-level terms of the priors that weigh tokens: from per-token values to the [N] sums that `set_loss` takes.

Shapes: P response tokens, N responses, L layers, H hidden size. `response_index` [P] names each token's response.
"""

from __future__ import annotations

import torch
from torch import Tensor

from raypo.logprobs import sum_by_response

IMPORTANCE_BOUND, IMPORTANCE_SPAN = 1.5, 0.3  # TIS-DPO code cbad7c1: clamped to +-1.5, rescaled to [0.7, 1.3]


def weighted_log_ratios(
    weights: Tensor, policy: Tensor, reference: Tensor, response_index: Tensor, responses: int
) -> Tensor:
    """sum_t m_t (lp_t - lr_t) of each response, [N], with gradient to the policy and to weights that have one.

    TIS-DPO (arXiv 2410.04350), LD-DPO (2409.06411), SparsePO (2410.05102).
    """
    return sum_by_response(weights * (policy - reference), response_index, responses)


def positions(response_index: Tensor, responses: int) -> Tensor:
    """Place of each token in its response, [P], from 0; tokens of a response stand together, in order."""
    lengths = torch.bincount(response_index, minlength=responses)
    starts = lengths.cumsum(0) - lengths
    return torch.arange(len(response_index), device=response_index.device) - starts[response_index]


def length_desensitized(response_index: Tensor, shortest: Tensor, *, tail: float) -> Tensor:
    """LD-DPO's weights [P]: 1 up to the length of the set's shortest response, `tail` beyond (arXiv 2409.06411).

    For two responses this is the paper's shared prefix; for K the shortest of the set plays its part, because a weight
    that depends on the partner would give a response one score per comparison.

    Args:
        response_index: [P].
        shortest: [N] tokens of the shortest response of each response's set.
        tail: in [0, 1]; 1 is DPO.
    """
    place = positions(response_index, len(shortest))
    inside = place < shortest[response_index]
    return torch.where(inside, 1.0, tail)


def stopping_chances(chances: Tensor, response_index: Tensor, responses: int, *, budget: float) -> dict[str, Tensor]:
    """Sums of P(EOS at t) over t < budget and over t > budget, t = 1 .. |y|, each [N] (REFA's R_budget, 2412.16378).

    Args:
        chances: [P] probability of a stop token at each response token's place, with gradient.
        response_index: [P].
        responses: N.
        budget: tokens.
    """
    place = positions(response_index, responses) + 1
    return {
        "eos_before": sum_by_response(chances * (place < budget), response_index, responses),
        "eos_after": sum_by_response(chances * (place > budget), response_index, responses),
    }


def importance(gaps: Tensor, preferred: Tensor) -> Tensor:
    """TIS-DPO's weights [P] from two contrastive models' log-probs (arXiv 2410.04350; code cbad7c1), detached.

    1 -+ 0.3 clip(lp+ - lp-, +-1.5) / 1.5, with minus at tokens of preferred responses: in [0.7, 1.3].

    Args:
        gaps: [P] lp+ - lp-: log-probs by the model trained towards the preferred, less those by the one trained away.
        preferred: [P] bool.
    """
    gap = gaps.detach().clamp(-IMPORTANCE_BOUND, IMPORTANCE_BOUND)
    return 1 + torch.where(preferred, -gap, gap) * IMPORTANCE_SPAN / IMPORTANCE_BOUND


def activation_mask(hidden_states: Tensor, response_index: Tensor, responses: int) -> Tensor:
    """SparsePO's activation-based mask [P] in [0, 1] (MaPO, arXiv 2410.05102), from reference states [L, P, H].

    The mean absolute activation of each layer, standardised over the response's tokens, averaged over layers and
    rescaled from the response's smallest to its largest value; all ones where these are within 1e-4. Within a response
    and not over a batch, so that a mask does not depend on what shares its batch.
    """
    size = hidden_states.detach().float().abs().mean(-1)
    count = torch.bincount(response_index, minlength=responses).clamp_min(1)

    def mean(values: Tensor) -> Tensor:
        sums = values.new_zeros(len(values), responses).index_add(1, response_index, values)
        return (sums / count)[:, response_index]

    centred = size - mean(size)
    score = (centred / mean(centred**2).sqrt().clamp_min(1e-12)).mean(0)
    low = score.new_full((responses,), torch.inf).index_reduce(0, response_index, score, "amin")
    high = score.new_full((responses,), -torch.inf).index_reduce(0, response_index, score, "amax")
    span = (high - low)[response_index]
    return torch.where(span > 1e-4, (score - low[response_index]) / span.clamp_min(1e-4), torch.ones_like(score))


def confidence_weights(token_logps: Tensor, token_log_square_sums: Tensor, response_index: Tensor, n: int) -> Tensor:
    """WPO's detached weight of each response, [n] > 0: exp(mean_t(log p_t - log sum_v p_v^2)). arXiv 2406.11827.

    A comparison is weighted by its members' product, which code a104458 bounds at 1 (preset wpo) and TRL does not
    (preset wpo-plain).

    Args:
        token_logps: [P] of the policy.
        token_log_square_sums: [P] log sum_v p_v^2 of the policy's next-token distributions.
        response_index: [P].
        n: number of responses.
    """
    adjusted = (token_logps - token_log_square_sums).detach()
    lengths = torch.bincount(response_index, minlength=n).clamp_min(1)
    return (sum_by_response(adjusted, response_index, n) / lengths).exp()
