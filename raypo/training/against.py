"""What the policy is measured against while it trains: a live reference, and the anchor's score.

Both are read off the objective's data: a prior that needs logits or hidden states, a moving reference, a running mean
or mismatched pairs. An objective of annotated sums holds nothing here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from raypo.config import RunConfig
from raypo.logprobs import chunked_token_logps
from raypo.models.live import LiveReference
from raypo.models.scorer import TokenScorer
from raypo.models.shard import load_sharded
from raypo.objective import AnyObjective, Objective
from raypo.objective.outside import kto_anchor, running_anchor
from raypo.training.passes import rank_batches
from raypo.training.sets import TrainingSet
from raypo.training.terms import Means, token_prior


def learned_masks(objective: AnyObjective) -> int:
    """How many trained token masks the policy's scorer needs."""
    prior = token_prior(objective)
    if prior is None or prior.weights != "learned-mask":
        return 0
    return 2 if prior.masks == "independent" else 1


def anchored_part(objective: AnyObjective) -> Objective | None:
    """The part against an anchor whose score moves; there is at most one."""
    parts = [part for _, part in objective.parts if isinstance(part, Objective)]
    return next((part for part in parts if part.anchor != "zero"), None)


def anchor_kind(objective: AnyObjective) -> str:
    """Where the anchor's score comes from: "zero", "running-mean" or "mismatched-pairs"."""
    part = anchored_part(objective)
    return "zero" if part is None else part.anchor


class Against:
    """The live reference and the anchor of one run, on this rank.

    Args:
        config: of the run.
        objective: of the run.
        mesh: of the policy.
    """

    def __init__(self, config: RunConfig, objective: AnyObjective, mesh: DeviceMesh) -> None:
        self._training, self._objective, self._kind = config.training, objective, anchor_kind(objective)
        self.anchor, self._batches = 0.0, 0
        self.reference: LiveReference | None = None
        if objective.needs.startswith("reference-"):
            policy = config.policy.model_copy(update={"adapter": "none"})
            self.reference = LiveReference(load_sharded(policy, mesh, activation_checkpointing=False))

    @property
    def moving(self) -> nn.Module | None:
        """The reference whose weights belong into a checkpoint, or None."""
        return self.reference.scorer if self.reference and self._objective.reference == "moving" else None

    def before(self, means: Means, sets: Sequence[TrainingSet], rank: int, world_size: int) -> None:
        """Set the anchor of a step; collective where there are ranks."""
        if self._kind == "mismatched-pairs":
            self.anchor = mismatched_anchor(means, sets, rank, world_size)

    def after(self, scorer: nn.Module, metrics: dict[str, float], step: int) -> None:
        """Take in what a step did: the running mean of implicit rewards, and the policy's new weights."""
        if self._kind == "running-mean":
            mean = torch.tensor((metrics["rewards/chosen"] + metrics["rewards/rejected"]) / 2)
            previous = torch.tensor(self.anchor) if self._batches else None
            self.anchor = float(running_anchor(previous, mean, decay=self._batches / (self._batches + 1)))
            self._batches += 1
        training = self._training
        if self.reference and self._objective.reference == "moving" and step % training.reference_steps == 0:
            assert isinstance(scorer, TokenScorer)  # what the worker trains
            self.reference.follow(scorer, training.reference_mixing)

    def facts(self) -> dict[str, float]:
        """What a checkpoint keeps beside weights."""
        return {"anchor": self.anchor, "batches": float(self._batches)}

    def load(self, facts: dict[str, float]) -> None:
        """Continue from a checkpoint's facts."""
        self.anchor, self._batches = facts.get("anchor", 0.0), int(facts.get("batches", 0))


@torch.no_grad()
def mismatched_anchor(means: Means, sets: Sequence[TrainingSet], rank: int, world_size: int) -> float:
    """KTO's z over the step: each prompt with the first response of the next set; 0 for a step of one set.

    In the units of the score that it stands against, the mean over all ranks.
    """
    if len(sets) < 2:
        return 0.0
    pairs = [mismatched(one, other) for one, other in zip(sets, [*sets[1:], sets[0]], strict=True)]
    config, totals = means.config, torch.zeros(3, dtype=torch.float64, device=means.device)
    for part, real in rank_batches(pairs, config.tokens_per_micro_batch, rank, world_size, config.packing):
        batch = means.pack(part)
        ours = means.scorer(batch, chunk_tokens=config.logprob_chunk_tokens).logps
        theirs = chunked_token_logps(
            means.live.hidden(batch),
            means.live.head,
            batch.targets,
            chunk_size=config.logprob_chunk_tokens,
            with_entropy=False,
        ).logps
        if real:
            totals += torch.stack([ours.double().sum(), theirs.double().sum(), totals.new_tensor(len(part))])
    if world_size > 1:
        dist.all_reduce(totals)
    policy, reference, count = totals.tolist()
    mean = torch.tensor([policy / count]), torch.tensor([reference / count])
    against = anchored_part(means.objective)
    assert against is not None  # nobody else asks
    return float(kto_anchor(*mean, against.beta))


def mismatched(one: TrainingSet, other: TrainingSet) -> TrainingSet:
    """A prompt with another prompt's first response."""
    first = other.part([0])
    ids = first.tokens.response_token_ids
    return replace(first, tokens=replace(one.tokens, response_token_ids=ids))
