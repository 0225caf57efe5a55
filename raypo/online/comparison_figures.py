"""evaluation.json: the figures of a comparison. JSON knows no NaN: what is not known is null there, and NaN in hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raypo.errors import DataError
from raypo.online.kept import write_json
from raypo.stages import tables

FIGURES = "evaluation.json"
ABSENT = frozenset({"chosen_shift", "rejected_shift", "saturated"})
"""Figures that the start does not have: null is None, and no number that is not known."""


def write_figures(out: Path, found: Mapping[str, Any]) -> None:
    """Write all figures of a comparison.

    Args:
        out: its folder.
        found: as of `Comparison.to_dict`, and what else is to be kept.

    Raises:
        OutputError: the folder cannot be written.
    """
    write_json(out, FIGURES, with_nulls(found))


def read_figures(out: Path) -> dict[str, Any] | None:
    """The figures as they were written, a bound beyond all numbers as NaN; None where there are none.

    Raises:
        DataError: they are no JSON object.
        IntegrityError: they are no JSON.
        OutputError: the storage does not answer.
    """
    found = tables.read_json(str(out / FIGURES))
    if found is not None and not isinstance(found, dict):
        raise DataError(f"{out / FIGURES} is no JSON object", "the figures of a comparison", "run raypo evaluate again")
    return None if found is None else {key: with_nans(value) for key, value in found.items()}


def with_nulls(tree: Any) -> Any:
    """Plain values in which a number that is not finite is None."""
    if isinstance(tree, Mapping):
        return {key: with_nulls(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [with_nulls(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def with_nans(tree: Any) -> Any:
    """Plain values in which None is NaN, but for figures that are absent."""
    if isinstance(tree, Mapping):
        return {key: value if value is None and key in ABSENT else with_nans(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [with_nans(value) for value in tree]
    return math.nan if tree is None else tree
