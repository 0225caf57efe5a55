"""Batches laid out ahead of the pass that takes them, off the training thread.

What they are made of is in memory: a round's tables are read once, before its first step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from operator import is_
from typing import Any, TypeVar

from raypo.data.packing import Batch

T = TypeVar("T")


class Collation:
    """A thread that lays out the next batch of a pass, and behind the last one the first of the step that follows.

    One batch ahead: a second would hold memory and save nothing, as a pass takes longer than a layout. The thread ends
    with this object.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="collation")
        self._ahead: tuple[Sequence[Any], Future[Batch]] | None = None

    def batches(
        self,
        parts: Iterable[T],
        sets: Callable[[T], Sequence[Any]],
        pack: Callable[[Sequence[Any]], Batch],
        following: Sequence[Any] = (),
    ) -> Iterator[tuple[T, Batch]]:
        """Each part with its batch. What packing raises is raised here, at its part.

        Args:
            parts: of the pass, in order.
            sets: what of a part is laid out.
            pack: lays it out; the same for all passes of one model.
            following: what the step that follows will ask for first; none: nothing is known of it.
        """
        waiting = None
        for part in parts:
            next_one = part, self._begun(sets(part), pack)
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = next_one
        if following:
            self._ahead = following, self._thread.submit(pack, following)
        if waiting is not None:
            yield waiting[0], waiting[1].result()

    def _begun(self, asked: Sequence[Any], pack: Callable[[Sequence[Any]], Batch]) -> Future[Batch]:
        """The layout of these very sets, which may have begun in the step before."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and len(ahead[0]) == len(asked) and all(map(is_, ahead[0], asked)):
            return ahead[1]
        return self._thread.submit(pack, asked)
