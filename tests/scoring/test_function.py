"""raypo.scoring.function: a user's function as a source, and every way in which it can be wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raypo.config import FunctionReward
from raypo.errors import RewardError
from raypo.scoring.function import RewardFunction, checked_values, import_function

MODULE = '''
"""Rewards that tests import by path."""

CALLS = []
NUMBER = 3


class Box:
    @staticmethod
    def length(prompts, responses, metadata):
        return [len(r) + m.get("bonus", 0) for r, m in zip(responses, metadata)]


def picky(prompts, responses, metadata):
    CALLS.append(len(responses))
    if "bad" in responses:
        raise ValueError("cannot parse 'bad'")
    return [float(len(r)) for r in responses]


def too_few(prompts, responses, metadata):
    return [1.0]


def words(prompts, responses, metadata):
    return ["good"] * len(responses)


def nothing(prompts, responses, metadata):
    return None
'''


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], RewardFunction]:
    """Makes a source from a name in MODULE."""
    import sys

    (tmp_path / "rewards_of_a_test.py").write_text(MODULE)
    (tmp_path / "broken_of_a_test.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "rewards_of_a_test", raising=False)
    return lambda name: RewardFunction(FunctionReward(name="r", path=f"rewards_of_a_test:{name}"))


def ask(made: RewardFunction, responses: list[str], prompts: list[str] | None = None) -> list[float | None]:
    """The source's values; every response has a prompt of its own unless said."""
    prompts = [f"p{i}" for i in range(len(responses))] if prompts is None else prompts
    return made(prompts, responses, [{} for _ in responses])


def test_a_function_sees_prompts_responses_and_metadata(source: Callable[[str], RewardFunction]) -> None:
    """len("ab") + bonus 10 = 12; attributes of attributes are found."""
    assert source("Box.length")(["p"], ["ab"], [{"bonus": 10}]) == [12.0]


def test_only_the_responses_that_make_it_raise_are_lost(source: Callable[[str], RewardFunction]) -> None:
    """One call for the three, then one for each; the first text is kept."""
    made = source("picky")
    assert ask(made, ["a", "bad", "abc"]) == [1.0, None, 3.0]
    assert made.first_failure == "ValueError: cannot parse 'bad'"
    assert import_function("rewards_of_a_test:CALLS.append").__self__ == [3, 1, 1, 1]  # type: ignore[attr-defined]


def test_a_function_that_raises_on_everything_is_an_error_with_its_message(
    source: Callable[[str], RewardFunction],
) -> None:
    """Two prompts, all raise: it is the function. One prompt: it may be the prompt, so its responses are marked."""
    with pytest.raises(RewardError, match="on every one of 2 responses; the first time: ValueError: cannot parse"):
        ask(source("picky"), ["bad", "bad"])
    assert ask(source("picky"), ["bad", "bad"], ["p", "p"]) == [None, None]


@settings(deadline=None)  # other work on the machine must not fail a test
@given(responses=st.lists(st.sampled_from(["bad", "a", "bb", "ccc"]), min_size=1, max_size=8), data=st.data())
def test_a_value_does_not_depend_on_the_batch_or_its_order(responses: list[str], data: st.DataObject) -> None:
    """Invariant 11, with a function that raises on some: batch 1 == batch n, in any order."""

    def picky(prompts: list[str], responses: list[str], metadata: list[dict[str, Any]]) -> list[float]:
        if "bad" in responses:
            raise ValueError
        return [float(len(r)) for r in responses]

    made = RewardFunction(FunctionReward(name="r", path="builtins:len"))
    made._function = picky
    alone = [ask(made, [one])[0] for one in responses]
    order = data.draw(st.permutations(range(len(responses))))
    together = ask(made, [responses[i] for i in order], ["one prompt"] * len(order))
    assert together == [alone[i] for i in order]
    assert alone == [None if r == "bad" else float(len(r)) for r in responses]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("too_few", "gave 1 values for 2 responses"),
        ("words", "gave str 'good' as a reward"),
        ("nothing", "gave NoneType"),
    ],
)
def test_a_wrong_answer_says_what_was_given(name: str, told: str, source: Callable[[str], RewardFunction]) -> None:
    """Wrong shapes are never retried or marked: they would stay wrong."""
    with pytest.raises(RewardError, match=told):
        ask(source(name), ["a", "b"])


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("rewards_of_a_test", "package.module:function"),
        ("no_such_module_anywhere:f", "importing 'no_such_module_anywhere' raised ModuleNotFoundError"),
        ("broken_of_a_test:f", "raised ZeroDivisionError: division by zero"),
        ("rewards_of_a_test:politness", "has no attribute 'politness'"),
        ("rewards_of_a_test:NUMBER", "is int"),
    ],
)
def test_a_path_that_leads_to_no_function_is_refused(
    path: str, told: str, source: Callable[[str], RewardFunction]
) -> None:
    """At construction, before anything is sampled."""
    with pytest.raises(RewardError, match=told):
        RewardFunction(FunctionReward(name="r", path=path))


def test_a_missing_name_is_told_with_those_there_are(source: Callable[[str], RewardFunction]) -> None:
    """Public names of the module."""
    with pytest.raises(RewardError, match="Box, picky, too_few"):
        RewardFunction(FunctionReward(name="r", path="rewards_of_a_test:politness"))


def test_numbers_of_every_library_are_numbers_and_what_is_not_finite_is_none() -> None:
    """Scalars of numpy and torch, booleans; None, NaN and both infinities mean "not scored"."""
    given_values = [1, 2.5, True, np.float32(0.5), torch.tensor(4.0), None, math.nan, math.inf, -math.inf]
    assert checked_values(given_values, 9, "x") == [1.0, 2.5, 1.0, 0.5, 4.0, None, None, None, None]
    assert checked_values(np.array([1.0, np.nan]), 2, "x") == [1.0, None]
    assert checked_values(torch.tensor([1.0, 2.0]), 2, "x") == [1.0, 2.0]


@pytest.mark.parametrize("value", ["1.0", b"1", [1.0], {"reward": 1}, object()])
def test_what_is_no_number_is_refused(value: Any) -> None:
    """A text that reads like a number is a fault of the function, not a reward."""
    with pytest.raises(RewardError, match=f"x gave {type(value).__name__}"):
        checked_values([value], 1, "x")
