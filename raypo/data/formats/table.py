"""The layouts of offline sets as one table, and how a row's is found.

A row's layout is the first of the table of whose column groups it has one whole, whatever other columns it has: what
was asked for by a setting (`responses`) comes before what merely looks like it, and a layout with more columns of its
own before one with fewer. Rows of several layouts may stand in one source; the facts of a run count them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from raypo.config import PromptsConfig
from raypo.data.files import Row
from raypo.data.formats.given import Reading
from raypo.data.formats.pairs import holds_transcripts, judged, read_hh, read_pair
from raypo.data.formats.scored import (
    has_numbered_columns,
    read_columns,
    read_native,
    read_nemo,
    read_ultrafeedback,
)
from raypo.data.formats.single import read_halos, read_unpaired
from raypo.errors import DataError


@dataclass(frozen=True)
class Format:
    """A layout.

    Args:
        name: in `prompts.sets_format`.
        columns: groups of columns by which it is known, beside the prompt's.
        read: a row to its set.
        fits: where columns alone do not tell: whether the row is of this layout.
    """

    name: str
    columns: tuple[tuple[str, ...], ...]
    read: Callable[[Row, PromptsConfig], Reading]
    fits: Callable[[Row, PromptsConfig], bool] | None = None

    def matches(self, row: Row, config: PromptsConfig) -> bool:
        """Whether the row is of this layout."""
        if self.fits is not None:
            return self.fits(row, config)
        return any(set(group) <= row.values.keys() for group in self.columns)

    def expected(self, config: PromptsConfig) -> str:
        """Its columns, for a message."""
        groups = ((config.responses_column,),) if self.name == "native" else self.columns
        return f"{self.name} ({' or '.join(' + '.join(group) for group in groups)})"


def _has_responses(row: Row, config: PromptsConfig) -> bool:
    return config.responses_column in row.values


_TIE_0, _TIE_2 = {1: 1.0, 2: 0.0, 0: 0.5}, {0: 1.0, 1: 0.0, 2: 0.5}

FORMATS = (
    Format("native", (("responses",),), read_native, _has_responses),
    Format("columns", (("A0", "score_A0"),), read_columns, has_numbered_columns),
    Format("ultrafeedback", (("instruction", "completions"),), read_ultrafeedback),
    Format("nemo", (("context", "completions"),), read_nemo),
    Format("halos", (("output_A", "output_B", "label"), ("output", "label"), ("output", "reward")), read_halos),
    Format("hh", (("chosen as transcript", "rejected as transcript"),), read_hh, holds_transcripts),
    Format("pair", (("chosen", "rejected"),), read_pair),
    Format("unpaired", (("completion", "label"),), read_unpaired),
    Format(
        "pandalm",
        (("response1", "response2", "annotators"),),
        judged(None, "response1", "response2", "annotators", _TIE_0),
    ),
    Format(
        "llmbar",
        (("input", "output_1", "output_2", "label"),),
        judged("input", "output_1", "output_2", "label", {1: 1.0, 2: 0.0}),
    ),
    Format(
        "autoj", (("response 1", "response 2", "label"),), judged(None, "response 1", "response 2", "label", _TIE_2)
    ),
)


def format_of(row: Row, config: PromptsConfig) -> Format:
    """The layout of a row: that of `prompts.sets_format`, or with "auto" the first that matches.

    Raises:
        DataError: none matches; the columns there are and those of every layout are named.
    """
    if config.sets_format != "auto":
        return next(one for one in FORMATS if one.name == config.sets_format)
    for one in FORMATS:
        if one.matches(row, config):
            return one
    raise DataError(
        f"{row.place} is an offline set of no known layout; its columns: {', '.join(map(repr, row.values)) or 'none'}",
        f"a prompt and the columns of one of {'; '.join(one.expected(config) for one in FORMATS)}",
        "rename the columns, or name them: prompts.responses_column, prompts.rewards_column, prompts.numbered_prefix",
    )
