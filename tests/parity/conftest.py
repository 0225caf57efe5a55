"""TRL's trainers, each made once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from trainers import trainer


@pytest.fixture(scope="session")
def made(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`made(kind, **config)`: a trainer over the tiny Llama, one for each kind and config."""
    known: dict[str, Any] = {}

    def make(kind: str, **config: Any) -> Any:
        key = f"{kind} {config}"
        if key not in known:
            known[key] = trainer(kind, tiny_model, tmp_path_factory.mktemp("trl"), **config)
        return known[key]

    return make
