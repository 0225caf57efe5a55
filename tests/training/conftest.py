"""Runs of a worker's learner on two gloo ranks, made once for all tests of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import StoredTables, learn_whole_and_interrupted, run_config, run_ranks


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Any:
    """Three rounds of two epochs, straight and interrupted.

    With full weights and with adapters; against a moving reference, with trained masks, and with a running anchor.
    """
    output = tmp_path_factory.mktemp("runs")
    configs = {
        "full": run_config(tiny_model, output, online={"reference": "ema", "ema_decay": 0.75}),
        "lora": run_config(tiny_model, output, policy={"adapter": "lora", "lora_rank": 2}),
        "moving": run_config(tiny_model, output, objective={"preset": "tr-dpo"}, training={"reference_steps": 3}),
        "masks": run_config(tiny_model, output, objective={"preset": "sparsepo"}),
        "anchor": run_config(tiny_model, output, objective={"preset": "bco"}),
    }
    for name in configs:
        for kind in ("whole", "broken"):
            (output / name / kind).mkdir(parents=True)
    answers = run_ranks(learn_whole_and_interrupted, 2, configs, StoredTables(output, 3))
    return output, answers
