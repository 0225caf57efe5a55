"""What an annotated table says beyond the reference's numbers: which sets train, scales, dispersion and psi.

Pure: tables in, tables out. The reference's numbers come from the actors; see `raypo.stages.verbs.annotate`.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from raypo import dispersion
from raypo.config import RunConfig
from raypo.data.known import known_dispersion
from raypo.errors import DataError
from raypo.records import ANNOTATED, conform
from raypo.scoring.rewards import reward_spread, trainability
from raypo.stages.cluster import objective_of

Facts = dict[str, Any]


def annotated_for(config: RunConfig, round_index: int) -> Facts:
    """What a round's annotation depends on beside its rows: rounds where these differ do not belong in one loss."""
    objective = objective_of(config)
    importance = config.annotation.importance if objective.weighs_by_importance else None
    return {
        "reference": config.online.reference if round_index else "initial",
        "with_tokens": objective.needs == "token-logps",
        "importance": None if importance is None else importance.model_dump(mode="json"),
    }


def refuse_labels(name: str, rewards: list[list[float | None]], usable: list[list[bool]]) -> None:
    """Refuse labels for an objective that needs scalars.

    Raises:
        DataError: every usable reward is 0 or 1, and both occur.
    """
    pairs = (pair for row in zip(rewards, usable, strict=True) for pair in zip(*row, strict=True))
    if {value for value, usable_ in pairs if usable_} == {0.0, 1.0}:
        raise DataError(
            f"{name}: every reward is 0 or 1",
            "scalar rewards: deviations from the mean weigh responses by how much better they are, which labels do not "
            "say",
            "take objective.preset=mpo or dpo, or give scores",
        )


def finish_annotation(
    table: pa.Table, config: RunConfig, *, scales: dict[str, float] | None, vocabulary: int
) -> tuple[pa.Table, Facts]:
    """Decide which sets train, fit or apply the scales, and write dispersion and psi. Pure: table in, table out."""
    table = table.sort_by("prompt_id")
    rewards, usable = table["rewards"].to_pylist(), table["usable"].to_pylist()
    objective, least = objective_of(config), config.scoring.min_reward_spread
    decided = [
        trainability(row, mask, least, lone=objective.needs_labels) for row, mask in zip(rewards, usable, strict=True)
    ]
    if scales is None and objective.needs_scalar_rewards:
        refuse_labels(objective.name, rewards, usable)  # the scale would hide that they are
    trainable = [ok for ok, _ in decided]
    if scales is None:
        scales = fit_scales(table, config, trainable, vocabulary)
    index = dispersion_index(table, config, vocabulary, spread=scales["spread"])
    psi = dispersion.psi(index, scales["psi"]) if config.dispersion.estimator != "none" else torch.ones_like(index)
    if config.dispersion.shuffle:
        order = np.random.default_rng([config.seed, int(table["round"][0].as_py())]).permutation(len(psi))
        psi = psi[torch.from_numpy(order)]
    scaled = [[None if v is None else v / scales["reward"] for v in row] for row in rewards]
    columns = {
        "trainable": pa.array(trainable, pa.bool_()),
        "untrainable_reason": pa.array([reason for _, reason in decided]),
        "scaled_rewards": pa.array(scaled, pa.list_(pa.float64())),
        "dispersion": pa.array(index.tolist(), pa.float64()),
        "psi": pa.array(psi.tolist(), pa.float64()),
    }
    for name, column in columns.items():
        table = table.append_column(name, column)
    facts = {
        "sets": table.num_rows,
        "trainable": sum(trainable),
        "untrainable": dict(Counter(reason for ok, reason in decided if not ok)),
        "scales": scales,
        "psi_mean": float(psi[torch.tensor(trainable)].mean()) if any(trainable) else None,
        "dispersion_histogram": np.histogram(index.numpy(), bins=20, range=(0.0, 1.0))[0].tolist(),
        "vocabulary": vocabulary,
    }
    return conform(table, ANNOTATED, what="annotation"), facts


def fit_scales(table: pa.Table, config: RunConfig, trainable: list[bool], vocabulary: int) -> dict[str, float]:
    """Reward scale, psi scale and average spread of rewards of the first round, to be frozen.

    The psi scale is 1 where dispersion is given, and fitted to nothing.

    The spread is that beside which `reward_spread` calls a prompt dispersed; 1, and read by nobody, with another
    estimator. Fitted anew each round it would hide that all rewards have moved together.
    """
    spread = 1.0
    if config.dispersion.estimator == "reward_spread":
        columns, mask = columns_of(table)
        spread = float(dispersion.reward_spread_scale(columns["rewards"], mask))
    index = dispersion_index(table, config, vocabulary, spread=spread)
    reward = reward_spread(table, trainable) if config.scoring.reward_scale == "run_std" and any(trainable) else 1.0
    if config.dispersion.estimator == "given":
        psi = 1.0  # psi = -ln d as it is known; fitted, it would be known only up to a factor
    elif config.dispersion.scale != "fit":
        psi = float(config.dispersion.scale)
    elif any(trainable):
        psi = float(dispersion.fit_psi_scale(index, torch.tensor(trainable)))
    else:
        psi = 1.0
    return {"reward": reward, "psi": psi, "spread": spread}


def dispersion_index(
    table: pa.Table, config: RunConfig, vocabulary: int, *, spread: float | None = None
) -> torch.Tensor:
    """Dispersion index per row by the configured estimator, float64 [rows], in [1e-3, 0.999].

    Args:
        table: scored and annotated by the reference.
        config: of the run.
        vocabulary: width of the logits.
        spread: the average spread of rewards that `fit_scales` froze; None: this table's own.

    Raises:
        DataError: the dispersion is to be given, and a row does not have it.
    """
    if config.dispersion.estimator == "given":
        return dispersion.clamp_index(torch.tensor(known_dispersion(table), dtype=torch.float64))
    columns, mask = columns_of(table)
    lengths = columns["response_lengths"]
    match config.dispersion.estimator:
        case "likelihood":
            return dispersion.likelihood_index(columns["reference_logps"], lengths, mask, vocabulary)
        case "reward_spread":
            scale = None if spread is None else torch.tensor(spread, dtype=torch.float64)
            return dispersion.reward_spread_index(columns["rewards"], mask, scale)
        case _:
            return dispersion.entropy_index(columns["reference_entropies"], lengths, mask, vocabulary)


def columns_of(table: pa.Table) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """What estimators read, float64 [rows, K] by the column's name, and which responses count, bool [rows, K]."""
    width = max((len(row) for row in table["rewards"].to_pylist()), default=0)
    names = ("reference_entropies", "reference_logps", "response_lengths", "rewards")
    columns = {name: padded(table[name].to_pylist(), width) for name in names}
    return columns, padded(table["usable"].to_pylist(), width).bool()


def padded(rows: list[list[Any]], width: int) -> torch.Tensor:
    """Ragged lists as float64 [rows, width], padded with 0; None becomes 0."""
    out = torch.zeros(len(rows), width, dtype=torch.float64)
    for index, row in enumerate(rows):
        values = [0.0 if v is None else float(v) for v in row]
        out[index, : len(values)] = torch.tensor(values, dtype=torch.float64)
    return out
