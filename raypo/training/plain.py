"""Reading a state without running what is in it: DCP itself unpickles its metadata and all that is no tensor.

A run's folder may lie where others can write. A pickle names what it is made of; here the names are those that a state
has, and any other ends the reading before it is looked up.
"""

from __future__ import annotations

import pickle
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader, state_dict_loader
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem

from raypo.errors import IntegrityError, RaypoError

_METADATA = "torch.distributed.checkpoint.metadata"
MADE_OF = {
    *((_METADATA, name) for name in ("Metadata", "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING")),
    *((_METADATA, name) for name in ("TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata")),
    (_METADATA, "TensorProperties"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("pathlib", "PosixPath"),
}
"""What DCP's metadata names, beside torch's types of numbers."""


def load(state: dict[str, Any], folder: Path) -> None:
    """Fill a state from a folder that DCP wrote; collective where there are ranks.

    Raises:
        IntegrityError: it holds what no state is made of.
    """
    reader = PlainReader(folder)
    reader.read_metadata()  # before DCP does, which would look for another one where this is refused
    try:
        state_dict_loader.load(state, storage_reader=reader, planner=PlainPlanner(), no_dist=not dist.is_initialized())
    except CheckpointException as error:  # of all ranks; it is no Exception, so nobody would tell it
        for failure, _ in error.failures.values():
            if isinstance(failure, RaypoError):
                raise failure from error
        raise


class _Plain(pickle.Unpickler):
    """Knows the names of `MADE_OF` and no other."""

    def find_class(self, module: str, name: str) -> Any:
        """The class or function of a name that is allowed."""
        if (module, name) in MADE_OF or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}")


class PlainReader(FileSystemReader):
    """Reads metadata that is made of what DCP writes.

    Raises:
        IntegrityError: when it is read and is made of something else.
    """

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """As DCP's own, by the plain unpickler."""
        path = self._get_metadata_path(kwargs.get("rank"))
        with self.fs.create_stream(path, "rb") as file:
            try:
                metadata: Metadata = _Plain(file).load()
            except Exception as error:  # a forged or torn pickle raises what it likes
                raise _refusal(str(path), error) from error
        if metadata.storage_meta is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class PlainPlanner(DefaultLoadPlanner):
    """Takes numbers, texts and lists of them for what is no tensor."""

    def load_bytes(self, read_item: ReadItem, value: BytesIO) -> None:
        """As DCP's own, of bytes that torch's own restricted unpickler has read before."""
        try:
            torch.load(value, weights_only=True)
        except Exception as error:
            raise _refusal(f"{read_item.dest_index.fqn} of the state", error) from error
        value.seek(0)
        super().load_bytes(read_item, value)


def _refusal(what: str, error: Exception) -> IntegrityError:
    return IntegrityError(
        f"{what} is none that raypo wrote: {str(error).strip().splitlines()[0] if str(error).strip() else repr(error)}",
        "a state as raypo saves it, without code",
        "see who can write to the run's folder; without this version's folder the run continues from the one before",
    )
