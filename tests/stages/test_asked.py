"""What a comparison of policies asks of a cluster: a run without its train workers."""

from __future__ import annotations

from raypo.config import build
from raypo.stages.cluster import Asked


def test_what_does_not_train_asks_for_no_train_workers() -> None:
    """1 engine, 1 reference, 2 for Ray Data; with 3 train workers 7. On GPUs: the engine's, and one per worker."""
    config = build(
        {
            "policy": {"path": "nowhere"},
            "prompts": {"path": "nowhere"},
            "training": {"workers": 3, "gpus_per_worker": 1},
        }
    )
    assert Asked.by(config, on_gpu=True) == Asked(7, 4.0)
    assert Asked.by(config, on_gpu=True, trains=False) == Asked(4, 1.0)
