"""From sets to gradients: one pass where a micro-batch holds whole sets, two where it cannot.

    direct     forward, loss and backward per micro-batch of whole sets
    two-pass   scores without gradient for all responses; the loss of the whole sets, and c_i = dL/ds_i; then forward
               again in parts and backward of sum_i c_i s_i

The second gives the first's gradient exactly (the chain rule with c_i held constant; GroupDPO, arXiv 2604.15602), with
the memory of a part however large the set is, for one more forward pass. It is taken by the sets of a step that exceed
the token budget, while the others take one pass; and by all when the objective couples sets: then the scores of all
ranks are gathered before the loss (AOT sorts over them).

Normalisation is global: losses are summed over sets and divided by the sets of the step, over all ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from raypo.data.packing import Packing, micro_batches
from raypo.objective import set_loss
from raypo.objective.kernel import SetLoss
from raypo.training.sets import TrainingSet, columns
from raypo.training.terms import DIFFERENTIABLE, Means, response_values, scatter


@dataclass(frozen=True)
class Ranks:
    """Which of how many."""

    rank: int
    world_size: int


@dataclass(frozen=True)
class Part:
    """Some responses of one of this rank's sets: its place among them, and the responses' slots."""

    place: int
    slots: tuple[int, ...]


def share(sets: Sequence[TrainingSet], world_size: int, packing: Packing = "none") -> list[list[int]]:
    """Which sets of a step each rank takes: longest first, each to the rank with the fewest tokens so far."""
    loads, sizes = [0] * world_size, [one.tokens.tokens(packing) for one in sets]
    parts: list[list[int]] = [[] for _ in range(world_size)]
    for index in sorted(range(len(sets)), key=lambda i: (-sizes[i], i)):
        rank = loads.index(min(loads))
        parts[rank].append(index)
        loads[rank] += sizes[index]
    return parts


def divided(means: Means, sets: Sequence[TrainingSet]) -> tuple[list[TrainingSet], list[TrainingSet]]:
    """Sets that take one pass, and those that need two; the same on every rank."""
    if means.objective.couples_sets:
        return [], list(sets)
    budget, packing = means.config.tokens_per_micro_batch, means.config.packing
    large = [one for one in sets if one.tokens.tokens(packing) > budget]
    return [one for one in sets if one.tokens.tokens(packing) <= budget], large


def backward(means: Means, sets: Sequence[TrainingSet], ranks: Ranks) -> dict[str, Tensor]:
    """Gradients of the mean loss over the step's sets; returns this rank's sums of loss and metrics."""
    fitting, large = divided(means, sets)
    sums: dict[str, Tensor] = {}
    # what is laid out ahead is for the next step's first pass, so one pass comes last
    for part, passes in ((large, two_pass), (fitting, direct)):
        if part:
            for name, value in passes(means, part, ranks, len(sets)).items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value
    return sums


def direct(means: Means, sets: Sequence[TrainingSet], ranks: Ranks, of_step: int | None = None) -> dict[str, Tensor]:
    """One pass: micro-batches of whole sets; `of_step`: how many sets the step has, where these are not all."""
    sums: dict[str, Tensor] = {}
    config = means.config
    batches = rank_batches(sets, config.tokens_per_micro_batch, ranks.rank, ranks.world_size, config.packing)
    laid_out = means.collation.batches(batches, lambda one: one[0], means.pack, _first(means, ranks))
    for (part, real), batch in laid_out:
        values = {name: scatter(batch, value) for name, value in response_values(means, part, batch).items()}
        out = loss_of(means, part, values)
        loss = out.loss.sum()
        # FSDP2 averages gradients over ranks; the sum over all of them is wanted, divided by the step's sets
        torch.autograd.backward(loss * (ranks.world_size / (of_step or len(sets)) if real else 0.0))
        if real:
            accumulate(sums, out)
    return sums


def _first(means: Means, ranks: Ranks) -> Sequence[TrainingSet]:
    """This rank's first micro-batch of the step that follows; none where it begins with two, over parts of sets."""
    fitting, large = divided(means, means.following)
    if large or not fitting:
        return ()
    config = means.config
    following = rank_batches(fitting, config.tokens_per_micro_batch, ranks.rank, ranks.world_size, config.packing)
    return next(following)[0]


def two_pass(means: Means, sets: Sequence[TrainingSet], ranks: Ranks, of_step: int | None = None) -> dict[str, Tensor]:
    """Scores first, then the surrogate in parts; `of_step` as in `direct`."""
    own = [sets[i] for i in share(sets, ranks.world_size, means.config.packing)[ranks.rank]]
    plan = split(means, own)
    most = _most(len(plan), ranks, means.device)
    spare = min(sets, key=lambda one: one.tokens.padded_tokens).part([0])
    with torch.no_grad():
        scores = _score(means, own, plan, most, spare)
    out, slopes = _slopes(means, sets, own, scores, ranks)
    parts = _parts(own, plan, most, spare)
    laid_out = means.collation.batches(parts, lambda one: one[1], means.pack)
    for number, ((group, part), batch) in enumerate(laid_out):
        values = response_values(means, part, batch)
        surrogate = sum(
            (
                (_rows(slopes[name], group) if group else torch.zeros_like(value)) * value
                for name, value in values.items()
                if name in DIFFERENTIABLE
            ),
            start=torch.zeros_like(values["policy_logps"]),
        )
        torch.autograd.backward(surrogate.sum() * (ranks.world_size / (of_step or len(sets))))
        if number == 0 < most - 1:
            keep_together(means.scorer.parameters())
    sums: dict[str, Tensor] = {}
    if out is not None:
        accumulate(sums, out)
    return sums


def keep_together(parameters: Iterable[Tensor]) -> None:
    """Move the gradients of a first part into one piece of memory, where those of the parts that follow are added.

    They were made one by one between the activations of the first part. Left there they would cut up the heap that the
    activations of every further part need. FSDP2 keeps those of a layer in one piece itself.
    """
    held = [one for one in parameters if one.grad is not None and not isinstance(one.grad, DTensor)]
    for kind in {(one.grad.dtype, one.grad.device) for one in held if one.grad is not None}:
        alike = [one for one in held if one.grad is not None and (one.grad.dtype, one.grad.device) == kind]
        piece = torch.empty(sum(one.numel() for one in alike), dtype=kind[0], device=kind[1])
        for one, place in zip(alike, piece.split([one.numel() for one in alike]), strict=True):
            assert one.grad is not None  # of those that are held
            one.grad = place.view_as(one).copy_(one.grad)


def split(means: Means, own: Sequence[TrainingSet]) -> list[list[Part]]:
    """Micro-batches of parts of sets, none over the budget unless one response is."""
    config = means.config
    parts: list[Part] = []
    for place, one in enumerate(own):
        slots: list[int] = []
        for slot in range(len(one.rewards)):
            grown = one.part([*slots, slot]).tokens.tokens(config.packing)
            if slots and grown > config.tokens_per_micro_batch:
                parts.append(Part(place, tuple(slots)))
                slots = []
            slots.append(slot)
        parts.append(Part(place, tuple(slots)))
    pieces = [own[one.place].part(one.slots).tokens for one in parts]
    return [[parts[i] for i in group] for group in micro_batches(pieces, config.tokens_per_micro_batch, config.packing)]


def _parts(
    own: Sequence[TrainingSet], plan: list[list[Part]], most: int, spare: TrainingSet
) -> Iterator[tuple[list[Part], list[TrainingSet]]]:
    """The planned micro-batches, and as many of a spare response as the busiest rank has more."""
    for number in range(most):
        group = plan[number] if number < len(plan) else []
        yield group, [own[one.place].part(one.slots) for one in group] or [spare]


def _score(
    means: Means, own: Sequence[TrainingSet], plan: list[list[Part]], most: int, spare: TrainingSet
) -> dict[str, list[Tensor]]:
    """Values of every response of this rank's sets, without gradient: per name, per set, [K, ...].

    They are written to one place per set, so that no tensor per response lies between the large ones of the passes.
    """
    found: dict[str, list[Tensor]] = {}
    parts = _parts(own, plan, most, spare)
    for (group, part), batch in means.collation.batches(parts, lambda one: one[1], means.pack):
        values = response_values(means, part, batch)
        for name, value in values.items():
            if name not in found:
                found[name] = [value.new_zeros(len(one.rewards), *value.shape[1:]) for one in own]
            for one, each in zip(group, value.split([len(one.slots) for one in group]) if group else (), strict=True):
                found[name][one.place][list(one.slots)] = each
    return found


def _slopes(
    means: Means,
    sets: Sequence[TrainingSet],
    own: Sequence[TrainingSet],
    scores: dict[str, list[Tensor]],
    ranks: Ranks,
) -> tuple[SetLoss | None, dict[str, list[Tensor]]]:
    """Loss of this rank's sets, and its slope in each response's values: per name, per set, [K]."""
    held, first = list(own), 0
    if means.objective.couples_sets and ranks.world_size > 1:
        held, scores, first = _gather(sets, scores, ranks, means.config.packing)
    if not held:
        return None, {}
    leaves = {
        name: torch.stack([_padded(row, max(len(one.rewards) for one in held)) for row in rows]).to(means.device)
        for name, rows in scores.items()
    }
    for name, leaf in leaves.items():
        leaf.requires_grad_(name in DIFFERENTIABLE)
    out = loss_of(means, held, leaves)
    wanted = [name for name in leaves if name in DIFFERENTIABLE]
    grads = torch.autograd.grad(out.loss.sum(), [leaves[name] for name in wanted], allow_unused=True)
    mine = slice(first, first + len(own))
    slopes = {
        name: list((torch.zeros_like(leaves[name]) if grad is None else grad)[mine])
        for name, grad in zip(wanted, grads, strict=True)
    }
    metrics = {name: value[mine] for name, value in out.metrics.items()}
    return SetLoss(out.loss[mine].detach(), out.used[mine], out.margins[mine], metrics), slopes


def _gather(
    sets: Sequence[TrainingSet], scores: dict[str, list[Tensor]], ranks: Ranks, packing: Packing
) -> tuple[list[TrainingSet], dict[str, list[Tensor]], int]:
    """The sets and scores of all ranks, in one order on every rank, and where this rank's begin."""
    theirs: list[dict[str, list[Tensor]]] = [{} for _ in range(ranks.world_size)]
    dist.all_gather_object(theirs, {name: [row.cpu() for row in rows] for name, rows in scores.items()})
    parts = share(sets, ranks.world_size, packing)
    held = [sets[i] for part in parts for i in part]
    joined = {name: [row for one in theirs for row in one.get(name, [])] for name in scores}
    return held, joined, sum(len(part) for part in parts[: ranks.rank])


def _padded(row: Tensor, width: int) -> Tensor:
    return torch.cat([row, row.new_zeros(width - len(row), *row.shape[1:])])


def _rows(slopes: list[Tensor], group: list[Part]) -> Tensor:
    """Slopes of a micro-batch's responses, in its order, [N]."""
    return torch.cat([slopes[one.place][list(one.slots)] for one in group])


def loss_of(means: Means, sets: Sequence[TrainingSet], values: dict[str, Tensor]) -> SetLoss:
    """The objective on sets whose values are [B, K]."""
    policy = values["policy_logps"]
    given = columns(sets, policy.dtype, means.device)
    if "reference_logps" in values:
        given["reference_logps"] = values["reference_logps"]
    terms = {name: values[name] for name in means.objective.terms if name in values}
    if "anchor" in means.objective.terms:
        terms["anchor"] = torch.full_like(policy, means.anchor)
    return set_loss(means.objective, policy_logps=policy, terms=terms, **given)


def rank_batches(
    sets: Sequence[TrainingSet], budget: int, rank: int, world_size: int, packing: Packing = "none"
) -> Iterator[tuple[list[TrainingSet], bool]]:
    """This rank's micro-batches, as many as the busiest rank has: the missing ones repeat a set with weight 0.

    Every rank must join every forward and backward pass, because they gather shards.
    """
    parts = share(sets, world_size, packing)
    plans = [micro_batches([sets[i].tokens for i in part], budget, packing) for part in parts]
    for number in range(max(len(plan) for plan in plans)):
        if number < len(plans[rank]):
            yield [sets[parts[rank][i]] for i in plans[rank][number]], True
        else:
            yield [min(sets, key=lambda one: one.tokens.padded_tokens)], False


def _most(count: int, ranks: Ranks, device: torch.device | str) -> int:
    """The largest count over the ranks: each must join as many passes as the busiest."""
    if ranks.world_size == 1:
        return count
    counts: list[int] = [0] * ranks.world_size
    dist.all_gather_object(counts, count)
    return max(counts)


def accumulate(sums: dict[str, Tensor], out: SetLoss) -> None:
    """Add sums over the used sets of a micro-batch."""
    parts = {"loss": out.loss.detach().sum(), "used": out.used.sum().to(out.loss.dtype)}
    parts |= {name: torch.where(out.used, value, torch.zeros_like(value)).sum() for name, value in out.metrics.items()}
    for name, value in parts.items():
        sums[name] = sums.get(name, torch.zeros_like(value)) + value
