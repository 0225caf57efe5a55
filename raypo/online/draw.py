"""`raypo sample`: responses of one policy to prompts, scored where the config has rewards, in a folder of their own.

OUT/sample.json                what is sampled: config, policy and its weights, split, versions
OUT/prompts/                   records.PROMPTS
OUT/parts/part-0000/           records.SCORED, or records.SAMPLED without rewards
OUT/sets.jsonl                 prompt, responses and rewards: what `raypo train` takes as it is

The same command again continues after the last committed part.
"""

from __future__ import annotations

import json
import math
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from raypo.config import RunConfig
from raypo.data.chat import load_prompts
from raypo.data.sources import MESSAGES_KEY
from raypo.errors import ConfigError, DataError
from raypo.models.content import content_of
from raypo.models.load import check_folder, load_tokenizer
from raypo.online.identity import WEIGHTS, versions
from raypo.online.kept import keep_record
from raypo.online.progress import console_of_choice
from raypo.online.run import check_sources, engine_setup
from raypo.stages import cluster, tables, verbs
from raypo.stages.actors import Actors, create
from raypo.stages.owner import owned

BATCHES_PER_PART = 8
"""Calls to each engine between two commits: what a job that dies may lose."""

SPLITS = ("all", "train", "heldout")


def sample_policy(
    config: RunConfig, out: Path, *, policy: str | None = None, split: str = "all", console: Console | None = None
) -> dict[str, Any]:
    """Sample responses to prompts, and score them with the config's rewards. Returns figures.

    Args:
        config: prompts, sampling, engines, rewards; `policy` names the model unless one is given.
        out: folder to write.
        policy: folder of the model to sample from, such as a version of a run.
        split: which prompts, one of SPLITS.
        console: where progress goes.

    Raises:
        UserError: the input cannot be sampled, or another driver writes to the folder; nothing was started.
        RunError: sampling or scoring broke; what was committed stays, and the same command continues.
    """
    if split not in SPLITS:
        raise ConfigError(f"--split {split}", f"one of {', '.join(SPLITS)}", "choose one of them")
    chosen = policy or config.policy.path
    check_sources(config, policy_exists=True)
    check_folder(chosen)
    with owned(str(out)):
        return _sampled(config, out, chosen, split, console or console_of_choice())


def _sampled(config: RunConfig, out: Path, chosen: str, split: str, console: Console) -> dict[str, Any]:
    """As `sample_policy`, in a folder that is this driver's alone."""
    began = time.monotonic()
    open_folder(config, out, chosen, split)
    prompts = prompts_of(config, out, split)
    size = config.sampling.batch_prompts * config.engine.count * BATCHES_PER_PART
    parts = [prompts.slice(start, size) for start in range(0, prompts.num_rows, size)]
    places = [str(out / "parts" / f"part-{index:04d}") for index in range(len(parts))]
    missing = [index for index, place in enumerate(places) if tables.whole(place) is None]
    console.print(
        f"{prompts.num_rows} prompts in {len(parts)} parts, {len(missing)} to do: {out}",
        highlight=False,
        soft_wrap=True,
    )
    if missing:
        ours = cluster.start(config, search_path=cluster.search_path())
        try:
            cluster.check_resources(config, trains=False)
            actors = create(config, *engine_setup(config))
            try:
                actors.engines.bring_up(chosen, 0)
                for index in missing:
                    draw(parts[index], index, len(parts), places[index], actors, config, console)
            finally:
                actors.shutdown()
        finally:
            if ours:
                cluster.stop()
    facts = finish(places, out) | {"wall_seconds": round(time.monotonic() - began, 1)}
    console.print(
        f"{facts['responses']} responses to {facts['sets']} prompts, mean reward {facts['reward_mean']:.4g}: "
        f"{facts['file']}",
        highlight=False,
        soft_wrap=True,
    )
    return facts


def open_folder(config: RunConfig, out: Path, policy: str, split: str) -> None:
    """Write what is sampled; the same command keeps what it has.

    Raises:
        ConfigError: the folder holds other samples, or of other weights or versions; what differs is named.
        IntegrityError: its record is damaged.
        ModelError: the policy's weights cannot be read.
        OutputError: the folder cannot be written.
    """
    revision = config.policy.revision if policy == config.policy.path else None
    record = {
        "config": json.loads(config.model_dump_json()),
        "policy": policy,
        "split": split,
        WEIGHTS: content_of(policy, revision),
        "versions": versions(),
    }
    keep_record(out, "sample.json", record, what="other samples")


def prompts_of(config: RunConfig, out: Path, split: str) -> pa.Table:
    """The prompts of a split by content hash, committed once.

    Raises:
        DataError: they cannot be read, or the split has none.
    """
    place = str(out / "prompts")
    if (found := tables.whole(place)) is None:
        tokenizer = load_tokenizer(config.policy.path, config.policy.revision, config.policy.chat_template)
        table, facts = load_prompts(config.prompts, tokenizer)
        tables.commit(place, table, "prompts", facts)
    else:
        table = found[0]
    if split != "all":
        table = table.filter(pc.equal(table["split"], split))
    if not table.num_rows:
        raise DataError(f"no prompt of the split {split!r}", "at least one", "choose another --split")
    return table.sort_by("prompt_id")


def draw(
    prompts: pa.Table, index: int, count: int, place: str, actors: Actors, config: RunConfig, console: Console
) -> None:
    """Sample one part, score it where there are rewards, and commit it."""
    table, facts = verbs.sample(
        prompts,
        actors,
        config,
        round_index=0,
        version=0,
        seeds="sample",
        num_responses=config.sampling.num_responses,
        progress=lambda chunk: None,
    )
    schema = "sampled"
    if any(source.weight for source in config.rewards):
        table, scored = verbs.score(table, actors, config, progress=lambda chunk: None)
        schema, facts = "scored", facts | {"scored": scored}
    tables.commit(place, table, schema, facts)
    speed = facts["response_tokens"] / max(facts["seconds"], 1e-9)
    console.print(
        f"part {index + 1} of {count}: {facts['responses']} responses, {speed:,.0f} tokens/s", highlight=False
    )


def finish(places: list[str], out: Path) -> dict[str, Any]:
    """Write the sets of all parts as JSON lines, whole or not at all; returns figures."""
    file, sets, rewards, responses = out / "sets.jsonl", 0, [], 0
    temporary = out / f"sets.jsonl.{uuid.uuid4().hex[:8]}.tmp"
    with temporary.open("w", encoding="utf-8") as lines:
        for place in places:
            for row in given_sets(place):
                lines.write(json.dumps(row) + "\n")
                sets, responses = sets + 1, responses + len(row["responses"])
                rewards += [value for value in row["rewards"] if value is not None]
    os.replace(temporary, file)
    mean = sum(rewards) / len(rewards) if rewards else math.nan
    return {"sets": sets, "responses": responses, "reward_mean": mean, "file": str(file)}


def given_sets(place: str) -> Iterator[dict[str, Any]]:
    """Sets of a committed part as offline data: the prompt as it was given, responses, and rewards or nulls."""
    found = tables.read(place)
    assert found is not None  # parts are read when all are committed
    for row in found[0].to_pylist():
        metadata = json.loads(row["metadata"])
        prompt = metadata.pop(MESSAGES_KEY, row["prompt"])
        rewards = row.get("rewards") or [None] * len(row["responses"])
        known = [value if value is not None and math.isfinite(value) else None for value in rewards]
        yield metadata | {"prompt": prompt, "responses": row["responses"], "rewards": known}
