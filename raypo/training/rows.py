"""From rows of records.ANNOTATED to the sets that a step trains on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from raypo.data.packing import ResponseSet
from raypo.errors import DataError, IntegrityError
from raypo.objective import AnyObjective, set_loss
from raypo.objective.tokens import importance
from raypo.records import ANNOTATED, conform
from raypo.training.sets import TrainingSet, columns


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
