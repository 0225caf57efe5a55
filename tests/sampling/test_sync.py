"""The rails of the sync, without engines: ranks, chunks, and who speaks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from raypo.errors import EngineError
from raypo.sampling import sync
from raypo.sampling.sync import HostSender, Outliving, rank_offsets


class Recorder:
    """An engine at the border: it writes down what it is told."""

    tensor_parallel = 1

    def __init__(self, fails_at: str = "") -> None:
        self.told: list[tuple[str, Any]] = []
        self.fails_at = fails_at

    def start(self, method: str, *args: Any) -> tuple[str, Any]:
        self.told.append((method, args))
        return method, args

    def wait(self, call: tuple[str, Any]) -> None:
        if call[0] == self.fails_at:
            raise EngineError(f"{call[0]} failed")


WEIGHTS = [("a", torch.ones(4)), ("b", torch.ones(8)), ("c", torch.ones(2))]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([2, 2], ([1, 3], 5)), ([1], ([1], 2)), ([4, 1, 2], ([1, 5, 6], 8)), ([], ([], 1))],
)
def test_engines_stand_behind_each_other_in_the_group(sizes: list[int], expected: tuple[list[int], int]) -> None:
    """The sender is rank 0; two engines of two GPUs hold ranks 1-2 and 3-4 of 5."""
    assert rank_offsets(sizes) == expected


def test_every_engine_gets_every_weight_once_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks end above 40 bytes: a and b are 16 + 32 = 48, then c alone."""
    monkeypatch.setattr(sync, "CHUNK_BYTES", 40)
    engines = [Recorder(), Recorder()]
    sent = HostSender(engines).send(3, iter(WEIGHTS), sender=True)
    for engine in engines:
        names = [[name for name, _ in args[0]] for method, args in engine.told if method == "update"]
        assert names == [["a", "b"], ["c"]]
        assert [method for method, _ in engine.told] == ["start_update", "update", "update", "finish_update"]
        assert engine.told[-1] == ("finish_update", (3,))
    assert sent["bytes"] == 56


def test_other_ranks_only_join_the_gathers() -> None:
    engine, seen = Recorder(), []
    weights = ((name, seen.append(name) or tensor) for name, tensor in WEIGHTS)
    HostSender([engine]).send(1, weights, sender=False)
    assert seen == ["a", "b", "c"]
    assert engine.told == []


def test_an_engine_that_fails_ends_the_update() -> None:
    """It is never told that it holds the version."""
    engine = Recorder(fails_at="update")
    with pytest.raises(EngineError, match="update failed"):
        HostSender([engine]).send(1, iter(WEIGHTS), sender=True)
    assert "finish_update" not in [method for method, _ in engine.told]


@pytest.mark.parametrize("method", ["start_update", "update", "finish_update"])
def test_training_outlives_an_engine_that_fails(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any moment of it the weights are gathered to the end, and nobody is told that they came."""
    monkeypatch.setattr(sync, "CHUNK_BYTES", 10)
    seen: list[str] = []
    weights = ((name, seen.append(name) or tensor) for name, tensor in WEIGHTS)
    sent = Outliving(HostSender([Recorder(), Recorder(fails_at=method)])).send(1, weights, sender=True)
    assert seen == ["a", "b", "c"]
    assert (sent["failed"], sent["bytes"]) == (1.0, 0.0)


def test_a_sync_that_did_not_fail_is_told_as_it_was() -> None:
    """4 + 8 + 2 numbers of 4 bytes; and an error that is not an engine's is not swallowed."""
    sent = Outliving(HostSender([Recorder()])).send(1, iter(WEIGHTS), sender=True)
    assert sent.keys() == {"seconds", "bytes"}
    assert sent["bytes"] == 56

    def broken() -> Any:
        raise ValueError("not an engine")

    with pytest.raises(ValueError, match="not an engine"):
        Outliving(HostSender([Recorder()], put=lambda chunk: broken())).send(1, iter(WEIGHTS), sender=True)
