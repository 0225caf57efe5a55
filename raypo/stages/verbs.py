"""Sample, score, annotate: one verb a function, `table -> (table, facts)`. Committing is the caller's.

Each verb streams its rows through Ray Data to long-lived actors. Facts are what the stage wants remembered beside its
table: counts in, kept and dropped by reason, tokens, seconds.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from raypo.config import FunctionReward, HttpReward, RunConfig
from raypo.errors import RewardError
from raypo.records import SAMPLED, SCORED, conform
from raypo.scoring.rewards import Scorer
from raypo.stages import annotation
from raypo.stages.actors import EMPTY, Actors, get
from raypo.stages.streaming import stream

Progress = Callable[[pa.Table], None]
Facts = dict[str, Any]


def request_seed(run_seed: int, stream_name: str, prompt_id: str) -> int:
    """Seed of a request: 62 bits of a hash of (run seed, stream, prompt id).

    vLLM draws response k with seed + k, so neighbouring seeds would collide; hashed ones do not, and the sum stays
    below 2**63.
    """
    digest = hashlib.sha256(f"{run_seed}/{stream_name}/{prompt_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 2


def chunked(table: pa.Table, rows: int) -> list[pa.Table]:
    """Cut a table into chunks, numbered by a column `chunk` so that a task knows which actor is its own."""
    parts = [table.slice(start, rows) for start in range(0, table.num_rows, rows)]
    return [
        part.append_column("chunk", pa.array([index] * part.num_rows, pa.int32())).combine_chunks()
        for index, part in enumerate(parts)
    ]


def sample(
    prompts: pa.Table,
    actors: Actors,
    config: RunConfig,
    *,
    round_index: int,
    version: int,
    seeds: str,
    num_responses: int,
    progress: Progress,
) -> tuple[pa.Table, Facts]:
    """Draw responses for prompts (records.PROMPTS) from engines that hold a version; returns records.SAMPLED.

    Args:
        prompts: rows to sample for.
        actors: of the run.
        config: of the run.
        round_index: written into the rows.
        version: weight version that the engines must hold.
        seeds: name of the seed stream: the same name gives every policy the same seeds.
        num_responses: per prompt.
        progress: told each finished chunk.

    Raises:
        StaleEngine: an engine holds another version.
        EngineError: an engine died or did not answer in time.
    """
    began = time.monotonic()
    settings = {
        "temperature": config.sampling.temperature,
        "top_p": config.sampling.top_p,
        "max_response_tokens": config.sampling.max_response_tokens,
        "stop_token_ids": list(config.sampling.stop_token_ids),
    }
    engines = actors.engines.handles()
    run_seed = config.seed

    def call(batch: pa.Table) -> pa.Table:
        engine = engines[batch["chunk"][0].as_py() % len(engines)]
        ids = batch["prompt_id"].to_pylist()
        request_seeds = [request_seed(run_seed, seeds, prompt_id) for prompt_id in ids]
        drawn = engine(
            "generate",
            version,
            batch["prompt_token_ids"].to_pylist(),
            request_seeds,
            num_responses=num_responses,
            **settings,
        )
        rows = batch.num_rows
        columns = {name: batch[name] for name in ("prompt_id", "prompt", "prompt_token_ids", "metadata")}
        columns |= {
            "round": pa.array([round_index] * rows, pa.int32()),
            "weight_version": pa.array([version] * rows, pa.int32()),
            "seed": pa.array(request_seeds, pa.int64()),
            "sampling": pa.array([json.dumps(settings, sort_keys=True)] * rows),
        }
        return conform(pa.table(columns | {name: drawn[name] for name in drawn.column_names}), SAMPLED, what="sampling")

    table = stream(
        chunked(prompts, config.sampling.batch_prompts),
        call,
        concurrency=2 * len(engines),
        no_progress_timeout_s=config.cluster.no_progress_timeout_s,
        progress=progress,
    )
    tokens = count_tokens(table)
    reasons = Counter(reason for row in table["finish_reasons"].to_pylist() for reason in row)
    return table, {
        "prompts": table.num_rows,
        "responses": table.num_rows * num_responses,
        "response_tokens": tokens,
        "finish_reasons": dict(reasons),
        "seconds": time.monotonic() - began,
    }


def count_tokens(table: pa.Table) -> int:
    """Response tokens in a table with `response_token_ids`."""
    return sum(len(ids) for row in table["response_token_ids"].to_pylist() for ids in row)


def score(sampled: pa.Table, actors: Actors, config: RunConfig, *, progress: Progress) -> tuple[pa.Table, Facts]:
    """Judge responses with every reward source; returns records.SCORED, one row out per row in.

    Raises:
        RewardError: a source is broken, or too many responses could not be scored.
    """
    began = time.monotonic()
    models = {name: list(handles) for name, handles in actors.reward_models.items()}
    timeout = config.cluster.no_progress_timeout_s

    def call(batch: pa.Table) -> pa.Table:
        chunk = batch["chunk"][0].as_py()

        def remote(name: str) -> Any:
            actor = models[name][chunk % len(models[name])]
            return lambda *columns: get(actor.score.remote(*columns), timeout, f"reward model {name!r}")

        scorer = Scorer(config.rewards, config.scoring, models={name: remote(name) for name in models})
        return conform(scorer(batch.drop_columns(["chunk"])), SCORED, what="scoring")

    slowest = max((len(handles) for handles in models.values()), default=0)
    local = any(isinstance(source, FunctionReward | HttpReward) for source in config.rewards)
    table = stream(
        chunked(sampled, config.sampling.batch_prompts),
        call,
        concurrency=max(2 * slowest, 4 if local else 1),
        no_progress_timeout_s=timeout,
        progress=progress,
    )
    reasons = Counter(reason for row in table["unusable_reason"].to_pylist() for reason in row if reason)
    total = sum(len(row) for row in table["usable"].to_pylist())
    failed = reasons.get("reward_failed", 0)
    if total and failed / total > config.scoring.max_failed_fraction:
        raise RewardError(
            f"{failed} of {total} responses could not be scored ({without_value(table, config)})",
            f"at most a share of {config.scoring.max_failed_fraction:g} (scoring.max_failed_fraction)",
            "mend the reward source: it raised, timed out, or gave NaN",
        )
    return table, {
        "responses": total,
        "unusable": dict(reasons),
        "reward_mean": mean_reward(table),
        "seconds": time.monotonic() - began,
    }


def without_value(table: pa.Table, config: RunConfig) -> str:
    """How many responses of a SCORED table each source of the training reward gave no number for."""
    missing: Counter[str] = Counter()
    for row in table["reward_values"].to_pylist():
        for source in row:
            missing[source["name"]] += sum(value is None for value in source["values"])
    told = [
        f"reward {source.name!r}: no number for {missing[source.name]}" for source in config.rewards if source.weight
    ]
    return ", ".join(told)


def mean_reward(table: pa.Table) -> float:
    """Mean training reward over all finite rewards of a SCORED table; NaN when there is none."""
    values = [v for row in table["rewards"].to_pylist() for v in row if v is not None and np.isfinite(v)]
    return float(np.mean(values)) if values else float("nan")


def annotate(
    scored: pa.Table,
    actors: Actors,
    config: RunConfig,
    *,
    reference: str,
    scales: dict[str, float] | None,
    progress: Progress,
) -> tuple[pa.Table, Facts]:
    """Add reference log-probs, entropies, dispersion and psi; returns records.ANNOTATED.

    Args:
        scored: rows of records.SCORED.
        actors: of the run.
        config: of the run.
        reference: folder or hub name of the reference model.
        scales: `{"reward": ..., "psi": ..., "spread": ...}` as frozen by the first round; None on it, which fits
            them.
        progress: told each finished chunk.

    Returns:
        the table, and facts that hold the scales used and the vocabulary size.
    """
    began = time.monotonic()
    handles, timeout = actors.references, config.cluster.no_progress_timeout_s
    basis = annotation.annotated_for(config, scored["round"][0].as_py() if scored.num_rows else 0)
    asked = {"with_tokens": basis["with_tokens"], "with_gaps": basis["importance"] is not None}

    def call(batch: pa.Table) -> pa.Table:
        actor = handles[batch["chunk"][0].as_py() % len(handles)]
        rows = batch.drop_columns(["chunk"])
        call = actor.call.remote(reference, "annotate", rows, **asked)
        return get(call, timeout, "the reference")

    table = stream(
        chunked(scored, config.sampling.batch_prompts),
        call,
        concurrency=2 * len(handles),
        no_progress_timeout_s=timeout,
        progress=progress,
    )
    vocabulary = get(handles[0].call.remote(reference, "vocabulary_size"), timeout, "the reference")
    table, facts = annotation.finish_annotation(table, config, scales=scales, vocabulary=vocabulary)
    return table, facts | {"basis": basis, "seconds": time.monotonic() - began}


def held_version(table: pa.Table) -> int:
    """The single weight version of a sampled table; -1 for given responses."""
    versions = set(table["weight_version"].to_pylist())
    return versions.pop() if len(versions) == 1 else EMPTY
