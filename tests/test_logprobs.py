"""Token log-probs, entropies and KL: hand-worked, chunked against whole, in every type."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from raypo.logprobs import chunked_token_logps, sum_by_response, token_entropies, token_kl, token_logps


def test_two_words_by_hand() -> None:
    """Logits (ln 3, 0): p = (3/4, 1/4); entropy .75 ln(4/3) + .25 ln 4 = .562335; KL to uniform ln 2 - .562335."""
    logits = torch.tensor([[math.log(3), 0.0]], dtype=torch.float64)
    assert token_logps(logits, torch.tensor([1])).tolist() == [pytest.approx(math.log(0.25))]
    assert token_entropies(logits).tolist() == [pytest.approx(0.562335, abs=1e-6)]
    assert token_kl(logits, torch.zeros_like(logits)).tolist() == [pytest.approx(math.log(2) - 0.562335, abs=1e-6)]


def test_an_impossible_word_adds_nothing() -> None:
    """P = (1/2, 1/2, 0): entropy ln 2, and KL to itself 0, not NaN."""
    logits = torch.tensor([[0.0, 0.0, -math.inf]])
    assert token_entropies(logits).tolist() == [pytest.approx(math.log(2))]
    assert token_kl(logits, logits).tolist() == [pytest.approx(0.0)]


def test_bf16_logits_are_reduced_in_fp32() -> None:
    """1,024 equal logits: entropy ln 1024 = 6.931472, which bf16 would give as 6.9375 at best."""
    logits = torch.zeros(1, 1024, dtype=torch.bfloat16)
    assert token_entropies(logits).dtype == torch.float32
    assert token_entropies(logits).tolist() == [pytest.approx(6.931472, abs=1e-5)]


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_chunks_give_the_value_and_gradient_of_the_whole(chunk: int) -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(5, 11, dtype=torch.float64)
    hidden = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 11, (7,))
    logps, entropies, *_ = chunked_token_logps(hidden, head, targets, chunk_size=chunk, with_entropy=True)
    (logps * torch.arange(7)).sum().backward()
    found = hidden.grad.clone(), head.weight.grad.clone()
    hidden.grad = head.weight.grad = None
    whole = torch.log_softmax(head(hidden), -1)
    (whole.gather(1, targets[:, None])[:, 0] * torch.arange(7)).sum().backward()
    torch.testing.assert_close(found, (hidden.grad, head.weight.grad))
    torch.testing.assert_close(entropies, -(whole.exp() * whole).sum(-1).detach())
    assert not entropies.requires_grad


class Largest(TorchDispatchMode):
    """Entries of the largest tensor that anything makes while it is active."""

    entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        held = [one.numel() for one in tree_leaves(made) if isinstance(one, torch.Tensor)]
        self.entries = max(self.entries, *held, 0)
        return made


@pytest.mark.parametrize(("chunk", "entries"), [(8, 8_000), (16, 16_000), (64, 64_000)])
def test_no_more_logits_are_made_at_once_than_a_chunk_has(chunk: int, entries: int) -> None:
    """64 positions of 1,000 words, forward and backward: 64,000 logits as a whole, 8,000 in chunks of 8.

    The head's own 1,000 x 4 weights and their gradient are smaller than either.
    """
    head = torch.nn.Linear(4, 1000)
    hidden = torch.randn(64, 4, requires_grad=True)
    with Largest() as seen:
        targets = torch.zeros(64, dtype=torch.int64)
        logps, *_ = chunked_token_logps(hidden, head, targets, chunk_size=chunk, with_entropy=True)
        logps.sum().backward()
    assert seen.entries == entries


def test_token_values_are_summed_by_response() -> None:
    """Responses 0, 0, 2: sums 3, 0, 4."""
    found = sum_by_response(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 0, 2]), 3)
    assert found.tolist() == [3.0, 0.0, 4.0]
