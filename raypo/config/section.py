"""What a part of the tree is, and types of fields."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _number(value: Any) -> Any:
    """True is 1 to Python; in a config it is a slip."""
    if isinstance(value, bool):
        raise ValueError("a number is expected")
    return value


Fraction = Annotated[float, BeforeValidator(_number), Field(ge=0.0, le=1.0)]
Positive = Annotated[int, BeforeValidator(_number), Field(ge=1)]
SetsFormat = Literal[
    "auto",
    "native",
    "columns",
    "ultrafeedback",
    "nemo",
    "halos",
    "hh",
    "pair",
    "unpaired",
    "pandalm",
    "llmbar",
    "autoj",
]
"""Layouts of offline sets, those of `raypo.data.formats.table`."""


class Section(BaseModel):
    """A frozen part of the tree that refuses unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )
