"""Dispersion that somebody knows: a column of prompts or of sets, read where `dispersion.estimator` is `given`.

It travels in the rows' metadata, as the source's other columns do: through sampling and scoring, and into what
`raypo sample` writes. Of rows that make up one set, and of a prompt that comes twice, the first row's is taken.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raypo.config import RunConfig
from raypo.data.files import describe
from raypo.errors import DataError

COLUMN = "dispersion"
"""A number d in (0, 1], with psi = -ln d: Mallows' phi of a Kendall model, phi^2 of a Spearman model (theta)."""


def known_dispersion(table: pa.Table) -> list[float]:
    """The dispersion of each row as it was given, [rows], in (0, 1]; not clamped.

    Args:
        table: rows with `prompt` and `metadata`, such as of records.PROMPTS or records.SCORED.

    Raises:
        DataError: a row has no such column, no number in it, or one outside of (0, 1].
    """
    cells = [json.loads(text).get(COLUMN, _MISSING) for text in table["metadata"].to_pylist()]
    bad = [number for number, value in enumerate(cells) if not _is_known(value)]
    if bad:
        value, prompt = cells[bad[0]], table["prompt"][bad[0]].as_py()
        what = f"has no column {COLUMN!r}" if value is _MISSING else f"has {COLUMN!r} {describe(value)}"
        raise DataError(
            f"dispersion.estimator = given: {len(bad)} of {len(cells)} rows have no known dispersion; the first, of "
            f"the prompt {describe(prompt)}, {what}",
            f"a number above 0 and at most 1 in the column {COLUMN!r} of every row: phi of a Mallows model",
            "mend the column (jobs/known_dispersion.py makes it of people's rankings), or set "
            "dispersion.estimator=reference_entropy",
        )
    return [float(value) for value in cells]


def check_known(table: pa.Table, config: RunConfig, *, split: str | None = None) -> None:
    """Refuse, before anything starts, rows without the dispersion that the run is to be given.

    Args:
        table: as of `known_dispersion`.
        config: of the run; with another estimator nothing is read.
        split: look at the rows of this split alone. None: at all.

    Raises:
        DataError: as of `known_dispersion`.
    """
    if config.dispersion.estimator == "given":
        known_dispersion(table if split is None else table.filter(pc.equal(table["split"], split)))


_MISSING: Any = object()


def _is_known(value: Any) -> bool:
    """A truth value is no number, and NaN, which metadata hold as null, is none that is known."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1
