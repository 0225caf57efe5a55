"""The plan as tables for a terminal: values, work, memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Column, Table
from rich.text import Text

from raypo.config import RunConfig, refuse_lengths
from raypo.doctor.memory import memory, model_shape, size
from raypo.doctor.plan import Value, work


def plan_tables(values: Sequence[Value], config: RunConfig) -> list[Table]:
    """Every value, the work, and the memory of a run that was resolved."""
    return [value_table(values), row_table("work", work(config)), memory_table(config)]


def value_table(values: Sequence[Value]) -> Table:
    """Each value with its source."""
    table = Table(Column("key", no_wrap=True), Column("value", overflow="fold"), Column("from", no_wrap=True), box=None)
    for one in values:
        table.add_row(one.key, Text(str(one.value)), one.source)
    return table


def row_table(title: str, rows: Mapping[str, str]) -> Table:
    """Names and texts under a title."""
    table = Table(Column(title, no_wrap=True), Column("", overflow="fold"), box=None, title_justify="left")
    for name, value in rows.items():
        table.add_row(name, Text(value))
    return table


def memory_table(config: RunConfig) -> Table:
    """Bytes per process, or that the model is not here."""
    shape = model_shape(config.policy.path)
    refuse_lengths(config, shape.positions if shape else None)
    title = "memory per process (estimate)"
    if shape is None:
        return row_table(title, {"unknown": f"{config.policy.path} is no folder on this machine"})
    rows = {"parameters": f"{shape.parameters:,}"}
    for one in memory(config, shape):
        parts = ", ".join(f"{name} {size(count)}" for name, count in one.parts.items() if count)
        rows[one.process] = f"{size(one.total)}: {parts}" + (f"; {one.note}" if one.note else "")
    return row_table(title, rows)
