"""The prompts that `raypo evaluate` compares policies on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from raypo.config import RunConfig
from raypo.data.chat import load_prompts
from raypo.errors import ConfigError
from raypo.models.load import load_tokenizer
from raypo.online.folder import RunFolder
from raypo.online.identity import changed_fields, record_at, told
from raypo.records import PROMPTS, conform
from raypo.stages import heldout, tables


def read_prompts(config: RunConfig, out: Path) -> tuple[pa.Table, dict[str, Any]] | None:
    """All prompts of a comparison and the facts of their reading; None where they are committed.

    Raises:
        ConfigError: as of `prompts_of_sets`.
        DataError: the prompts cannot be read, or none is held out.
    """
    if tables.whole(str(out / "prompts")) is not None:
        return None
    if (held := prompts_of_sets(config)) is not None:
        return held, {}
    tokenizer = load_tokenizer(config.policy.path, config.policy.revision, config.policy.chat_template)
    table, facts = load_prompts(config.prompts, tokenizer)
    heldout.heldout_prompts(table, config)  # there are some
    return table, facts


def commit_prompts(config: RunConfig, out: Path, read: tuple[pa.Table, dict[str, Any]] | None) -> pa.Table:
    """Commit what `read_prompts` gave, once; returns the held-out prompts.

    Raises:
        DataError: none is held out.
    """
    place = str(out / "prompts")
    if read is not None:
        tables.commit(place, read[0], "prompts", read[1])
    found = tables.read(place)
    assert found is not None, place
    return heldout.heldout_prompts(found[0], config)


def prompts_of_sets(config: RunConfig) -> pa.Table | None:
    """Prompts of the sets that an offline run held out, each once, as records.PROMPTS; None for any other run.

    Its file cannot be read again as prompts: a layout may complete a prompt from its sides, and what was held out goes
    by the completed one. A config of the same name with other prompts asks for those.

    Raises:
        ConfigError: the config's policy would read the prompts otherwise than the run's did.
    """
    folder = RunFolder(config)
    known = record_at(folder.root)
    asked = json.loads(config.prompts.model_dump_json())
    if known is None or known["kind"] != "offline" or known["config"].get("prompts") != asked:
        return None
    if (found := tables.read(folder.path("heldout", "annotated"))) is None:
        return None
    policy = json.loads(config.policy.model_dump_json())
    before = {key: known["config"].get("policy", {}).get(key) for key in ("path", "revision", "chat_template")}
    if other := changed_fields({"policy": before}, {"policy": {key: policy[key] for key in before}}):
        raise ConfigError(
            f"run {config.name!r} held out prompts as another policy reads them; changed: {told(other)}",
            "the policy that the run started from: the prompts are kept as its token ids",
            "restore it; or take another name= for prompts that are read anew. Folders to compare go to --policy",
        )
    rows = found[0].append_column("row", pa.array(range(found[0].num_rows)))
    first = rows.group_by("prompt").aggregate([("row", "min")])["row_min"].combine_chunks().sort()
    held = pa.array(["heldout"] * len(first))
    return conform(rows.take(first).append_column("split", held), PROMPTS, what="the held-out sets")
