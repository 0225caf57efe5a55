"""Checkpoints of weight versions: `checkpoints/version-0001/`, complete when its manifest is there.

    state/           sharded model and optimizer state, written by all ranks straight to storage; of the last two alone
    model/           the exported Hugging Face folder: what engines, evaluation and users load
    adapter/         the peft folder, with `adapter: lora`
    reference/       the moving-average reference, with `online.reference: ema`
    manifest.json    written last, by rank 0, with the size and SHA-256 of every file

`checkpoints/version-0001.step-000012/` is the same inside a round (`training.checkpoint_steps`): its state alone, and
in the manifest's facts a cursor over the round's sets. The next one replaces it, and so does the version it led to.

This registry and not Ray's is the truth for resume: Ray's snapshot is overwritten in place and can be torn.
No random number is drawn after a model is loaded (orders are hashed from the seed, dropout is off), so no generator is
stored.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint import state_dict_saver
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)

from raypo.data.manifest import opened, sealed
from raypo.errors import IntegrityError, OutputError
from raypo.training import plain

MANIFEST = "manifest.json"
TORN = "manifest.torn.json"
KINDS = {"version": int, "progress": int | float, "step": int, "contents": dict, "weights": str, "world_size": int}
METADATA = "state/.metadata"  # written last of a state, when all ranks have written their shards
HASHERS = 8  # threads: hashing leaves the interpreter lock, and a state has a file per rank


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint.

    Args:
        version: weight version: finished training rounds.
        progress: share of the job's planned prompts that is done.
        step: optimizer steps done.
        files: sizes in bytes of all files but the manifest, by relative path.
        contents: SHA-256 of each of them, hex.
        weights: SHA-256 over the exported weight files, hex.
        world_size: ranks that wrote the state.
        facts: versions, seconds, changed fraction, last metrics, the frozen scales and template hash.
    """

    version: int
    progress: float
    step: int
    files: dict[str, int] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    weights: str = ""
    world_size: int = 1
    facts: dict[str, Any] = field(default_factory=dict)


def folder_of(run_dir: str | Path, version: int, step: int | None = None) -> Path:
    """Folder of a version's checkpoint; with a step, of the one inside the round that makes the version."""
    inside = "" if step is None else f".step-{step:06d}"
    return Path(run_dir) / "checkpoints" / f"version-{version:04d}{inside}"


def save_state(
    run_dir: str | Path,
    version: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    reference: nn.Module | None = None,
    *,
    step: int | None = None,
) -> None:
    """Write this rank's shards, of a moving reference too; collective where there are ranks."""
    model_state, optimizer_state = get_state_dict(model, optimizer)
    state = {"model": model_state, "optimizer": optimizer_state}
    if reference is not None:
        state["reference"] = get_model_state_dict(reference)
    state_dict_saver.save(
        state, checkpoint_id=str(folder_of(run_dir, version, step) / "state"), no_dist=not dist.is_initialized()
    )


def load_state(
    run_dir: str | Path,
    version: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    reference: nn.Module | None = None,
    *,
    step: int | None = None,
) -> None:
    """Read this rank's shards into model, optimizer and moving reference; collective where there are ranks.

    Raises:
        IntegrityError: the state holds what none is made of.
    """
    model_state, optimizer_state = get_state_dict(model, optimizer)
    state: dict[str, Any] = {"model": model_state, "optimizer": optimizer_state}
    if reference is not None:
        state["reference"] = get_model_state_dict(reference)
    plain.load(state, folder_of(run_dir, version, step) / "state")
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    if reference is not None:
        set_model_state_dict(reference, state["reference"])


def clear(run_dir: str | Path, version: int) -> None:
    """Remove what an attempt that died left of a version; a complete one is left alone."""
    if read(run_dir, version) is None:
        shutil.rmtree(folder_of(run_dir, version), ignore_errors=True)


def commit(run_dir: str | Path, checkpoint: Checkpoint, *, inside: bool = False) -> Checkpoint:
    """Write the manifest, last of all: from here on the version exists. Rank 0 only.

    Args:
        run_dir: of the run.
        checkpoint: without its files.
        inside: of a round, at `checkpoint.step`.

    Returns:
        the checkpoint with its files, their hashes and the weight hash.

    Raises:
        IntegrityError: its state is not whole: another version would lose its own to one that cannot be resumed.
    """
    place = folder_of(run_dir, checkpoint.version, checkpoint.step if inside else None)
    if not (place / METADATA).is_file():
        raise IntegrityError(
            f"{place / METADATA} was saved and is gone",
            "a state that nobody removes while it is saved",
            "see that one driver alone writes to this folder, and run the same command again",
        )
    files = [path for path in sorted(place.rglob("*")) if path.is_file() and path.parent != place]
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())  # the manifest must not reach the disk before what it lists
    names = [str(path.relative_to(place)) for path in files]
    with ThreadPoolExecutor(HASHERS) as pool:
        contents = dict(zip(names, pool.map(_sha256, files), strict=True))
    sizes = {name: path.stat().st_size for name, path in zip(names, files, strict=True)}
    weights = "" if inside else weight_hash(place / "model")
    done = replace(checkpoint, files=sizes, contents=contents, weights=weights)
    _write(place, done)
    return done


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(place: Path, checkpoint: Checkpoint) -> None:
    """Put a manifest in place, whole or not at all."""
    temporary = place / (MANIFEST + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(sealed(asdict(checkpoint)), file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, place / MANIFEST)


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
        OutputError: the storage does not answer.
    """
    return read_folder(folder_of(run_dir, version))


def read_folder(place: Path) -> Checkpoint | None:
    """As `read`, of a folder."""
    with _answering(place):
        if not (place / MANIFEST).is_file():
            return None
        try:
            tree = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
            found = Checkpoint(**opened(tree, facts=dict, **KINDS))
        except (ValueError, TypeError) as error:
            raise _torn(place, f"{place / MANIFEST} cannot be read: {error}", "a whole manifest") from error
        for name, size in found.files.items():
            path = place / name
            if not path.is_file() or path.stat().st_size != size:
                told = f"{path} is {'torn' if path.is_file() else 'missing'}"
                raise _torn(place, told, f"{size} bytes, as its manifest says")
    return found


def verify(place: Path, found: Checkpoint) -> None:
    """Read every file of a checkpoint and compare its hash.

    Raises:
        IntegrityError: a file's content is not what the manifest says.
        OutputError: the storage does not answer.
    """
    names = list(found.files)
    with _answering(place), ThreadPoolExecutor(HASHERS) as pool:
        contents = dict(zip(names, pool.map(_sha256, [place / name for name in names]), strict=True))
    for name in names:
        if contents[name] != found.contents.get(name):
            raise _torn(place, f"{place / name} is not what was written", f"SHA-256 {found.contents.get(name)}")


def _torn(place: Path, got: str, expected: str) -> IntegrityError:
    return IntegrityError(got, expected, f"delete {place}; the run then continues from the version before")


@contextmanager
def _answering(place: Path) -> Iterator[None]:
    """Tell a file that is gone, which is torn, from storage that is away: what it holds is then not known."""
    try:
        yield
    except FileNotFoundError as error:
        raise _torn(place, f"{error.filename} is missing", "every file that its manifest lists") from error
    except OSError as error:
        raise OutputError(
            f"{place} cannot be read: {error}", "storage that answers", "wait for it; nothing was changed"
        ) from error


def resumable(run_dir: str | Path) -> Checkpoint | None:
    """The newest version whose every file is what was written; newer ones that are torn are set aside.

    Called by the driver, before anybody else looks. None for a run that has none, or none left.

    Raises:
        IntegrityError: the newest whole version is so old that its resume state was dropped.
        OutputError: the storage does not answer, so nothing is set aside.
    """
    while True:
        versions = complete_versions(run_dir)
        if not versions:
            return None
        place = folder_of(run_dir, versions[-1])
        try:
            found = read_folder(place)
            if found is not None:
                verify(place, found)
        except IntegrityError:
            os.replace(place / MANIFEST, place / TORN)
            continue
        if found is not None and not any(name.startswith("state/") for name in found.files):
            raise IntegrityError(
                f"{place} has no state to resume from, and all newer versions are torn",
                "one of the last two versions whole",
                f"start a new run from the model {place / 'model'}",
            )
        return found


def newest_inside(run_dir: str | Path, version: int) -> Checkpoint | None:
    """The newest whole checkpoint inside the round that makes a version; None when there is none."""
    for place in sorted((Path(run_dir) / "checkpoints").glob(f"version-{version:04d}.step-*"), reverse=True):
        try:
            if (found := read_folder(place)) is not None:
                verify(place, found)
                return found
        except IntegrityError:
            continue
    return None


def drop_inside(run_dir: str | Path, version: int, *, keep: int | None = None) -> None:
    """Remove checkpoints inside the round that makes a version, and inside earlier ones; all but that of a step."""
    for place in (Path(run_dir) / "checkpoints").glob("version-*.step-*"):
        told, _, step = place.name.removeprefix("version-").partition(".step-")
        if int(told) <= version and int(step) != keep:
            (place / MANIFEST).unlink(missing_ok=True)  # first: a half-removed folder must not look whole
            shutil.rmtree(place)


def newest(run_dir: str | Path) -> Checkpoint | None:
    """The newest complete checkpoint; None when there is none. Folders without a manifest are passed over."""
    versions = complete_versions(run_dir)
    return read(run_dir, versions[-1]) if versions else None


def complete_versions(run_dir: str | Path) -> list[int]:
    """Versions that have a manifest, ascending.

    Raises:
        OutputError: the storage does not answer; a pattern would find no version there.
    """
    place = Path(run_dir) / "checkpoints"
    with _answering(place):
        names = os.listdir(place) if place.is_dir() else []
        whole = [name for name in names if name.startswith("version-") and (place / name / MANIFEST).is_file()]
    return sorted(int(name.removeprefix("version-")) for name in whole if ".step-" not in name)


def drop_states(run_dir: str | Path, older_than: int) -> None:
    """Remove the resume state of complete versions older than one; their exported models stay."""
    for version in range(1, older_than):
        place = folder_of(run_dir, version)
        if (place / "state").exists() and (found := read(run_dir, version)) is not None:
            # the manifest first: it must never list what is gone
            sizes = {name: size for name, size in found.files.items() if not name.startswith("state/")}
            hashes = {name: found.contents[name] for name in sizes}
            _write(place, replace(found, files=sizes, contents=hashes))
            shutil.rmtree(place / "state")


def prune(run_dir: str | Path, keep: set[int]) -> None:
    """Remove the checkpoints of all versions that are neither kept nor the newest.

    Args:
        run_dir: of the run.
        keep: versions that stay.
    """
    last = newest(run_dir)
    for place in (Path(run_dir) / "checkpoints").glob("version-*"):
        if ".step-" in place.name:
            continue
        version = int(place.name.removeprefix("version-"))
        if last is not None and version < last.version and version not in keep:
            (place / MANIFEST).unlink(missing_ok=True)  # first: a half-removed folder must not look whole
            shutil.rmtree(place)
