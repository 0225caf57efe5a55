"""The schemas of what flows: each extends the one before it, and a table that does not fit is refused by column."""

from __future__ import annotations

import pyarrow as pa
import pytest

from raypo.errors import DataError
from raypo.records import ANNOTATED, PROMPTS, SAMPLED, SCHEMAS, SCORED, conform

ROW = {"prompt_id": "0" * 16, "prompt": "a", "prompt_token_ids": [5, 6], "split": "train", "metadata": "{}"}


def test_a_stage_keeps_every_column_of_the_stage_before_it() -> None:
    """All but `split`, which is decided once and for whole tables."""
    assert set(PROMPTS.names) - {"split"} <= set(SAMPLED.names) < set(SCORED.names) < set(ANNOTATED.names)
    for earlier, later in ((SAMPLED, SCORED), (SCORED, ANNOTATED)):
        assert list(later)[: len(earlier)] == list(earlier)


def test_columns_that_are_not_declared_are_left_behind_and_order_is_that_of_the_schema() -> None:
    table = pa.Table.from_pylist([{"extra": 1} | dict(reversed(ROW.items()))])
    conformed = conform(table, PROMPTS, what="prompts")
    assert conformed.schema == PROMPTS
    assert conformed.to_pylist() == [ROW]


def test_numbers_are_cast_to_the_declared_width() -> None:
    """Python integers arrive as int64, token ids are int32."""
    conformed = conform(pa.Table.from_pylist([ROW]), PROMPTS, what="prompts")
    assert conformed["prompt_token_ids"].type == pa.list_(pa.int32())


@pytest.mark.parametrize("kind", SCHEMAS)
def test_a_missing_column_is_named(kind: str) -> None:
    schema = SCHEMAS[kind]
    table = schema.empty_table().drop_columns([schema.names[1]])
    with pytest.raises(DataError, match=f"the table has no column '{schema.names[1]}'; it has {schema.names[0]}"):
        conform(table, schema, what="the table")


@pytest.mark.parametrize(
    "change",
    [{"prompt_token_ids": ["five"]}, {"prompt_token_ids": [2**40]}],
    ids=["text for numbers", "an id beyond 32 bits"],
)
def test_a_value_that_does_not_fit_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(DataError, match="does not fit its schema"):
        conform(pa.Table.from_pylist([ROW | change]), PROMPTS, what="the table")
