"""Which weights a model folder or hub name stands for, so that a resumed run can tell others under the same name.

Of a folder: config.json and the *.safetensors files, by name, size and content. Content is every byte up to `WHOLE`,
seconds of reading; above it, where a start would read for minutes, each file's beginning (the header, with every
tensor's name, shape and place) and `SAMPLES` blocks spread evenly over it. Other weights of the same shape, another
step of a training or another cast differ in almost every block; a single damaged bit may not be seen there.
Of a hub name: the commit in the local cache, which the tokenizer has been read from by then; the network is not asked.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from raypo.errors import ModelError

WHOLE = 2 << 30  # bytes of all files together
HEADER, BLOCK, SAMPLES = 1 << 20, 1 << 16, 64


def content_of(path: str, revision: str | None = None, *, whole: int = WHOLE) -> str | None:
    """SHA-256 of a model folder, or the commit of a hub name; None where there is no model yet, or none is cached.

    Args:
        path: folder or hub name.
        revision: hub revision.
        whole: bytes up to which every one is read.

    Raises:
        ModelError: a file cannot be read.
    """
    folder = Path(path)
    if not folder.is_dir():
        try:
            found = try_to_load_from_cache(path, "config.json", revision=revision)
        except ValueError:  # a path, of a folder that is not there
            return None
        return f"commit {Path(found).parent.name}" if isinstance(found, str) else None
    files = sorted(folder.glob("*.safetensors"))
    if not files or not (folder / "config.json").is_file():
        return None  # it is still being written
    digest = hashlib.sha256()
    try:
        sizes = [file.stat().st_size for file in files]
        digest.update((folder / "config.json").read_bytes())
        for file, size in zip(files, sizes, strict=True):
            digest.update(f"{file.name} {size}".encode())
            digest.update(_digest(file, size, sampled=sum(sizes) > whole))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}", "a readable model folder", "check the folder") from error
    return digest.hexdigest()


def _digest(file: Path, size: int, *, sampled: bool) -> bytes:
    """Of a file's content, or of its beginning and blocks of it."""
    with file.open("rb") as opened:
        if not sampled:
            return hashlib.file_digest(opened, "sha256").digest()
        digest = hashlib.sha256(opened.read(HEADER))
        for index in range(SAMPLES):
            opened.seek(max(size - BLOCK, 0) * index // (SAMPLES - 1))
            digest.update(opened.read(BLOCK))
        return digest.digest()
