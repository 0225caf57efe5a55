"""Published preference data as it is: read, annotated by a small story model, and trained on for a few steps."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tiny import run_config

from raypo.data.chat import load_sets
from raypo.models.load import load_causal_lm, load_tokenizer
from raypo.models.scorer import TokenScorer
from raypo.online.offline import scored_sets
from raypo.scoring.reference import ReferenceScorer
from raypo.stages.actors import Actors, Engines
from raypo.stages.annotation import finish_annotation
from raypo.stages.cluster import objective_of
from raypo.training.rows import training_sets
from raypo.training.step import make_optimizer, train_step

REAL = Path(__file__).parents[3] / "shared" / "data"
MODEL = REAL / "models" / "stories260K-hd32"
FILES = {
    "hh_harmless_base_test": {},
    "pandalm_test_999x3": {},
    "llmbar": {},
    "alpaca_eval_16x805": {},
    "cobbler_50x15x6": {"response_score_key": "annotator_points"},
}


@pytest.mark.skipif(not MODEL.exists(), reason="the shared data folder is absent here")
@pytest.mark.parametrize("name", FILES)
def test_training_on_published_data_starts_at_its_oracle(name: str, tmp_path: Path) -> None:
    """DPO at policy == reference is ln 2 on every set; two steps on twelve sets lower it."""
    config = run_config(
        MODEL,
        tmp_path,
        prompts={"path": str(REAL / f"{name}.jsonl.gz"), "limit": 80, "max_prompt_tokens": 160, **FILES[name]},
        sampling={"max_response_tokens": 320},
        objective={"preset": "dpo", "beta": 0.1},
        dispersion={"estimator": "none"},
        training={"learning_rate": 1e-4},
    )
    tokenizer = load_tokenizer(str(MODEL), None, None)
    sets, facts = load_sets(config.prompts, tokenizer, max_response_tokens=config.sampling.max_response_tokens)
    assert facts["read"] == facts["train"] + facts["heldout"] + sum(facts["dropped"].values())
    reference = ReferenceScorer(str(MODEL), compute_dtype="float32", tokens_per_batch=4096, chunk_tokens=1024)
    scored = scored_sets(sets.slice(0, 16), Actors(Engines([], config), [], {}), config, lambda chunk: None)
    annotated, _ = finish_annotation(
        reference.annotate(scored), config, scales=None, vocabulary=reference.vocabulary_size()
    )
    objective = objective_of(config)
    given = training_sets(annotated, objective)[:12]
    assert len(given) >= 8
    scorer = TokenScorer(load_causal_lm(str(MODEL), dtype=torch.float32)).eval()
    optimizer = make_optimizer(scorer, config.training)
    losses = [
        train_step(scorer, optimizer, given, objective, config.training, progress=0.5, pad_token_id=0)["loss"]
        for _ in range(3)
    ]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-4)
    assert max(losses[1:]) < losses[0]
