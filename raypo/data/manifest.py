"""What a manifest is made of: which files a folder holds, and a hash of itself, so that damage to it is seen.

A manifest is believed before anything else is read, and its facts (scales, a cursor, figures) have no other copy: one
bit of them would go on as a number that nobody wrote.
"""

from __future__ import annotations

import hashlib
import json
from types import UnionType
from typing import Any

SEAL = "seal"


def sealed(tree: dict[str, Any]) -> dict[str, Any]:
    """A manifest as it is written: its fields, and the SHA-256 of them, hex, as `seal`."""
    plain = json.loads(json.dumps(tree))  # as its reader will have it: lists for tuples, strings for keys
    return plain | {SEAL: _hash(plain)}


def opened(tree: Any, **kinds: type | UnionType) -> dict[str, Any]:
    """The fields of a manifest that was read. One without a seal is believed.

    Args:
        tree: as it came out of its JSON.
        kinds: of its fields, by name; `files`, sizes in bytes by name, is looked at always.

    Raises:
        ValueError: it is not what was written, or a field is of another kind.
    """
    if not isinstance(tree, dict):
        raise ValueError("it is no JSON object")
    plain = {name: value for name, value in tree.items() if name != SEAL}
    if SEAL in tree and tree[SEAL] != _hash(plain):
        raise ValueError("it is not what was written: its seal is of something else")
    for name, kind in kinds.items():
        if name in plain and not isinstance(plain[name], kind):
            raise ValueError(f"its {name!r} is {plain[name]!r:.40}")
    files = plain.get("files")
    if not isinstance(files, dict) or not files or not all(isinstance(size, int) for size in files.values()):
        raise ValueError(f"its 'files' are {files!r:.40}")
    return plain


def _hash(tree: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
