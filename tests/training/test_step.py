"""raypo.training.step: one optimizer step, its schedule, its shares."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from tiny import causal_lm, run_config, step_objective, training_config, training_sets, trajectory, w_mpo

from raypo.data.packing import pack
from raypo.errors import ConfigError, DataError, RunError
from raypo.logprobs import sum_by_response
from raypo.models.scorer import TokenScorer
from raypo.objective import preset
from raypo.training.moves import check_moves, most_steps
from raypo.training.passes import rank_batches, share
from raypo.training.rows import training_sets as read_sets
from raypo.training.sets import TrainingSet
from raypo.training.step import learning_rate, make_optimizer, step_order, train_step


def live_reference(scorer: TokenScorer, sets: list[TrainingSet]) -> list[TrainingSet]:
    """The same sets with the scorer itself as reference."""
    batch = pack([one.tokens for one in sets], pad_token_id=0)
    with torch.no_grad():
        logps = scorer(batch, chunk_tokens=64).logps
    table = batch.scatter(sum_by_response(logps, batch.response_index, len(batch.slot))).tolist()
    return [replace(one, reference_logps=row[: len(one.rewards)]) for one, row in zip(sets, table, strict=True)]


def one_step(sets: list[TrainingSet], objective: object, **changes: float) -> dict[str, float]:
    """Metrics of one step of a fresh model."""
    scorer, config = TokenScorer(causal_lm()), training_config(**changes)
    return train_step(
        scorer,
        make_optimizer(scorer, config),
        live_reference(scorer, sets),
        objective,
        config,
        progress=0.5,
        pad_token_id=0,
    )


def test_the_first_loss_of_dpo_is_ln_2() -> None:
    metrics = one_step(training_sets(4), preset("dpo", beta=0.3, label_smoothing=0.0))
    assert metrics["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert metrics["rewards/margins"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["sets_used"] == 4


def test_the_first_loss_of_mpo_is_log_of_responses_over_preferred() -> None:
    """Rewards 0, -1, -2, -3 have mean -1.5: 2 of 4 preferred, -log(2/4) = ln 2.

    With 0, -1, -2: 1 of 3 above -1 (a response at the mean counts as not preferred), -log(1/3) = ln 3.
    """
    objective = preset("mpo", beta=0.1)
    assert one_step(training_sets(4, responses=4), objective)["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert one_step(training_sets(4, responses=3), objective)["loss"] == pytest.approx(math.log(3), abs=1e-6)


def test_the_schedule_warms_up_and_falls_to_zero() -> None:
    """Warm-up over a tenth: at 0.05 half the peak.

    After it, at 0.55, half the rest is over: linear and cosine give 1/2; at 0.325 a quarter: linear 3/4, cosine
    (1 + cos(pi/4)) / 2 = 0.853553.
    """
    at = {
        name: training_config(schedule=name, warmup_fraction=0.1, learning_rate=2.0)
        for name in ("constant", "linear", "cosine")
    }
    for name, config in at.items():
        assert [learning_rate(p, config) for p in (0.0, 0.05, 0.1)] == pytest.approx([0.0, 1.0, 2.0]), name
    later = {name: [learning_rate(p, config) for p in (0.325, 0.55, 1.0)] for name, config in at.items()}
    assert later["constant"] == [2.0, 2.0, 2.0]
    assert later["linear"] == pytest.approx([1.5, 1.0, 0.0])
    assert later["cosine"] == pytest.approx([1.7071068, 1.0, 0.0])
    assert learning_rate(0.0, training_config(learning_rate=2.0)) == 2.0


def test_the_order_of_sets_depends_on_seed_round_and_epoch_alone() -> None:
    orders = [step_order(20, seed=s, round_index=r, epoch=e) for s in (0, 1) for r in (0, 1) for e in (0, 1)]
    assert orders[0] == step_order(20, seed=0, round_index=0, epoch=0)
    assert len({tuple(order) for order in orders}) == 8
    assert all(sorted(order) == list(range(20)) for order in orders)


def test_every_set_of_a_step_goes_to_one_rank_and_every_rank_makes_the_same_number_of_passes() -> None:
    sets = training_sets(7, responses=3, seed=5)
    parts = share(sets, 3)
    assert sorted(index for part in parts for index in part) == list(range(7))
    sizes = [one.tokens.tokens("none") for one in sets]
    loads = [sum(sizes[index] for index in part) for part in parts]
    assert max(loads) - min(loads) <= max(sizes)  # the last one given went to the least loaded
    plans = [list(rank_batches(sets, 40, rank, 3)) for rank in range(3)]
    assert len({len(plan) for plan in plans}) == 1
    real = [one.tokens.prompt_id for plan in plans for batch, counts in plan if counts for one in batch]
    assert sorted(real) == [one.tokens.prompt_id for one in sets]


def test_a_rank_without_sets_joins_with_weight_zero() -> None:
    """One set, two ranks: the second repeats it, and it does not count."""
    plans = [list(rank_batches(training_sets(1), 1000, rank, 2)) for rank in range(2)]
    assert [[counts for _, counts in plan] for plan in plans] == [[True], [False]]


def test_eight_pairs_are_learned_by_heart() -> None:
    scorer, config = TokenScorer(causal_lm()), training_config(learning_rate=3e-3)
    optimizer = make_optimizer(scorer, config)
    sets = live_reference(scorer, training_sets(8))
    objective = preset("dpo", beta=0.1, label_smoothing=0.0)
    for step in range(40):
        metrics = train_step(scorer, optimizer, sets, objective, config, progress=0.5, pad_token_id=0, step=step)
    assert metrics["rewards/accuracies"] == 1.0
    assert metrics["loss"] < 0.2
    assert metrics["rewards/margins"] > 1.0


def test_a_gradient_that_is_not_finite_ends_the_run_and_changes_nothing() -> None:
    scorer, config = TokenScorer(causal_lm()), training_config()
    optimizer = make_optimizer(scorer, config)
    before = {name: tensor.clone() for name, tensor in scorer.state_dict().items()}
    sets = [replace(one, reference_logps=[math.inf, -math.inf]) for one in training_sets(2)]
    with pytest.raises(RunError, match="step 7: gradient norm nan") as raised:
        train_step(scorer, optimizer, sets, w_mpo(), config, progress=0.5, pad_token_id=0, step=7)
    assert "expected: a finite gradient" in str(raised.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in scorer.state_dict().items())


def test_sets_with_other_numbers_of_responses_mix() -> None:
    """The mean of two sets' losses is that of both together: (a + b) / 2."""
    two, four = training_sets(1, responses=2), training_sets(1, responses=4, seed=9)
    apart = [one_step(sets, w_mpo())["loss"] for sets in (two, four)]
    assert one_step([*two, *four], w_mpo())["loss"] == pytest.approx(sum(apart) / 2, abs=1e-6)


def test_steps_report_tokens_and_rate() -> None:
    metrics = trajectory(TokenScorer(causal_lm()), training_config(schedule="linear"), 2)
    tokens = [sum(one.response_tokens for one in training_sets(8, responses=3, seed=step)) for step in (0, 1)]
    assert [one["response_tokens"] for one in metrics] == tokens
    assert [one["learning_rate"] for one in metrics] == pytest.approx([0.0075, 0.0025])


# ---- rows of a table


def row(prompt_id: str, rewards: list[float | None], **changes: object) -> dict[str, object]:
    """What training reads of a row of records.ANNOTATED."""
    usable = [value is not None for value in rewards]
    given = {
        "prompt_id": prompt_id,
        "round": 0,
        "prompt_token_ids": [3, 4],
        "response_token_ids": [[5 + k, 2] for k in range(len(rewards))],
        "reference_logps": [-4.0 - k for k in range(len(rewards))],
        "usable": usable,
        "trainable": True,
        "scaled_rewards": rewards,
        "finish_reasons": ["stop"] * len(rewards),
        "psi": 1.25,
    }
    return given | changes


def test_rows_are_read_by_prompt_id_without_ties_and_unusable_responses() -> None:
    table = pa.Table.from_pylist(
        [
            row("c", [1.0, None, 2.5]),
            row("b", [1.0, 1.0], trainable=False),
            row("a", [0.0, 3.0]),
            row("a", [0.5, 0.0], round=1),
        ]
    )
    sets = read_sets(table, w_mpo())
    assert [(one.tokens.prompt_id, one.rewards) for one in sets] == [
        ("a", [-3.0, 0.0]),
        ("a", [0.0, -0.5]),
        ("c", [-1.5, 0.0]),
    ]
    assert sets[2].tokens.response_token_ids == [[5, 2], [7, 2]]
    assert sets[2].reference_logps == [-4.0, -6.0]
    assert sets[2].psi == 1.25


def test_the_content_of_a_set_is_every_token_and_number_of_it() -> None:
    """What a state inside a round must have been trained on: prompts drawn again have other responses."""

    def content(**changes: object) -> str:
        return read_sets(pa.Table.from_pylist([row("a", [1.0, 0.1, 2.5], **changes)]), w_mpo())[0].content

    assert content() == content()
    others = {
        "response_token_ids": [[5, 2], [6, 2], [8, 2]],
        "scaled_rewards": [1.0, 0.11, 2.5],
        "reference_logps": [-4.0, -5.0, -6.5],
        "psi": 1.5,
    }
    assert content() not in {content(**{name: value}) for name, value in others.items()}


def test_sets_within_the_objectives_tie_eps_do_not_train() -> None:
    table = pa.Table.from_pylist([row("a", [0.0, 3.0]), row("b", [0.0, 0.5])])
    objective = preset("dpo", beta=0.1, label_smoothing=0.0, tie_eps=1.0)
    assert [one.tokens.prompt_id for one in read_sets(table, objective)] == ["a"]


def test_an_objective_that_needs_scalars_refuses_a_round_of_labels() -> None:
    table = pa.Table.from_pylist([row("a", [0.0, 1.0]), row("b", [1.0, 0.0])])
    with pytest.raises(DataError, match="every reward is 0 or 1"):
        read_sets(table, w_mpo())
    assert [one.rewards for one in read_sets(table, w_mpo(), first_round=False)] == [[-1.0, 0.0], [0.0, -1.0]]


def test_scores_that_look_like_labels_train_in_a_micro_batch_of_their_own() -> None:
    """Of the scores 0, 1 and 0, 3 only the second set shows that they are no labels."""
    table = pa.Table.from_pylist([row("a", [0.0, 1.0]), row("b", [0.0, 3.0])])
    losses = []
    for budget in (1, 1000):
        scorer, config = TokenScorer(causal_lm()), training_config(tokens_per_micro_batch=budget)
        sets = read_sets(table, w_mpo())
        optimizer = make_optimizer(scorer, config)
        losses.append(train_step(scorer, optimizer, sets, w_mpo(), config, progress=0.5, pad_token_id=0)["loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_a_round_without_trainable_rows_has_no_sets() -> None:
    assert read_sets(pa.Table.from_pylist([row("b", [1.0, 1.0], trainable=False)]), w_mpo()) == []


def test_a_moving_reference_that_would_never_move_is_refused() -> None:
    """512 steps between updates, 100 in the job: 10 are proposed; with every 100th it moves once."""
    with pytest.raises(ConfigError, match=r"reference_steps = 512 in a job of about 100(.|\n)*reference_steps=10"):
        check_moves(step_objective("tr-dpo"), every=512, steps=100)
    check_moves(step_objective("tr-dpo"), every=100, steps=100)
    check_moves(w_mpo(), every=512, steps=1)
    check_moves(step_objective("tr-dpo"), every=512, steps=None)


def test_the_most_steps_of_a_job(tmp_path: Path) -> None:
    """Steps of 8 sets. 3 rounds of 20: 3 each, 9; twice over, 18; accumulated 20, 40, 60: 3 + 5 + 8 = 16.

    Offline 50 sets are 7 steps.
    """

    def most(sets: int | None, *, sampled: bool = True, **online: Any) -> int | None:
        given = {"online": {"rounds": 3, "prompts_per_round": 20} | online, "training": {"sets_per_step": 8}}
        return most_steps(run_config(tmp_path, tmp_path, **given), sets, sampled=sampled)

    assert [most(None), most(1000), most(10)] == [9, 9, 6]
    assert [most(None, epochs_per_round=2), most(None, data="accumulate")] == [18, 16]
    assert [most(50, sampled=False), most(None, sampled=False)] == [7, None]
    assert most(None, prompts_per_round=None) is None
