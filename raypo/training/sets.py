"""What a step trains on: sets of responses, from rows of records.ANNOTATED.

Shapes: B sets, K responses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from raypo.data.packing import ResponseSet
from raypo.errors import DataError, IntegrityError
from raypo.objective import AnyObjective, set_loss
from raypo.objective.tokens import importance
from raypo.records import ANNOTATED, conform


@dataclass(frozen=True)
class TrainingSet:
    """One row of records.ANNOTATED, as training needs it.

    Args:
        tokens: prompt and responses.
        reference_logps: per response, nats.
        rewards: per response; only differences matter.
        usable: per response.
        psi: of the prompt.
        ended: per response: a stop token ended it.
        reference_token_logps: per response and token, nats; empty where the objective needs sums alone.
        token_weights: per response and token; empty where the objective asks for none with the data.
        shortest: tokens of the shortest response of the whole set; 0: that of `tokens`.
    """

    tokens: ResponseSet
    reference_logps: Sequence[float]
    rewards: Sequence[float]
    usable: Sequence[bool]
    psi: float
    ended: Sequence[bool] = ()
    reference_token_logps: Sequence[Sequence[float]] = ()
    token_weights: Sequence[Sequence[float]] = ()
    shortest: int = 0

    def __post_init__(self) -> None:
        if not self.shortest:
            object.__setattr__(self, "shortest", min(len(ids) for ids in self.tokens.response_token_ids))
        if not self.ended:
            object.__setattr__(self, "ended", [True] * len(self.rewards))

    @property
    def response_tokens(self) -> int:
        """Tokens of all responses."""
        return sum(len(ids) for ids in self.tokens.response_token_ids)

    @property
    def content(self) -> str:
        """SHA-256 over every token and number of the set, hex: floats are told so that they come back exactly."""
        return hashlib.sha256(repr(self).encode()).hexdigest()

    def part(self, slots: Sequence[int]) -> TrainingSet:
        """Some of the responses, for a forward pass that cannot hold all; what belongs to the whole set stays."""
        ids = self.tokens.response_token_ids
        token_logps, weights = self.reference_token_logps, self.token_weights
        return replace(
            self,
            tokens=replace(self.tokens, response_token_ids=[ids[k] for k in slots]),
            reference_logps=[self.reference_logps[k] for k in slots],
            rewards=[self.rewards[k] for k in slots],
            usable=[self.usable[k] for k in slots],
            ended=[self.ended[k] for k in slots],
            reference_token_logps=[token_logps[k] for k in slots] if token_logps else (),
            token_weights=[weights[k] for k in slots] if weights else (),
        )


def read_tables(paths: Sequence[str]) -> pa.Table:
    """The rows of Parquet files of records.ANNOTATED, whose pages' checksums are compared on the way.

    The driver has compared the rows with their manifest; a worker group that starts again reads them hours later.

    Raises:
        IntegrityError: a file is not what was written.
        OSError: the storage does not answer.
    """
    parts = []
    for path in paths:
        try:
            table = pq.read_table(path, page_checksum_verification=True)
            parts.append(conform(table, ANNOTATED, what=path))
        except (DataError, pa.ArrowException, OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # Arrow's own faults with a file have no number
            raise IntegrityError(
                error.got if isinstance(error, DataError) else f"{path}: {error}",
                "the rows that were committed",
                "run the same command again: a table that is torn is made again",
            ) from error
    return pa.concat_tables(parts)


def training_sets(table: pa.Table, objective: AnyObjective, *, first_round: bool = True) -> list[TrainingSet]:
    """The rows of a table of records.ANNOTATED that train, by prompt id and round; unusable responses are left out.

    An objective with its own `tie_eps` may use fewer sets than the table marks as trainable.

    Args:
        table: of records.ANNOTATED.
        objective: that trains on them.
        first_round: whether the rows decide if the rewards are ordinal. Those of a later round cannot: scores may all
            be 0 or 1 there by chance.

    Raises:
        DataError: the objective needs scalar rewards, and all of the first round are ordinal; or token log-probs or
            weights, and none are there.
    """
    rows = sorted(table.to_pylist(), key=lambda row: (row["prompt_id"], row["round"]))
    found = [_from_row(row) for row in rows if row["trainable"]]
    if not found:
        return []
    if objective.needs == "token-logps" and not all(one.reference_token_logps for one in found):
        raise DataError(
            f"{objective.name} needs reference log-probs per token, and the annotated table has none",
            "a table that was annotated for this objective",
            "annotate again: raypo train or raypo run with this objective and another name",
        )
    if objective.weighs_by_importance and not all(one.token_weights for one in found):
        raise DataError(
            f"{objective.name} needs token weights, and the annotated table has no contrastive_token_gaps",
            "a table that was annotated with annotation.importance",
            "annotate again: raypo train or raypo run with this objective and another name",
        )
    from_the_best = [one if objective.needs_labels else _from_the_best(one) for one in found]
    given = columns(found if first_round else from_the_best, torch.float64, "cpu")
    zeros = torch.zeros_like(given["rewards"])
    terms = {name: zeros[..., None] if name == "embeddings" else zeros for name in objective.terms}
    used = set_loss(objective, policy_logps=zeros, terms=terms, **given).used
    return [one for one, trains in zip(from_the_best, used.tolist(), strict=True) if trains]


def _from_row(row: dict[str, Any]) -> TrainingSet:
    keep = [k for k, usable in enumerate(row["usable"]) if usable]
    token_logps, gaps = row.get("reference_token_logps"), row.get("contrastive_token_gaps")
    rewards = [row["scaled_rewards"][k] for k in keep]
    return TrainingSet(
        ResponseSet(row["prompt_id"], row["prompt_token_ids"], [row["response_token_ids"][k] for k in keep]),
        [row["reference_logps"][k] for k in keep],
        rewards,
        [True] * len(keep),
        row["psi"],
        [row["finish_reasons"][k] == "stop" for k in keep],
        [token_logps[k] for k in keep] if token_logps else (),
        _importance([gaps[k] for k in keep], rewards) if gaps else (),
    )


def _importance(gaps: list[list[float]], rewards: list[float]) -> list[list[float]]:
    """TIS-DPO's token weights; preferred are responses whose reward is nearer to the set's best than to its worst."""
    middle = (max(rewards) + min(rewards)) / 2
    return [
        importance(torch.tensor(row), torch.full((len(row),), reward > middle)).tolist()
        for row, reward in zip(gaps, rewards, strict=True)
    ]


def _from_the_best(one: TrainingSet) -> TrainingSet:
    """Rewards counted down from the set's best: only differences matter.

    A micro-batch whose scores happen to be 0 and 1 is then not taken for labels; whether all are labels is asked of the
    whole first round.
    """
    best = max(one.rewards)
    return replace(one, rewards=[value - best for value in one.rewards])


def columns(sets: Sequence[TrainingSet], dtype: torch.dtype, device: torch.device | str) -> dict[str, Any]:
    """What `set_loss` needs beside the policy's log-probs: psi [B], and [B, K] tensors, 0 where no response is."""
    width = max(len(one.rewards) for one in sets)

    def padded(rows: list[Sequence[Any]], kind: torch.dtype) -> Tensor:
        return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], dtype=kind, device=device)

    return {
        "reference_logps": padded([one.reference_logps for one in sets], dtype),
        "lengths": padded([[len(ids) for ids in one.tokens.response_token_ids] for one in sets], torch.long),
        "rewards": padded([one.rewards for one in sets], dtype),
        "mask": padded([one.usable for one in sets], torch.bool),
        "psi": torch.tensor([one.psi for one in sets], dtype=dtype, device=device),
    }
