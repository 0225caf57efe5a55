"""Invariants 3 and 10: what a step does depends on its sets alone, and what is trained is what is exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import causal_lm, policy_config, run_ranks, train_sharded, training_config, training_sets, trajectory
from transformers import AutoModelForCausalLM, AutoTokenizer

from raypo.models.export import changed_fraction, export_weights, save_model
from raypo.models.load import add_lora, load_causal_lm
from raypo.models.scorer import TokenScorer
from raypo.training.passes import rank_batches

# loss and gradient norm of four steps of w-mpo (beta 0.1, alpha 1) on 8 sets of 3 responses, tests/tiny.py, fp32, CPU
GOLDEN = [(1.307581, 1.50856), (1.128143, 1.786577), (1.574606, 1.6499), (1.087311, 1.151767)]

ALL_AT_ONCE, ONE_BY_ONE = {"tokens_per_micro_batch": 10_000}, {"tokens_per_micro_batch": 1}
UNEQUAL = {"tokens_per_micro_batch": 40}


def curve(metrics: list[dict[str, float]]) -> list[float]:
    """Loss and gradient norm of each step, flat."""
    return [value for one in metrics for value in (one["loss"], one["grad_norm"])]


def alone(changes: dict[str, Any]) -> list[float]:
    """The trajectory of one unsharded process."""
    return curve(trajectory(TokenScorer(causal_lm()), training_config(**changes), 4))


def follows_golden(values: list[float]) -> None:
    """Each value within 1e-4, and no one-sided drift: the mean residual within 2e-5."""
    residuals = torch.tensor(values) - torch.tensor([value for pair in GOLDEN for value in pair])
    assert residuals.abs().max().item() < 1e-4, values
    assert abs(residuals.mean().item()) < 2e-5, values


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The model of `alone`, untied and tied, as folders."""
    made = {}
    for name, tied in (("untied", False), ("tied", True)):
        place = tmp_path_factory.mktemp(name)
        causal_lm(tie_word_embeddings=tied).save_pretrained(place)
        made[name] = str(place)
    return made


def test_one_micro_batch_of_eight_follows_the_golden_trajectory() -> None:
    follows_golden(alone(ALL_AT_ONCE))


def test_eight_micro_batches_of_one_follow_the_same_trajectory() -> None:
    follows_golden(alone(ONE_BY_ONE))


@pytest.fixture(scope="module")
def two_ranks(folders: dict[str, str]) -> list[dict[str, Any]]:
    """What two gloo ranks made of every case: one start of the processes for all."""
    cases = {
        "at once": (folders["untied"], 4, ALL_AT_ONCE, {}),
        "unequal, recomputed": (folders["untied"], 4, UNEQUAL | {"activation_checkpointing": True}, {}),
        "tied": (folders["tied"], 3, {}, {}),
        "lora": (folders["untied"], 3, {}, {"adapter": "lora"}),
        "bfloat16": (folders["untied"], 2, {}, {"compute_dtype": "bfloat16"}),
    }
    return run_ranks(train_sharded, 2, cases)


def agree(weights: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """The same names, and values that differ by less than a fiftieth of a step (1e-2)."""
    assert set(weights) == set(expected)
    for name, tensor in weights.items():
        assert torch.allclose(tensor, expected[name], atol=2e-4), name


def test_two_gloo_ranks_follow_the_same_trajectory_and_hold_the_same_weights(two_ranks: list[dict[str, Any]]) -> None:
    scorer = TokenScorer(causal_lm())
    trajectory(scorer, training_config(**ALL_AT_ONCE), 4)
    expected = dict(export_weights(scorer, torch.float32))
    for found in two_ranks:
        metrics, weights = found["at once"]
        follows_golden(curve(metrics))
        agree(weights, expected)


def test_ranks_with_unequal_shares_and_recomputed_layers_follow_it_too(two_ranks: list[dict[str, Any]]) -> None:
    """With a budget of 40 tokens the ranks need 3 and 4 passes at the first step: one joins once for nothing."""
    budget = UNEQUAL["tokens_per_micro_batch"]
    plans = [list(rank_batches(training_sets(8, responses=3), budget, rank, 2)) for rank in (0, 1)]
    assert sorted(sum(counts for _, counts in plan) for plan in plans) == [3, 4]
    for found in two_ranks:
        follows_golden(curve(found["unequal, recomputed"][0]))


def test_tied_embeddings_stay_tied_when_sharded(two_ranks: list[dict[str, Any]]) -> None:
    scorer = TokenScorer(causal_lm(tie_word_embeddings=True))
    expected = trajectory(scorer, training_config(), 3)
    whole = dict(export_weights(scorer, torch.float32))
    for found in two_ranks:
        metrics, weights = found["tied"]
        assert curve(metrics) == pytest.approx(curve(expected), abs=1e-4)
        assert "lm_head.weight" not in weights
        agree(weights, whole)


def test_adapters_train_alike_on_one_and_two_ranks(folders: dict[str, str], two_ranks: list[dict[str, Any]]) -> None:
    torch.manual_seed(0)
    policy = policy_config(folders["untied"], adapter="lora")
    scorer = TokenScorer(add_lora(load_causal_lm(folders["untied"], dtype=torch.float32), policy))
    expected = trajectory(scorer, training_config(), 3)
    merged = dict(export_weights(scorer, torch.float32))
    for found in two_ranks:
        metrics, weights = found["lora"]
        assert curve(metrics) == pytest.approx(curve(expected), abs=1e-4)
        agree(weights, merged)


def test_bfloat16_compute_keeps_fp32_masters_and_stays_near(two_ranks: list[dict[str, Any]]) -> None:
    """bf16 has 8 bits: losses of order 1 agree to some 1e-2, and are not equal."""
    metrics, weights = two_ranks[0]["bfloat16"]
    exact = GOLDEN[0][0]
    assert metrics[0]["loss"] == pytest.approx(exact, abs=0.05)
    assert metrics[0]["loss"] != pytest.approx(exact, abs=1e-6)
    norm = weights["model.norm.weight"]
    assert norm.dtype == torch.float32
    assert not torch.equal(norm, norm.bfloat16().float())


def test_one_step_at_a_tiny_rate_changes_fp32_weights_and_the_export_is_what_is_loaded(
    tiny_model: Path, tmp_path: Path
) -> None:
    """AdamW's first step moves each weight by about the rate, 1e-7: below what bf16 resolves for most, above fp32."""
    scorer = TokenScorer(load_causal_lm(str(tiny_model), dtype=torch.float32))
    before = {name: tensor.clone() for name, tensor in scorer.causal.state_dict().items()}
    trajectory(scorer, training_config(learning_rate=1e-7), 1)
    after = scorer.causal.state_dict()
    moved = sum(int((after[name] != tensor).sum()) for name, tensor in before.items())
    assert moved > 0.5 * sum(tensor.numel() for tensor in before.values())
    weights = dict(export_weights(scorer, torch.bfloat16))
    save_model(tmp_path, weights, scorer, AutoTokenizer.from_pretrained(tiny_model), None)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], tensor.bfloat16()) for name, tensor in after.items())
    assert changed_fraction(tiny_model, weights) < 0.01
