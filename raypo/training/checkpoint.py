"""Checkpoints of weight versions: `checkpoints/version-0001/`, complete when its manifest is there.

    state/           sharded model and optimizer state, written by all ranks straight to storage
    model/           the exported Hugging Face folder: what engines, evaluation and users load
    adapter/         the peft folder, with `adapter: lora`
    reference/       the moving-average reference, with `online.reference: ema`
    manifest.json    written last, by rank 0

This registry and not Ray's is the truth for resume: Ray's snapshot is overwritten in place and can be torn.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from raypo.errors import IntegrityError

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint.

    Args:
        version: weight version: finished training rounds.
        progress: share of the job's planned prompts that is done.
        step: optimizer steps done.
        files: sizes in bytes of all files but the manifest, by relative path.
        weights: SHA-256 over the exported weight files, hex.
        world_size: ranks that wrote the state.
        facts: versions, seconds, changed fraction, last metrics.
    """

    version: int
    progress: float
    step: int
    files: dict[str, int] = field(default_factory=dict)
    weights: str = ""
    world_size: int = 1
    facts: dict[str, Any] = field(default_factory=dict)


def folder_of(run_dir: str | Path, version: int) -> Path:
    """Folder of a version's checkpoint."""
    return Path(run_dir) / "checkpoints" / f"version-{version:04d}"


def save_state(run_dir: str | Path, version: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write this rank's shards; collective."""
    model_state, optimizer_state = get_state_dict(model, optimizer)
    dcp.save({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=str(folder_of(run_dir, version) / "state"))


def load_state(run_dir: str | Path, version: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Read this rank's shards into model and optimizer; collective."""
    model_state, optimizer_state = get_state_dict(model, optimizer)
    state = {"model": model_state, "optimizer": optimizer_state}
    dcp.load(state, checkpoint_id=str(folder_of(run_dir, version) / "state"))
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])


def clear(run_dir: str | Path, version: int) -> None:
    """Remove what an attempt that died left of a version; a complete one is left alone."""
    if read(run_dir, version) is None:
        shutil.rmtree(folder_of(run_dir, version), ignore_errors=True)


def commit(run_dir: str | Path, checkpoint: Checkpoint) -> Checkpoint:
    """Write the manifest, last of all: from here on the version exists. Rank 0 only.

    Returns:
        the checkpoint with its files and weight hash.
    """
    place = folder_of(run_dir, checkpoint.version)
    files = {str(path.relative_to(place)): path.stat().st_size for path in sorted(place.rglob("*")) if path.is_file()}
    tree = asdict(checkpoint) | {"files": files, "weights": weight_hash(place / "model")}
    temporary = place / (MANIFEST + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(tree, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, place / MANIFEST)
    return Checkpoint(**tree)


def weight_hash(folder: Path) -> str:
    """SHA-256 over the safetensors files of a folder, in name order."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def read(run_dir: str | Path, version: int) -> Checkpoint | None:
    """A version's checkpoint; None where none is complete.

    Raises:
        IntegrityError: a file that the manifest lists is missing or of another size.
    """
    place = folder_of(run_dir, version)
    if not (place / MANIFEST).is_file():
        return None
    found = Checkpoint(**json.loads((place / MANIFEST).read_text(encoding="utf-8")))
    for name, size in found.files.items():
        path = place / name
        if not path.is_file() or path.stat().st_size != size:
            raise IntegrityError(
                f"{path} is {'torn' if path.is_file() else 'missing'}",
                f"{size} bytes, as its manifest says",
                f"delete {place}; the run then continues from the version before",
            )
    return found


def newest(run_dir: str | Path) -> Checkpoint | None:
    """The newest complete checkpoint; None when there is none. Folders without a manifest are passed over."""
    place = Path(run_dir) / "checkpoints"
    versions = sorted((int(path.parent.name.removeprefix("version-")) for path in place.glob(f"version-*/{MANIFEST}")))
    return read(run_dir, versions[-1]) if versions else None


def prune(run_dir: str | Path, keep: set[int]) -> None:
    """Remove the resume state of versions older than the newest, and whole folders of versions that are not kept.

    Args:
        run_dir: of the run.
        keep: versions whose exported model stays.
    """
    last = newest(run_dir)
    for place in (Path(run_dir) / "checkpoints").glob("version-*"):
        version = int(place.name.removeprefix("version-"))
        if last is not None and version < last.version and version not in keep:
            shutil.rmtree(place)
