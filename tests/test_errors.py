"""What an error says, and which exit code it means."""

from __future__ import annotations

import pytest

from raypo.errors import (
    ConfigError,
    DataError,
    EngineError,
    IntegrityError,
    LostProcess,
    ModelError,
    OutputError,
    RaypoError,
    ResourceError,
    RewardError,
    RunError,
    StaleEngine,
)


def test_an_error_tells_what_was_got_what_was_expected_and_what_to_do() -> None:
    error = DataError("prompts.jsonl is empty", "at least one prompt", "check the path")
    assert str(error) == "prompts.jsonl is empty\n  expected: at least one prompt\n  what to do: check the path"


def test_parts_that_are_not_known_are_left_out() -> None:
    assert str(RunError("the engine died")) == "the engine died"
    assert str(RunError("the engine died", remedy="run again")) == "the engine died\n  what to do: run again"


@pytest.mark.parametrize(
    "kind", [ConfigError, DataError, ModelError, RewardError, OutputError, ResourceError, IntegrityError]
)
def test_what_the_user_can_mend_ends_with_2(kind: type[RaypoError]) -> None:
    assert kind("x").exit_code == 2


@pytest.mark.parametrize("kind", [RunError, EngineError, StaleEngine, LostProcess])
def test_what_broke_by_itself_ends_with_1(kind: type[RaypoError]) -> None:
    assert kind("x").exit_code == 1


def test_a_stale_engine_is_caught_as_an_engine_that_failed() -> None:
    """So that whoever brings engines up again needs one clause."""
    with pytest.raises(EngineError):
        raise StaleEngine("holds 1, asked for 2")
