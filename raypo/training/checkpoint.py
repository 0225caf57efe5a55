"""Checkpoints of weight versions: `checkpoints/version-0001/`, complete when its manifest is there.

    state/           sharded model and optimizer state, written by all ranks straight to storage; of the last two alone
    model/           the exported Hugging Face folder: what engines, evaluation and users load
    adapter/         the peft folder, with `adapter: lora`
    reference/       the moving-average reference, with `online.reference: ema`
    manifest.json    written last, by rank 0

This registry and not Ray's is the truth for resume: Ray's snapshot is overwritten in place and can be torn.
No random number is drawn after a model is loaded (orders are hashed from the seed, dropout is off), so no generator is
stored.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)

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


def save_state(
    run_dir: str | Path,
    version: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    reference: nn.Module | None = None,
) -> None:
    """Write this rank's shards, of a moving reference too; collective where there are ranks."""
    model_state, optimizer_state = get_state_dict(model, optimizer)
    state = {"model": model_state, "optimizer": optimizer_state}
    if reference is not None:
        state["reference"] = get_model_state_dict(reference)
    state_dict_saver.save(state, checkpoint_id=_state(run_dir, version), no_dist=not dist.is_initialized())


def load_state(
    run_dir: str | Path,
    version: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    reference: nn.Module | None = None,
) -> None:
    """Read this rank's shards into model, optimizer and moving reference; collective where there are ranks."""
    model_state, optimizer_state = get_state_dict(model, optimizer)
    state: dict[str, Any] = {"model": model_state, "optimizer": optimizer_state}
    if reference is not None:
        state["reference"] = get_model_state_dict(reference)
    state_dict_loader.load(state, checkpoint_id=_state(run_dir, version), no_dist=not dist.is_initialized())
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    if reference is not None:
        set_model_state_dict(reference, state["reference"])


def _state(run_dir: str | Path, version: int) -> str:
    """Folder of a version's sharded state."""
    return str(folder_of(run_dir, version) / "state")


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
    files = [path for path in sorted(place.rglob("*")) if path.is_file() and path.parent != place]
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())  # the manifest must not reach the disk before what it lists
    sizes = {str(path.relative_to(place)): path.stat().st_size for path in files}
    done = replace(checkpoint, files=sizes, weights=weight_hash(place / "model"))
    _write(place, done)
    return done


def _write(place: Path, checkpoint: Checkpoint) -> None:
    """Put a manifest in place, whole or not at all."""
    temporary = place / (MANIFEST + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(asdict(checkpoint), file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, place / MANIFEST)


def environment() -> dict[str, Any]:
    """What bitwise repetition depends on beside the config: versions, threads, the kind of processor."""
    versions = {name: package_version(name) for name in ("ray", "torch", "transformers", "peft")}
    return versions | {
        "threads": torch.get_num_threads(),
        "processor": processor(),
        "python": platform.python_version(),
    }


def processor() -> str:
    """The model name of the CPU, as the kernel tells it; the architecture where it does not."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text(encoding="utf-8").splitlines() if told.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


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
        IntegrityError: the manifest cannot be read, or a file that it lists is missing or of another size.
    """
    place = folder_of(run_dir, version)
    if not (place / MANIFEST).is_file():
        return None
    remedy = f"delete {place}; the run then continues from the version before"
    try:
        found = Checkpoint(**json.loads((place / MANIFEST).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise IntegrityError(f"{place / MANIFEST} cannot be read: {error}", "a whole manifest", remedy) from error
    for name, size in found.files.items():
        path = place / name
        if not path.is_file() or path.stat().st_size != size:
            raise IntegrityError(
                f"{path} is {'torn' if path.is_file() else 'missing'}",
                f"{size} bytes, as its manifest says",
                remedy,
            )
    return found


def newest(run_dir: str | Path) -> Checkpoint | None:
    """The newest complete checkpoint; None when there is none. Folders without a manifest are passed over."""
    place = Path(run_dir) / "checkpoints"
    versions = sorted(int(path.parent.name.removeprefix("version-")) for path in place.glob(f"version-*/{MANIFEST}"))
    return read(run_dir, versions[-1]) if versions else None


def drop_states(run_dir: str | Path, older_than: int) -> None:
    """Remove the resume state of complete versions older than one; their exported models stay."""
    for version in range(1, older_than):
        place = folder_of(run_dir, version)
        if (place / "state").exists() and (found := read(run_dir, version)) is not None:
            # the manifest first: it must never list what is gone
            _write(place, replace(found, files={k: v for k, v in found.files.items() if not k.startswith("state/")}))
            shutil.rmtree(place / "state")


def prune(run_dir: str | Path, keep: set[int]) -> None:
    """Remove the checkpoints of all versions that are neither kept nor the newest.

    Args:
        run_dir: of the run.
        keep: versions that stay.
    """
    last = newest(run_dir)
    for place in (Path(run_dir) / "checkpoints").glob("version-*"):
        version = int(place.name.removeprefix("version-"))
        if last is not None and version < last.version and version not in keep:
            (place / MANIFEST).unlink(missing_ok=True)  # first: a half-removed folder must not look whole
            shutil.rmtree(place)
