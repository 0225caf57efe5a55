"""Held-out evaluation of one weight version: the same prompts and seeds for every policy, on the engines that hold it.

What is evaluated is what is exported: after a sync the live engine holds exactly the tensors of the version's Hugging
Face folder, and KL is taken with a model that is loaded from that folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from raypo.config import RunConfig
from raypo.records import MEASURED, conform
from raypo.stages.actors import Actors, get
from raypo.stages.streaming import stream
from raypo.stages.verbs import chunked, sample, score

SEEDS = "heldout"  # name of the seed stream: it names no round and no version


def heldout_prompts(prompts: pa.Table, config: RunConfig) -> pa.Table:
    """The held-out rows that are evaluated: the first by prompt id, which is a content hash."""
    rows = prompts.filter(pc.equal(prompts["split"], "heldout")).sort_by("prompt_id")
    return rows.slice(0, config.evaluation.num_prompts)


def draw(
    prompts: pa.Table,
    actors: Actors,
    config: RunConfig,
    *,
    version: int,
    policy: str,
    initial: str,
    progress: Callable[[str], Callable[[pa.Table], None]],
) -> tuple[pa.Table, pa.Table, dict[str, float]]:
    """Sample, score and measure the KL of one version on held-out prompts.

    Args:
        prompts: held-out rows of records.PROMPTS.
        actors: of the run.
        config: of the run.
        version: weight version that the engines hold.
        policy: durable folder of that version.
        initial: folder of the initial policy.
        progress: given a stage's name, a callback for its chunks.

    Returns:
        rows of records.SCORED and of records.MEASURED, both sorted by prompt id; seconds by part.
    """
    sampled, sampling = sample(
        prompts,
        actors,
        config,
        round_index=version,
        version=version,
        seeds=SEEDS,
        num_responses=config.evaluation.num_responses,
        progress=progress("evaluate: sample"),
    )
    scored, scoring = score(sampled, actors, config, progress=progress("evaluate: score"))
    began = time.monotonic()
    divergence = measure(scored, actors, config, policy=policy, initial=initial, progress=progress("evaluate: KL"))
    seconds = {"sample": sampling["seconds"], "score": scoring["seconds"], "kl": time.monotonic() - began}
    return scored.sort_by("prompt_id"), divergence, seconds


def measure(
    rows: pa.Table,
    actors: Actors,
    config: RunConfig,
    *,
    policy: str,
    initial: str,
    progress: Callable[[pa.Table], None],
) -> pa.Table:
    """Given responses under a policy and under the initial policy; returns records.MEASURED, sorted by prompt id.

    Args:
        rows: records.SCORED, whoever drew the responses. The KL is unbiased where the policy did.
        actors: of the run.
        config: of the run.
        policy: durable folder of the policy.
        initial: folder of the initial policy.
        progress: told each finished chunk.
    """
    handles, timeout = actors.references, config.cluster.no_progress_timeout_s

    def call(batch: pa.Table) -> pa.Table:
        actor = handles[batch["chunk"][0].as_py() % len(handles)]
        part = batch.drop_columns(["chunk"])
        measured = get(actor.call.remote(initial, "exact_kl", part, policy), timeout, "the reference")
        return measured.append_column("prompt_id", part["prompt_id"])

    found = stream(
        chunked(rows, config.sampling.batch_prompts),
        call,
        concurrency=2 * len(handles),
        no_progress_timeout_s=timeout,
        progress=progress,
    )
    return conform(found, MEASURED, what="the measured KL").sort_by("prompt_id")
