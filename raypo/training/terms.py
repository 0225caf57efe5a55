"""Per-response values of a micro-batch: the policy's log-prob sums, and the terms that the objective declares.

Shapes: P response tokens, N responses, H hidden size. An objective that needs sums alone costs one forward pass of the
policy; what else is computed follows from `objective.needs` and `objective.terms`, never from its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from raypo.data.packing import Batch, pack
from raypo.errors import ConfigError, ModelError
from raypo.logprobs import (
    Measure,
    TokenValues,
    chunked_token_logps,
    sum_by_response,
    token_kl,
    token_log_square_sums,
    upcast,
)
from raypo.models.live import LiveReference
from raypo.models.scorer import TokenScorer
from raypo.objective import AnyObjective, Objective, Outside, TokenPrior, tokens
from raypo.training.collation import Collation
from raypo.training.sets import TrainingSet
from raypo.training.settings import Settings

if TYPE_CHECKING:
    from raypo.config import TrainingConfig

DIFFERENTIABLE = frozenset(
    {"policy_logps", "weighted_log_ratios", "forward_kl", "mask_sizes", "eos_logps", "eos_before", "eos_after"}
)
"""Values with a gradient; the others are constants of a step."""


@dataclass(frozen=True)
class Means:
    """What every micro-batch of a step is computed with.

    Args:
        scorer: the policy, a `TokenScorer`, sharded or alone.
        objective: which one.
        config: of training.
        pad_token_id: fills rows.
        device: of the model.
        reference: held when the objective needs a live one.
        anchor: the anchor's score in this step.
        collation: lays out its batches.
        following: sets of the step that follows, whose first batch is laid out while this one ends; none: not known.
    """

    scorer: nn.Module
    objective: AnyObjective
    config: TrainingConfig | Settings
    pad_token_id: int
    device: torch.device | str
    reference: LiveReference | None = None
    anchor: float = 0.0
    collation: Collation = field(default_factory=Collation)
    following: Sequence[TrainingSet] = ()

    def pack(self, sets: Sequence[TrainingSet]) -> Batch:
        """One batch of sets, on the device."""
        return pack([one.tokens for one in sets], pad_token_id=self.pad_token_id, packing=self.config.packing).to(
            self.device
        )

    @property
    def live(self) -> LiveReference:
        """The live reference.

        Raises:
            ConfigError: it is needed and not there.
        """
        if self.reference is None:
            raise ConfigError(f"{self.objective.name} needs {self.objective.needs}", "a live reference in the trainer")
        return self.reference


def _last_of_each(logps: Tensor, owner: Tensor, responses: int) -> Tensor:
    """Log-prob of each response's last token, [N]; 0 of one without tokens, whose end was not drawn."""
    lengths = torch.bincount(owner, minlength=responses)
    there = lengths > 0
    found = logps.new_zeros(responses)
    return found.index_put((there,), logps[(lengths.cumsum(0) - 1)[there]])


def token_prior(objective: AnyObjective) -> TokenPrior | None:
    """The prior that weighs tokens, of the first part that has one."""
    priors = [part.prior for _, part in objective.parts if isinstance(part, Objective)]
    return next((prior for prior in priors if isinstance(prior, TokenPrior)), None)


def response_values(means: Means, sets: Sequence[TrainingSet], batch: Batch) -> dict[str, Tensor]:
    """The policy's log-prob sums [N], "reference_logps" [N] where the reference is live, and each declared term.

    Args:
        means: of the step.
        sets: of the batch.
        batch: from `means.pack(sets)`.
    """
    objective, chunk = means.objective, means.config.logprob_chunk_tokens
    prior, responses, owner = token_prior(objective), len(batch.slot), batch.response_index
    states = _reference_states(means, batch)
    learned = states.layers if prior is not None and prior.weights == "learned-mask" else None
    measures = _measures(means, states.last)
    found = means.scorer(batch, chunk_tokens=chunk, measure=_together(measures), reference_layers=learned)
    measured = dict(zip(measures, () if found.measured is None else found.measured.unbind(-1), strict=True))
    values = {"policy_logps": sum_by_response(found.logps, owner, responses)}
    reference = _reference_tokens(means, sets, batch, prior, states.last)
    if objective.reference == "moving" and reference is not None:
        values["reference_logps"] = sum_by_response(reference, owner, responses)
    if "response_weights" in objective.terms:
        values["response_weights"] = tokens.confidence_weights(
            found.logps, measured["log_square_sums"], owner, responses
        )
    if "eos_logps" in objective.terms:
        values["eos_logps"] = _last_of_each(found.logps, owner, responses)
        values["ended"] = torch.tensor([float(end) for one in sets for end in one.ended], device=owner.device)
    if "eos_before" in objective.terms:
        chances = measured["stop_logps"].exp()
        values |= tokens.stopping_chances(chances, owner, responses, budget=_eos_budget(objective))
    if "embeddings" in objective.terms and states.last is not None:
        sums = states.last.new_zeros(responses, states.last.shape[-1]).index_add(0, owner, states.last)
        values["embeddings"] = sums / torch.bincount(owner, minlength=responses).clamp_min(1)[:, None]
    if prior is not None:
        values |= _weighted(prior, sets, batch, found, measured.get("forward_kl"), reference, states.layers)
    return values


@dataclass(frozen=True)
class States:
    """Hidden states of the live reference: the last [P, H], and all layers' [L, P, H] where they are needed."""

    last: Tensor | None = None
    layers: Tensor | None = None


def _reference_states(means: Means, batch: Batch) -> States:
    if means.objective.needs == "reference-hidden-states":
        layers = means.live.layers(batch)
        return States(layers[-1], layers)
    if means.objective.needs == "reference-logits":
        return States(means.live.hidden(batch))
    return States()


def _measures(means: Means, states: Tensor | None) -> dict[str, Measure]:
    """What is measured of the policy's logits beside the log-prob, by name; each [p] of a chunk's positions."""
    terms, found = means.objective.terms, dict[str, Measure]()
    if "forward_kl" in terms and states is not None:
        live = means.live
        # KL(reference || policy) over the vocabulary, TDPO's direction
        found["forward_kl"] = lambda logits, place: token_kl(live.head(states[place]).detach(), logits)
    if "response_weights" in terms:
        found["log_square_sums"] = lambda logits, place: token_log_square_sums(logits.detach())
    if "eos_before" in terms:
        stops = _stop_tokens(means.scorer)
        found["stop_logps"] = lambda logits, place: torch.log_softmax(upcast(logits), -1)[:, stops].logsumexp(-1)
    return found


def _together(measures: dict[str, Measure]) -> Measure | None:
    """All measures as one: [p, M]."""
    if not measures:
        return None
    return lambda logits, place: torch.stack([one(logits, place) for one in measures.values()], -1)


def _eos_budget(objective: AnyObjective) -> float:
    """Tokens within which a response should not stop, of the part that has them."""
    return next(
        p.parameters["budget"] for _, p in objective.parts if isinstance(p, Outside) and "budget" in p.parameters
    )


def _stop_tokens(scorer: nn.Module) -> list[int]:
    """Tokens with which the policy ends a response, by its own config.

    Raises:
        ModelError: it names none.
    """
    assert isinstance(scorer, TokenScorer)  # what the worker trains
    causal = scorer.causal
    named = getattr(causal.generation_config, "eos_token_id", None)
    named = causal.config.get_text_config().eos_token_id if named is None else named
    if named is None:
        raise ModelError(
            "the policy's config names no eos_token_id",
            "one: the objective weighs the chance to stop",
            "set eos_token_id in the policy's config.json, or take refa",
        )
    return [named] if isinstance(named, int) else list(named)


def _reference_tokens(
    means: Means, sets: Sequence[TrainingSet], batch: Batch, prior: TokenPrior | None, states: Tensor | None
) -> Tensor | None:
    """Reference log-probs per token [P]: live, or as annotated; None where annotated sums are enough."""
    weighted = prior is not None and prior.weights != "none"
    if means.objective.needs == "token-logps":
        rows = [row for one in sets for row in one.reference_token_logps]
        return torch.tensor([value for row in rows for value in row], dtype=torch.float32, device=means.device)
    if states is None or not (weighted or means.objective.reference == "moving"):
        return None
    with torch.no_grad():
        chunk = means.config.logprob_chunk_tokens
        asked = states, means.live.head, batch.targets
        return chunked_token_logps(*asked, chunk_size=chunk, with_entropy=False).logps


def _weighted(
    prior: TokenPrior,
    sets: Sequence[TrainingSet],
    batch: Batch,
    found: TokenValues,
    divergence: Tensor | None,
    reference: Tensor | None,
    layers: Tensor | None,
) -> dict[str, Tensor]:
    """Sums of a token prior: weighted log-ratios, KL and mask sizes."""
    owner, responses = batch.response_index, len(batch.slot)
    logps = found.logps
    weights = torch.ones_like(logps)
    if prior.weights == "length-desensitized":
        shortest = torch.tensor([one.shortest for one in sets for _ in one.rewards], device=logps.device)
        weights = tokens.length_desensitized(owner, shortest, tail=prior.tail).to(logps.dtype)
    elif prior.weights == "importance":
        rows = [row for one in sets for row in one.token_weights]
        weights = logps.new_tensor([value for row in rows for value in row])
    elif prior.weights == "activation-mask" and layers is not None:
        weights = tokens.activation_mask(layers, owner, responses)
    elif prior.weights == "learned-mask" and found.masks is not None:
        weights = found.masks[0]
    kl_weights = weights if found.masks is None else found.masks[-1]
    values = {}
    if prior.weights != "none" and reference is not None:
        values["weighted_log_ratios"] = tokens.weighted_log_ratios(weights, logps, reference, owner, responses)
    if prior.kl and divergence is not None:
        values["forward_kl"] = sum_by_response(kl_weights * divergence, owner, responses)
    if prior.penalty:
        lengths = torch.bincount(owner, minlength=responses).clamp_min(1)
        values["mask_sizes"] = sum_by_response(weights.abs() + kl_weights.abs(), owner, responses) / lengths
    return values


def scatter(batch: Batch, values: Tensor) -> Tensor:
    """Per-response values [N, ...] into [B, K, ...], differentiably; 0 where a set has fewer responses."""
    shape = (*batch.shape, *values.shape[1:])
    return values.new_zeros(shape).index_put((batch.set_index, batch.slot), values)
