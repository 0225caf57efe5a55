"""A round's steps in parts."""

from __future__ import annotations

import pytest

from raypo.errors import ConfigError
from raypo.training.rounds import rung_steps


@pytest.mark.parametrize(("total", "rungs"), [(1, 1), (7, 3), (8, 8), (100, 7)])
def test_the_parts_of_a_round_are_its_steps_in_order(total: int, rungs: int) -> None:
    parts = [list(rung_steps(total, rung, rungs)) for rung in range(rungs)]
    assert [step for part in parts for step in part] == list(range(total))
    assert all(parts)


def test_a_part_without_a_step_is_refused() -> None:
    with pytest.raises(ConfigError, match="2 optimizer steps in 3 parts"):
        rung_steps(2, 0, 3)
