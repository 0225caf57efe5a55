"""Batches are laid out by another thread, one ahead, and the next step's first behind a step's last."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from raypo.training.collation import Collation


class Packer:
    """Lays out a list of sets as their sum, and keeps what was asked for and by which thread."""

    def __init__(self) -> None:
        self.asked: list[list[Any]] = []
        self.threads: set[int] = set()
        self.done = threading.Event()

    def __call__(self, sets: Any) -> Any:
        self.asked.append(list(sets))
        self.threads.add(threading.get_ident())
        self.done.set()
        if sets[0] is None:
            raise ValueError("no set")
        return sum(one[0] for one in sets)


def test_parts_come_in_order_with_their_batches_from_one_other_thread() -> None:
    packer, a, b, c = Packer(), [1], [2], [4]
    found = list(Collation().batches([[a, b], [c]], lambda part: part, packer))
    assert found == [([a, b], 3), ([c], 4)]
    assert len(packer.threads) == 1
    assert threading.get_ident() not in packer.threads


def test_while_a_batch_is_trained_on_the_next_is_laid_out() -> None:
    packer = Packer()
    taken = Collation().batches([[[1]], [[2]]], lambda part: part, packer)
    next(taken)
    while len(packer.asked) < 2:  # the pass has not asked for it
        packer.done.clear()
        assert packer.done.wait(10) or len(packer.asked) == 2
    assert next(taken) == ([[2]], 2)


def test_the_next_steps_first_batch_is_laid_out_once_and_taken() -> None:
    packer, collation, a, b = Packer(), Collation(), [1], [2]
    assert list(collation.batches([[a]], lambda part: part, packer, following=[b])) == [([a], 1)]
    assert list(collation.batches([[b], [a]], lambda part: part, packer)) == [([b], 2), ([a], 1)]
    assert packer.asked == [[a], [b], [a]]


def test_a_batch_of_other_sets_is_not_taken_for_it() -> None:
    """Equal sets are not the same sets: what was laid out ahead is dropped."""
    packer, collation = Packer(), Collation()
    list(collation.batches([[[1]]], lambda part: part, packer, following=[[2]]))
    assert list(collation.batches([[[2]]], lambda part: part, packer)) == [([[2]], 2)]
    assert packer.asked == [[[1]], [[2]], [[2]]]


def test_what_packing_raises_is_raised_at_its_part() -> None:
    taken = Collation().batches([[[1]], [None]], lambda part: part, Packer())
    assert next(taken) == ([[1]], 1)
    with pytest.raises(ValueError, match="no set"):
        next(taken)
