"""raypo.data.packing: what predicts what, and how sets are grouped."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import response_sets

from raypo.data.packing import ResponseSet, micro_batches, pack

TWO = [ResponseSet("a", [5, 6], [[7], [8, 9, 2]]), ResponseSet("b", [4], [[3, 2]])]


def test_a_row_is_prompt_then_response_padded_on_the_right() -> None:
    """Widest row: 2 + 3 = 5 tokens."""
    batch = pack(TWO, pad_token_id=0)
    assert batch.input_ids.tolist() == [[5, 6, 7, 0, 0], [5, 6, 8, 9, 2], [4, 3, 2, 0, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert batch.position_ids[1].tolist() == [0, 1, 2, 3, 4]
    assert [row[:3].tolist() for row in batch.position_ids] == [[0, 1, 2]] * 3


def test_the_last_prompt_token_predicts_the_first_response_token() -> None:
    """Row r starts at 5 r; response of row 0 is predicted at 1, of row 1 at 6, 7, 8, of row 2 at 10, 11."""
    batch = pack(TWO, pad_token_id=0)
    assert batch.predictor_index.tolist() == [1, 6, 7, 8, 10, 11]
    assert batch.targets.tolist() == [7, 8, 9, 2, 3, 2]
    assert batch.response_index.tolist() == [0, 1, 1, 1, 2, 2]


def test_every_predictor_stands_one_token_before_its_target() -> None:
    batch = pack(response_sets(5, responses=3), pad_token_id=0)
    assert torch.equal(batch.input_ids.flatten()[batch.predictor_index + 1], batch.targets)


def test_values_per_response_are_scattered_to_their_set_and_slot() -> None:
    batch = pack(TWO, pad_token_id=0)
    values = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    table = batch.scatter(values)
    assert table.tolist() == [[1.0, 2.0], [3.0, 0.0]]
    table[0, 1].backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0.0, 1.0, 0.0]


def test_an_empty_response_owns_no_token_and_keeps_its_slot() -> None:
    batch = pack([ResponseSet("a", [5, 6], [[], [7]])], pad_token_id=0)
    assert batch.response_index.tolist() == [1]
    assert batch.scatter(torch.tensor([4.0, 5.0])).tolist() == [[4.0, 5.0]]


def test_sets_are_grouped_up_to_the_budget_and_never_split() -> None:
    """Widths 5 (2 rows), 3 (1 row): together 3 rows x 5 = 15 padded tokens."""
    assert micro_batches(TWO, 15) == [[0, 1]]
    assert micro_batches(TWO, 14) == [[0], [1]]
    assert micro_batches(TWO, 1) == [[0], [1]]


@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 120), st.integers(0, 99))
def test_groups_hold_every_set_once_within_the_budget_in_whatever_order_sets_come(
    count: int, responses: int, budget: int, seed: int
) -> None:
    sets = response_sets(count, responses=responses, seed=seed)
    groups = micro_batches(sets, budget)
    assert sorted(index for group in groups for index in group) == list(range(count))
    for group in groups:
        rows = pack([sets[i] for i in group], pad_token_id=0).input_ids
        assert rows.numel() <= budget or len(group) == 1
    turned = micro_batches(sets[::-1], budget)
    assert [[sets[i].prompt_id for i in g] for g in groups] == [[sets[::-1][i].prompt_id for i in g] for g in turned]


# ---- one row for all sets


def test_a_shared_row_holds_each_prompt_once_and_no_padding() -> None:
    """Set a: 5 6 | (7) | 8 9 (2); set b: 4 | 3 (2). Tokens in brackets predict nothing and are left out."""
    batch = pack(TWO, pad_token_id=0, packing="shared")
    assert batch.input_ids.tolist() == [[5, 6, 8, 9, 4, 3]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 0, 1]]
    assert batch.attention_mask.tolist() == [[1] * 6]
    assert batch.spans == ((0, 2, (0, 2)), (4, 1, (1,)))


def test_the_prompts_last_token_predicts_the_first_token_of_every_response() -> None:
    """7 and 8 at 1, then 9 at 2 and 2 at 3; 3 at 4, then 2 at 5."""
    batch = pack(TWO, pad_token_id=0, packing="shared")
    assert batch.predictor_index.tolist() == [1, 1, 2, 3, 4, 5]
    rows = pack(TWO, pad_token_id=0)
    for name in ("targets", "response_index", "set_index", "slot"):
        assert torch.equal(getattr(batch, name), getattr(rows, name)), name
    assert batch.shape == rows.shape


def test_shared_sets_are_grouped_by_the_tokens_of_their_row() -> None:
    """2 + 0 + 2 = 4 and 1 + 1 = 2 tokens, together 6."""
    assert [one.tokens("shared") for one in TWO] == [4, 2]
    assert micro_batches(TWO, 6, "shared") == [[0, 1]]
    assert micro_batches(TWO, 5, "shared") == [[0], [1]]


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 60), st.integers(0, 99))
def test_shared_groups_hold_every_set_once_within_the_budget(
    count: int, responses: int, budget: int, seed: int
) -> None:
    sets = response_sets(count, responses=responses, seed=seed)
    groups = micro_batches(sets, budget, "shared")
    assert sorted(index for group in groups for index in group) == list(range(count))
    for group in groups:
        row = pack([sets[i] for i in group], pad_token_id=0, packing="shared").input_ids
        assert row.numel() == sum(sets[i].tokens("shared") for i in group)
        assert row.numel() <= budget or len(group) == 1
