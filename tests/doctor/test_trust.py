"""raypo.doctor.trust: what is doubted of rewards, and how often they are right where that is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny import annotated, run_config

from raypo.config import RunConfig, build
from raypo.doctor import trust
from raypo.errors import ConfigError, DataError

COUNT = 40


@pytest.fixture
def known(tmp_path: Path) -> Path:
    """Pairs of which the chosen one is longer in 30 of 40, in the layout of TRL."""
    rows = []
    for i in range(COUNT):
        long, short = f"w{i} w3 w4", f"w{i + 9}"
        chosen, rejected = (long, short) if i < 30 else (short, long)
        rows.append({"prompt": f"w{i + 1} w{i + 2}", "chosen": chosen, "rejected": rejected})
    (tmp_path / "known.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "known.jsonl"


def config_of(model: Path, place: Path, **weights: float) -> RunConfig:
    rewards = [
        {"name": name, "path": f"tests.doctor.lengths:{name}", "weight": weight} for name, weight in weights.items()
    ]
    tree = {"prompts": {"path": "unused", "max_prompt_tokens": 16}, "sampling": {"max_response_tokens": 8}}
    return build(json.loads(run_config(model, place, **tree).model_dump_json()) | {"rewards": rewards})


def test_what_is_doubted_is_a_warning_with_what_it_rests_on() -> None:
    """Exponential rewards have a skewness of 2 and more; normal ones none. Lengths are drawn for themselves."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 50, (60, 8)).tolist()
    steep = trust.doubt("judge", np.exp(rng.normal(size=(60, 8))).tolist(), lengths)
    assert (steep.name, steep.verdict) == ("trust in judge", "warn")
    assert "rewards are skewed" in steep.got
    assert "(on 480 responses to 60 prompts)" in steep.got
    assert trust.doubt("judge", rng.normal(size=(60, 8)).tolist(), lengths).verdict == "ok"


def test_every_source_of_scored_responses_has_a_finding() -> None:
    """Four sets of three of one source, r, the last a tie: 12 responses, too few for a tail, and without a skew."""
    found = trust.doubts_of(annotated(4, responses=3, round_index=0))
    assert [(one.name, one.verdict) for one in found] == [("trust in r", "ok")]
    assert found[0].got == "nothing speaks against its size or order on 12 responses to 4 prompts"


@pytest.mark.slow
def test_an_audit_scores_known_pairs_with_every_source(
    tiny_model: Path, tmp_path: Path, known: Path, ray_cluster: None
) -> None:
    """Length is right in 30 of 40 pairs, which differ by two words; brevity in the 10 others, and their sum never.

    Verdicts 3 : 1 at a difference of 2: log-odds ln 3 = 1.10, so that a difference of 1 is 0.55 logits.
    """
    config = config_of(tiny_model, tmp_path, length=1.0, brevity=0.5)
    found = trust.audit(config, trust.known_sets(config, known))
    assert [(one.name, one.verdict) for one in found] == [
        ("audit of reward length", "ok"),
        ("audit of reward brevity", "warn"),
        ("audit of training reward", "ok"),
    ]
    assert found[0].got.startswith("orders 75% [")
    assert "over 40 sets with 40 pairs" in found[0].got
    assert "a difference of 1 is 0.5" in found[0].got
    assert found[1].got.startswith("orders 25% [")
    assert "at least 65%" in found[1].expected


def test_an_audit_reads_what_the_run_could_read(tiny_model: Path, tmp_path: Path, known: Path) -> None:
    config = config_of(tiny_model, tmp_path, length=1.0)
    sets = trust.known_sets(config, known)
    assert sets.num_rows == COUNT
    assert sets["rewards"].to_pylist() == [[1.0, 0.0]] * COUNT
    with pytest.raises(ConfigError, match="without a reward source"):
        trust.known_sets(config_of(tiny_model, tmp_path), known)
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError):
        trust.known_sets(config, tmp_path / "empty.jsonl")
