"""Stop and keep rules, by hand-made histories."""

from __future__ import annotations

from pathlib import Path

import pytest

from raypo.config import OnlineConfig, build
from raypo.online.decisions import Measured, best_version, stop_reason
from raypo.online.folder import RunFolder


def history(*points: tuple[float, float]) -> list[Measured]:
    """(reward, KL) of versions 0, 1, 2, ..."""
    return [Measured(version, reward, kl) for version, (reward, kl) in enumerate(points)]


def test_a_run_goes_on_until_its_rounds_are_done() -> None:
    """Three rounds: versions 0, 1, 2 go on, version 3 stops."""
    config = OnlineConfig(rounds=3)
    points = history((0, 0), (1, 1), (2, 2), (3, 3))
    assert [stop_reason(points[: n + 1], config) is None for n in range(4)] == [True, True, True, False]


def test_a_run_stops_above_its_kl_bound() -> None:
    """KL 2.5 against a bound of 2; a KL equal to the bound goes on."""
    config = OnlineConfig(rounds=9, kl_bound=2.0)
    assert stop_reason(history((0, 0), (1, 2.0)), config) is None
    assert "above the bound 2" in (stop_reason(history((0, 0), (1, 2.5)), config) or "")


def test_a_run_stops_at_lost_patience() -> None:
    """Best at version 1; patience 2 ends at version 3, and an equal reward is no better one."""
    config = OnlineConfig(rounds=9, patience=2)
    assert stop_reason(history((0, 0), (5, 1), (5, 2)), config) is None
    assert stop_reason(history((0, 0), (5, 1), (5, 2), (4, 3)), config) == "no better held-out reward for 2 rounds"


def test_the_best_version_lies_within_the_kl_bound() -> None:
    """Version 2 has the highest reward but KL 9; version 1 is the best of the rest; of equals the earliest."""
    points = history((0, 0), (3, 1), (7, 9), (3, 2))
    assert best_version(points, None) == 2
    assert best_version(points, 5.0) == 1
    assert best_version(points, 0.5) == 0


def test_a_runs_folder_is_absolute_whatever_the_config_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Train takes no relative folder, and a later command may stand elsewhere."""
    monkeypatch.chdir(tmp_path)
    given = {"policy": {"path": "p"}, "prompts": {"path": "q"}, "output": "runs", "name": "mine"}
    assert RunFolder(build(given)).root == str(tmp_path / "runs" / "mine")
