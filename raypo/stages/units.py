"""What of a run's folder was committed together, and what the folder may lack although it was there.

raypo removes checkpoints that later ones replaced, and the resume states of old ones; nothing else. Whatever else is
missing was lost.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from raypo.data.manifest import SEAL
from raypo.stages import tables
from raypo.training import checkpoint

MANIFESTS = frozenset({tables.MANIFEST, checkpoint.MANIFEST})
CHECKPOINT = re.compile(rf"checkpoints/version-(\d+)(?:\.step-(\d+))?/{re.escape(checkpoint.MANIFEST)}")
STATE = "state/"
OF_FILES = ("files", "contents", SEAL)  # of a manifest: the lists of its files, and the hash of all that it says


@dataclass(frozen=True)
class Unit:
    """Files that are committed together: a folder with a manifest, or one loose file.

    Args:
        manifest: relative path of the manifest, or of the loose file.
        files: relative paths of the other files.
    """

    manifest: str
    files: tuple[str, ...]


def units(names: Mapping[str, Any]) -> list[Unit]:
    """Committed files by unit; those of no unit, what was set aside, and Ray's own record of attempts, are left out.

    Args:
        names: relative paths with `/` between their parts.
    """
    heads = {parent(name): name for name in names if has_manifest(name)}
    below: dict[str, list[str]] = {head: [] for head in heads.values()}
    loose = []
    for name in names:
        last = name.rpartition("/")[2]
        if name in below or last.endswith(".tmp") or last.startswith(tables.TORN) or name.startswith("ray/"):
            continue
        if (owner := _owner(name, heads)) is not None:
            below[owner].append(name)
        elif not name.startswith("checkpoints/") and "/attempt-" not in f"/{name}":
            loose.append(name)
    return [Unit(head, tuple(sorted(files))) for head, files in below.items()] + [Unit(name, ()) for name in loose]


def _owner(name: str, heads: Mapping[str, str]) -> str | None:
    """Manifest of the nearest folder above a file that has one."""
    folder = parent(name)
    while folder:
        if folder in heads:
            return heads[folder]
        folder = parent(folder)
    return None


def parent(name: str) -> str:
    """Folder of a relative path."""
    return name.rpartition("/")[0]


def has_manifest(name: str) -> bool:
    """Whether a unit's name is that of a manifest, and not of a loose file."""
    return name.rpartition("/")[2] in MANIFESTS


def age(manifest: str) -> tuple[int, float] | None:
    """Version and step of a checkpoint, in the order in which a run makes them; None for what is none.

    A version comes after the steps inside the round that makes it.
    """
    found = CHECKPOINT.fullmatch(manifest)
    return None if found is None else (int(found[1]), inf if found[2] is None else int(found[2]))


def replaced(gone: str, here: Iterable[str]) -> bool:
    """Whether what is not here is a checkpoint that a later one, which is here, took the place of.

    Args:
        gone: name of a unit.
        here: names of units.
    """
    if (old := age(gone)) is None:
        return False
    ages = [one for name in here if (one := age(name)) is not None]
    # a step inside the next round needs its version: it does not replace it
    return any(one > old for one in ages if one[1] == inf or old[1] < inf)


def listed(manifest: bytes) -> dict[str, int]:
    """Sizes of the files that a manifest lists, by path below its folder."""
    files = _tree(manifest).get("files")
    return files if isinstance(files, dict) else {}


def same_commit(mine: bytes, theirs: bytes) -> bool:
    """Whether two manifests tell of one commit: the states of old versions are taken from both lists of files.

    A table's files are named by the attempt that wrote them; what is in them has a hash of its own.
    """
    one, other = _tree(mine), _tree(theirs)
    if any(one.get(key) != other.get(key) for key in one.keys() | other.keys() if key not in OF_FILES):
        return False
    ours, other_hashes = _hashes(one), _hashes(other)
    names = ours.keys() | other_hashes.keys()
    differ = [name for name in names if ours.get(name) != other_hashes.get(name)]
    return all(name.startswith(STATE) and not (name in ours and name in other_hashes) for name in differ)


def same_files(mine: bytes, theirs: bytes) -> dict[str, int]:
    """Files that two manifests of one commit list with the same size and content, as `listed`."""
    ours, other_hashes, other_sizes = _hashes(_tree(mine)), _hashes(_tree(theirs)), listed(theirs)
    return {
        name: size
        for name, size in listed(mine).items()
        if other_sizes.get(name) == size and ours.get(name) == other_hashes.get(name)
    }


def _hashes(tree: dict[str, Any]) -> dict[str, str]:
    hashes = tree.get("contents")
    return hashes if isinstance(hashes, dict) else {}


def _tree(manifest: bytes) -> dict[str, Any]:
    """What a manifest says; nothing where it is torn."""
    try:
        tree = json.loads(manifest)
    except ValueError:
        return {}
    return tree if isinstance(tree, dict) else {}
