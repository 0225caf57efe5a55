"""New weights into live engines: one adapter, two rails.

    send(version, weights, sender=...)      called on every trainer rank: the sender speaks to the engines, the others
                                            only exhaust the weights, because gathering them is collective

`host` passes tensors through memory, in chunks; `nccl` broadcasts them between GPUs with vLLM's own backend. Engines
are handles given by the caller: `start(method, *args)` begins a call, `wait(call)` ends it, `tensor_parallel` is their
size. Neither Ray nor a model is known here; vLLM is imported in a trainer process by the nccl rail alone.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from raypo.errors import EngineError

logger = logging.getLogger(__name__)

CHUNK_BYTES = 256 * 2**20


class EngineHandle(Protocol):
    """An engine in another process."""

    @property
    def tensor_parallel(self) -> int:
        """GPUs of the engine."""

    def start(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Begin a call of an `Engine` method."""

    def wait(self, call: Any) -> Any:
        """Its answer, or its error; never waits without end."""


def everywhere(engines: Sequence[EngineHandle], method: str, *args: Any) -> list[Any]:
    """Call a method on all engines at once and wait for all answers."""
    calls = [engine.start(method, *args) for engine in engines]
    return [engine.wait(call) for engine, call in zip(engines, calls, strict=True)]


def rank_offsets(tensor_parallel: Sequence[int]) -> tuple[list[int], int]:
    """Ranks in a transfer group: the trainer's sender is 0, then each engine's workers in turn.

    vLLM's own Ray client gives every engine the same offset, so that two engines claim rank 1 and the rendezvous hangs;
    here an engine starts behind all earlier ones.

    Args:
        tensor_parallel: GPUs of each engine.

    Returns:
        first rank of each engine, and the size of the group: 2 engines of 2 give [1, 3] and 5.
    """
    offsets, following = [], 1
    for size in tensor_parallel:
        offsets.append(following)
        following += size
    return offsets, following


class HostSender:
    """Weights through host memory: needs no common network of devices, works on CPUs.

    Args:
        engines: handles of all engines.
        put: stores a chunk once for all engines and returns what they can be given (an object reference); by default
            the chunk itself.
    """

    def __init__(self, engines: Sequence[EngineHandle], put: Callable[[Any], Any] | None = None) -> None:
        self._engines, self._put = list(engines), put or (lambda chunk: chunk)

    def send(self, version: int, weights: Iterable[tuple[str, Tensor]], *, sender: bool) -> dict[str, float]:
        """Send whole tensors by Hugging Face name; afterwards every engine holds the version.

        Args:
            version: of the weights.
            weights: exhausted on every rank.
            sender: whether this rank speaks to the engines.

        Returns:
            seconds and bytes sent.

        Raises:
            EngineError: an engine failed or did not answer; it then draws nothing until it is replaced.
        """
        began, total = time.monotonic(), 0
        if not sender:
            for _ in weights:
                pass
            return {"seconds": time.monotonic() - began, "bytes": 0.0}
        everywhere(self._engines, "start_update")
        chunk: list[tuple[str, Tensor]] = []
        size = 0
        for name, tensor in weights:
            chunk.append((name, tensor.cpu()))
            size += tensor.nbytes
            if size > CHUNK_BYTES:
                everywhere(self._engines, "update", self._put(chunk))
                total, chunk, size = total + size, [], 0
        everywhere(self._engines, "update", self._put(chunk))
        everywhere(self._engines, "finish_update", version)
        return {"seconds": time.monotonic() - began, "bytes": float(total + size)}


class Outliving:
    """A rail whose engines may die without ending the training: who draws next brings up those that are behind.

    Only for a rail without a common group: one that has lost a member is opened again by new train workers alone.

    Args:
        rail: sends.
    """

    def __init__(self, rail: HostSender) -> None:
        self._rail = rail

    def send(self, version: int, weights: Iterable[tuple[str, Tensor]], *, sender: bool) -> dict[str, float]:
        """As the rail's; where an engine failed, with `failed` 1 and no bytes."""
        began, left = time.monotonic(), iter(weights)
        try:
            return self._rail.send(version, left, sender=sender)
        except EngineError as error:
            logger.warning("version %d was not sent to every engine: %s", version, error)
            for _ in left:  # gathering is collective: the other ranks wait for this one
                pass
            return {"seconds": time.monotonic() - began, "bytes": 0.0, "failed": 1.0}


class NcclSender:
    """Weights between GPUs by vLLM's nccl backend, for any number of engines.

    Written from the source of vLLM 0.32; it has not been run on a GPU.

    The group is opened at the first send and again after a restart of the train workers, whose old group is closed.

    Args:
        engines: handles of all engines.
    """

    def __init__(self, engines: Sequence[EngineHandle]) -> None:
        self._engines = list(engines)
        self._group: Any = None

    def send(self, version: int, weights: Iterable[tuple[str, Tensor]], *, sender: bool) -> dict[str, float]:
        """As `HostSender.send`; the weights stay on the GPU."""
        began = time.monotonic()
        if not sender:
            for _ in weights:
                pass
            return {"seconds": time.monotonic() - began, "bytes": 0.0}
        if self._group is None:
            self._open()
        everywhere(self._engines, "start_update")
        total = 0
        for name, tensor in weights:
            total += tensor.nbytes
            self._broadcast(name, tensor)
        torch.cuda.synchronize()
        everywhere(self._engines, "finish_update", version)
        return {"seconds": time.monotonic() - began, "bytes": float(total)}

    def _broadcast(self, name: str, tensor: Tensor) -> None:
        """Announce one tensor and send it; both sides meet in the same NCCL call."""
        info = {
            "names": [name],
            "dtype_names": [str(tensor.dtype).removeprefix("torch.")],
            "shapes": [list(tensor.shape)],
        }
        calls = [engine.start("receive", info) for engine in self._engines]
        self._group.broadcast(tensor.contiguous(), src=0, stream=torch.cuda.current_stream())
        for engine, call in zip(self._engines, calls, strict=True):
            engine.wait(call)

    def _open(self) -> None:
        from vllm.distributed.weight_transfer.nccl_common import trainer_init
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        offsets, world_size = rank_offsets([engine.tensor_parallel for engine in self._engines])
        address, port = socket.gethostbyname(socket.gethostname()), free_port()
        everywhere(self._engines, "close_transfer")
        calls = [
            engine.start("init_transfer", init_info(address, port, offset, world_size))
            for engine, offset in zip(self._engines, offsets, strict=True)
        ]
        self._group = trainer_init(
            NCCLTrainerInitInfo(rank=0, master_address=address, master_port=port, world_size=world_size, packed=False)
        )
        for engine, call in zip(self._engines, calls, strict=True):
            engine.wait(call)


def init_info(address: str, port: int, offset: int, world_size: int) -> dict[str, Any]:
    """What an engine needs to join the transfer group."""
    return {
        "master_address": address,
        "master_port": port,
        "rank_offset": offset,
        "world_size": world_size,
        "packed": False,
    }


def free_port() -> int:
    """A port that nobody listens on, on this machine."""
    with socket.socket() as opened:
        opened.bind(("", 0))
        return int(opened.getsockname()[1])
