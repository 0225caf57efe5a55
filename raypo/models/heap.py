"""What the C library does with memory that is freed: by default it goes back to the system, and comes as new pages.

A step on a CPU makes the same large tensors as the step before, and frees them at its end. With glibc's defaults all of
their pages are then asked for again: some 11,000 faults in a step of the benchmark's model with 2 or 8 responses, and
next to none where the heap keeps what it has. The peak is the same; what is kept stays resident until `give_back`.

On a GPU tensors are torch's own cache's, and in a C library without these calls (musl, macOS) nothing is changed.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Names of glibc's mallopt(3), as malloc.h numbers them."""

KEPT = 2**31 - 1
"""Bytes that may lie free at the heap's end: as many as its C int holds."""

LARGEST = 32 * 2**20
"""Bytes from which on a tensor has pages of its own; the greatest value that glibc takes."""


@lru_cache(maxsize=1)
def _library() -> Any:
    """The C library of this process, or None where it has no such calls."""
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


def keep_freed() -> bool:
    """Keep freed memory in this process for the tensors that come next; returns whether the C library does so."""
    library = _library()
    if library is None:
        return False
    # mallopt gives 1 where it took a value; either alone would leave tensors with pages of their own
    return all(library.mallopt(*how) == 1 for how in ((MMAP_THRESHOLD, LARGEST), (TRIM_THRESHOLD, KEPT)))


def give_back() -> None:
    """Return to the system what is kept: when others are to have it, such as the engines of the next round."""
    if (library := _library()) is not None:
        library.malloc_trim(0)
