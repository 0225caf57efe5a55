"""What of a round is already in storage, and whether it still counts.

A stage's manifest names its source: the content of the rows and the weights that it was made from. A table that is torn
or was made from another source is set aside and redone, and with it all that was made from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raypo.config import RunConfig
from raypo.errors import IntegrityError
from raypo.online.folder import RunFolder
from raypo.stages import tables
from raypo.training import checkpoint


@dataclass(frozen=True)
class Committed:
    """A stage's table in storage.

    Args:
        table: its rows.
        facts: of its manifest.
        content: hash of the rows: the source of whatever is made from them.
        new: whether it was made just now.
    """

    table: pa.Table
    facts: dict[str, Any]
    content: str
    new: bool


def find(place: str, source: str, tell: Callable[[str], None]) -> Committed | None:
    """The table of a folder, if it is whole and of this source; another one is set aside.

    Args:
        place: folder of the stage.
        source: what the table must have been made from.
        tell: given one sentence when a table is set aside.
    """
    try:
        known = tables.read(place)
    except IntegrityError as error:
        tables.set_aside(place)
        tell(f"torn, made again: {error.got}")
        return None
    if known is None:
        return None
    if known[1].facts.get("source") != source:
        tables.set_aside(place)
        tell(f"{place} was made from what is no longer there, made again")
        return None
    return Committed(known[0], known[1].facts, known[1].content, new=False)


def commit(place: str, table: pa.Table, schema: str, facts: dict[str, Any], source: str) -> Committed:
    """Write a stage's table with its source.

    Raises:
        DataError: the table does not fit the schema.
        OutputError: the folder cannot be written.
    """
    manifest = tables.commit(place, table, schema, facts | {"source": source})
    return Committed(table, manifest.facts, manifest.content, new=True)


def drawn_from(folder: RunFolder, version: int) -> str:
    """Source of what a version draws: the prompts' content and the weights' hash."""
    prompts = tables.manifest_of(folder.path("prompts"))
    found = checkpoint.read(folder.root, version) if version else None
    return f"{prompts.content if prompts else ''}/{found.weights if found else 'start'}"


def template(folder: RunFolder) -> str | None:
    """Hash of chat template and arguments, as the prompts were rendered."""
    prompts = tables.manifest_of(folder.path("prompts"))
    return prompts.facts.get("template") if prompts else None


def scales(folder: RunFolder, version: int) -> dict[str, float] | None:
    """What the first round fitted, as the checkpoint of a version keeps it; None for the start.

    Of rewards, of psi, and the average spread of rewards: `raypo.stages.annotation.fit_scales`.

    Raises:
        IntegrityError: the checkpoint is torn.
    """
    found = checkpoint.read(folder.root, version) if version else None
    return None if found is None else dict(found.facts["frozen"]["scales"])


def mend_trained(folder: RunFolder, round_index: int) -> None:
    """Tell from the checkpoint that a round is trained, where the run died before the trainer could.

    Saving and live transfer then count no seconds: nobody measured the one, and the other did not take place.
    """
    place, found = folder.stage(round_index, "trained.json"), checkpoint.read(folder.root, round_index + 1)
    if found is not None and tables.read_json(place) is None:
        told = {name: found.facts[name] for name in ("seconds", "changed_fraction")}
        tables.write_json(place, {"round": round_index, "save_seconds": 0.0, "sync_seconds": 0.0, **told})


def round_prompts(train: pa.Table, config: RunConfig, round_index: int) -> pa.Table:
    """The prompts of a round: the next so many of one seeded cyclic order, so that none repeats within a round."""
    total = train.num_rows
    count = min(config.online.prompts_per_round or total, total)
    order = np.random.default_rng([config.seed, 0]).permutation(total)
    positions = (np.arange(count) + round_index * count) % total
    return train.sort_by("prompt_id").take(pa.array(order[positions]))
