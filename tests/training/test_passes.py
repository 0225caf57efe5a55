"""Passes over sets: two give the gradient of one, ranks and layouts change nothing, and memory is that of a part."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import causal_lm, run_ranks, step_objective, take_steps, training_config, training_sets
from transformers import AutoModelForCausalLM, LlamaConfig

from raypo.data.packing import ResponseSet
from raypo.models.scorer import TokenScorer
from raypo.objective.presets import TABLE
from raypo.training.passes import Ranks, _score, backward, direct, divided, split, two_pass
from raypo.training.sets import TrainingSet
from raypo.training.terms import Means, _last_of_each, response_values

SUMS = ["w-mpo", "dpo", "plackett-luce", "all-pairs", "mallows-mpo", "nca", "simpo", "cal-dpo", "wpo", "refa-eos"]
LIVE = ["tdpo1", "tdpo2", "sparsepo", "mapo", "ld-dpo", "kto", "bco", "tr-dpo", "learned-prior", "aot"]
LIVE += ["wpo", "wpo-plain", "refa-eos", "ampo-coreset", "ampo-opt-select"]
LIVE += ["tis-dpo", "sparsepo-independent", "refa-eos-budget", "refa-eos-independent"]


def gradient(way: Any, name: str, sets: list[TrainingSet], budget: int) -> torch.Tensor:
    """All gradients of a fresh model in one vector."""
    scorer = TokenScorer(causal_lm())
    config = training_config(tokens_per_micro_batch=budget)
    sums = way(Means(scorer, step_objective(name), config, 0, "cpu"), sets, Ranks(0, 1))
    assert float(sums["used"]) == len(sets)
    return torch.cat([p.grad.flatten() for p in scorer.parameters() if p.grad is not None])


@pytest.mark.parametrize("name", SUMS)
def test_two_passes_give_the_gradient_of_one(name: str) -> None:
    """Sets of 6 responses, scored and back-propagated one response at a time; relative to the largest entry."""
    sets = training_sets(3, responses=6)
    one, two = gradient(direct, name, sets, 10_000), gradient(two_pass, name, sets, 1)
    assert float((one - two).abs().max() / one.abs().max()) < 1e-5
    assert float(one.abs().max()) > 1e-4


@pytest.mark.parametrize("name", ["w-mpo", "ld-dpo", "refa-eos", "refa-eos-independent"])
@pytest.mark.parametrize("empty", [0, 1, 3])
def test_two_passes_give_the_gradient_of_one_with_a_response_of_no_tokens(name: str, empty: int) -> None:
    """A pipeline drops such responses; a library's user may give them. The shortest response has 0 tokens."""
    one = training_sets(1, responses=4)[0]
    ids = [[] if k == empty else list(row) for k, row in enumerate(one.tokens.response_token_ids)]
    changed = {"ended": [k != empty for k in range(4)], "reference_token_logps": [[-2.0] * len(row) for row in ids]}
    sets = [replace(one, tokens=replace(one.tokens, response_token_ids=ids), shortest=None, **changed)]
    whole, parts = gradient(direct, name, sets, 10_000), gradient(two_pass, name, sets, 1)
    assert float((whole - parts).abs().max() / whole.abs().max()) < 1e-5


def test_the_end_of_a_response_is_its_own() -> None:
    """Lengths 2, 0, 3 and log-probs -1, ..., -5: ends -2 and -5; without tokens 0, and nobody's gradient."""
    logps = torch.tensor([-1.0, -2.0, -3.0, -4.0, -5.0], requires_grad=True)
    ends = _last_of_each(logps, torch.tensor([0, 0, 2, 2, 2]), 3)
    assert ends.tolist() == [-2.0, 0.0, -5.0]
    (ends * torch.tensor([1.0, 10.0, 100.0])).sum().backward()
    assert logps.grad is not None
    assert logps.grad.tolist() == [0.0, 1.0, 0.0, 0.0, 100.0]


def test_only_sets_above_the_budget_take_two_passes() -> None:
    """Tokens of a shared row: the prompt once and its responses."""
    sets = training_sets(6, responses=4)
    config = training_config(tokens_per_micro_batch=12)
    sizes = [one.tokens.tokens("shared") for one in sets]
    assert min(sizes) <= 12 < max(sizes)
    fitting, large = divided(Means(TokenScorer(causal_lm()), step_objective("w-mpo"), config, 0, "cpu"), sets)
    assert [one.tokens.tokens("shared") for one in fitting] == [size for size in sizes if size <= 12]
    assert [one.tokens.tokens("shared") for one in large] == [size for size in sizes if size > 12]
    everything = divided(Means(TokenScorer(causal_lm()), step_objective("aot"), config, 0, "cpu"), sets)
    assert everything == ([], sets)  # it sorts over all sets of the step


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("policy")
    causal_lm().save_pretrained(place)
    return str(place)


@pytest.fixture(scope="module")
def curves(folder: str) -> dict[str, dict[str, list[float]]]:
    """Two steps of every objective with needs of its own: one rank, two ranks, one response at a time, and mixed.

    Mixed: of sets of 4 to 17 tokens those above the budget of 12 take two passes and the others one.
    """
    names, mixed = list(dict.fromkeys(LIVE)), {"tokens_per_micro_batch": 12}
    ways: dict[str, dict[str, Any]] = {"one": {}, "parts": {"tokens_per_micro_batch": 1}, "rows": {"packing": "none"}}
    ways["mixed"] = mixed
    copied = {"copied": (["tr-dpo"], {"reference_mixing": 1.0})}
    alone = run_ranks(take_steps, 1, folder, {way: (names, training) for way, training in ways.items()} | copied)[0]
    return alone | run_ranks(take_steps, 2, folder, {"two": (names, {}), "two, mixed": (names, mixed)})[0]


@pytest.mark.parametrize("name", list(dict.fromkeys(LIVE)))
def test_ranks_parts_and_layouts_change_nothing(name: str, curves: dict[str, dict[str, list[float]]]) -> None:
    """Loss and gradient norm of two steps; the second sees a reference, masks and anchors that have moved."""
    expected = curves["one"][name]
    for other in ("two", "parts", "rows", "mixed", "two, mixed"):
        assert curves[other][name] == pytest.approx(expected, rel=2e-4, abs=2e-5), other


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tdpo1", math.log(2)),  # KL 0 at policy == reference
        ("tdpo2", math.log(2)),
        ("ld-dpo", math.log(2)),
        ("sparsepo", math.log(2) + 1e-3 * 2),  # masks of one: penalty 1e-3 (|m| + |d|)
        ("sparsepo-independent", math.log(2) + 1e-3 * 2),
        ("tis-dpo", math.log(2)),
        ("mapo", math.log(2)),
        ("tr-dpo", math.log(2)),
        ("bco", 2 * math.log(2)),
        ("kto", 0.5),
        ("aot", math.log(2)),
        ("ampo-coreset", math.log(4)),
        ("learned-prior", None),
    ],
)
def test_the_first_step_starts_at_its_oracle_with_the_reference_that_the_trainer_holds(
    name: str, expected: float | None, curves: dict[str, dict[str, list[float]]]
) -> None:
    """Policy == reference."""
    loss = curves["one"][name][0]
    if expected is None:
        expected = run_w_mpo_start()
    assert loss == pytest.approx(expected, abs=2e-5)


def run_w_mpo_start() -> float:
    """W-MPO at policy == reference with rewards 0 -1 -2 -3: deviations 1.5 .5 .5 1.5, alpha 1."""
    high, low = math.exp(1.5) + math.exp(0.5), math.exp(0.5) + math.exp(1.5)
    return math.log1p(low / high)


def test_every_need_of_the_table_is_met_by_the_trainer() -> None:
    """An objective that needs more than sums is in LIVE."""
    needing = {name for name in TABLE if step_objective(name).needs != "sums" or step_objective(name).terms}
    assert needing - set(LIVE) == set()


def peaks_of_a_step(rank: int, world_size: int, ways: list[tuple[int, int]]) -> list[float]:
    """Peak resident memory of one step on one set, MiB, for each (responses, budget) in turn, in one process."""
    return [peak_of_a_step(responses, budget) for responses, budget in ways]


def peak_of_a_step(responses: int, budget: int) -> float:
    """Peak resident memory of one step on one set, MiB."""
    shape = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1, "num_attention_heads": 4}
    model = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=1024, **shape)).eval()
    ids = [[(7 * k + j) % 1000 for j in range(32)] for k in range(responses)]
    tokens = ResponseSet("a", list(range(5, 37)), ids)
    sets = [TrainingSet(tokens, [-200.0] * responses, [float(-k) for k in range(responses)], [True] * responses, 1.0)]
    config = training_config(tokens_per_micro_batch=budget, logprob_chunk_tokens=256)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is that of what went before
    backward(Means(TokenScorer(model), step_objective("w-mpo"), config, 0, "cpu"), sets, Ranks(0, 1))
    told = Path("/proc/self/status").read_text()
    return int(told.split("VmHWM:")[1].split()[0]) / 1024


def test_512_responses_train_within_the_memory_of_8() -> None:
    """A budget of 288 tokens holds 8 responses in one pass, and 512 take two; with all in one pass it is far more.

    The peak of a process with a small model, libraries included; `raypo bench train --grid` measures a larger one.
    """
    eight, many, at_once = run_ranks(peaks_of_a_step, 1, [(8, 288), (512, 288), (512, 10**6)])[0]
    assert many < 1.1 * eight
    assert at_once > 1.3 * eight


@pytest.mark.parametrize(("responses", "budget"), [(5, 1), (64, 40)])
def test_scores_lie_in_one_place_per_set_however_many_responses(responses: int, budget: int) -> None:
    """fp32, one number per response: 4 bytes each, in one storage, though they came from passes over parts.

    A tensor for each would lie between the passes' large ones.
    """
    sets = training_sets(2, responses=responses)
    means = Means(
        TokenScorer(causal_lm()), step_objective("w-mpo"), training_config(tokens_per_micro_batch=budget), 0, "cpu"
    )
    plan = split(means, sets)
    assert len(plan) > 2
    with torch.no_grad():
        scores = _score(means, sets, plan, len(plan) + 1, sets[0].part([0]))
        whole = [response_values(means, [one], means.pack([one]))["policy_logps"] for one in sets]
    assert list(scores) == ["policy_logps"]
    for found, expected in zip(scores["policy_logps"], whole, strict=True):
        assert found.untyped_storage().nbytes() == 4 * responses
        assert torch.allclose(found, expected, rtol=1e-5)


def test_gradients_of_parts_lie_in_one_piece_behind_the_first() -> None:
    """Two sets of 3 responses, one at a time: six parts. A pass of one part leaves each gradient where it was made."""
    sets = training_sets(2, responses=3)
    for budget, pieces in ((1, 1), (10_000, None)):
        scorer = TokenScorer(causal_lm())
        means = Means(scorer, step_objective("w-mpo"), training_config(tokens_per_micro_batch=budget), 0, "cpu")
        two_pass(means, sets, Ranks(0, 1))
        grads = [p.grad for p in scorer.parameters() if p.grad is not None]
        held = {grad.untyped_storage().data_ptr() for grad in grads}
        assert len(held) == (pieces or len(grads))
        if pieces:
            assert grads[0].untyped_storage().nbytes() == 4 * sum(grad.numel() for grad in grads)


def test_a_moving_reference_ends_where_the_policy_is_at_mixing_one(curves: dict[str, dict[str, list[float]]]) -> None:
    """A copy after every step: the second step starts at ln 2 again."""
    found = curves["copied"]["tr-dpo"]
    assert found[0] == pytest.approx(math.log(2), abs=1e-5)
    assert found[2] == pytest.approx(math.log(2), abs=1e-5)
