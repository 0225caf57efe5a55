"""Batches laid out one ahead of the pass that takes them, off the training thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from raypo.data.packing import Batch

T = TypeVar("T")


def collated(parts: Iterable[T], pack: Callable[[T], Batch]) -> Iterator[tuple[T, Batch]]:
    """Each part with its batch; while one is trained on, a thread lays out the next.

    One batch ahead: a second would hold memory and save nothing, as a pass takes longer than a layout. What packing
    raises is raised here, at its part.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="collation") as thread:
        waiting = None
        for part in parts:
            following = part, thread.submit(pack, part)
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = following
        if waiting is not None:
            yield waiting[0], waiting[1].result()
