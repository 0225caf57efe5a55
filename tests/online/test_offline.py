"""raypo.online.offline: what is known before anything starts, and what is counted after it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from tiny import run_config

from raypo.errors import ConfigError
from raypo.online.offline import pair_shares, prompt_means, train_offline


def test_a_reference_that_would_never_move_is_refused_before_the_name_is_taken(
    tiny_model: Path, tmp_path: Path
) -> None:
    """40 sets of 4 a step, a tenth or so of them held out: at most 10 steps, and the default is to move every 512."""
    rows = [{"prompt": f"q{i}", "responses": ["a", "b"], "rewards": [1, 0]} for i in range(40)]
    (tmp_path / "sets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = run_config(
        tiny_model, tmp_path / "runs", prompts={"path": str(tmp_path / "sets.jsonl")}, objective={"preset": "tr-dpo"}
    )
    with pytest.raises(ConfigError, match=r"reference_steps = 512 in a job of about \d+ optimizer steps"):
        train_offline(config)
    assert not (tmp_path / "runs" / config.name).exists()


def test_sets_of_one_prompt_count_as_one() -> None:
    """Log-ratios 1, 0 where rewards are 1, 0: right, 1; the other way: 0; a tie of rewards: none.

    Prompt a has 1 and 0, so 0.5; b has 1 beside a tie, so 1; c has only a tie.
    """
    zero = [[0.0, 0.0]] * 5
    shares = pair_shares(
        [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]], zero, [[1, 0]] * 3 + [[1, 1]] * 2
    )
    assert shares[:3].tolist() == [1.0, 0.0, 1.0]
    found = prompt_means(["a", "a", "b", "b", "c"], shares)
    assert found[:2].tolist() == [0.5, 1.0]
    assert math.isnan(found[2])
    assert prompt_means([], np.array([])).tolist() == []
