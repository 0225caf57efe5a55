"""The page of a study: escaped, without a script, and its table sorts in a real browser."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from raypo.report.study import StudyRecord, cells, columns, ranks, render_study
from raypo.report.trials import scale

PATH = "training.learning_rate"


def row(number: int, reward: float | None, kl: float | None, **more: Any) -> dict[str, Any]:
    known = reward is not None
    figures = {"reward": reward, "reward_low": known and reward - 0.1, "reward_high": known and reward + 0.1}
    gain = {"gain": reward, "gain_low": figures["reward_low"], "gain_high": figures["reward_high"]}
    if not known:
        figures, gain = dict.fromkeys(figures), dict.fromkeys(gain)
    state = {"trial": number, "state": "finished" if known else "failed", "rungs": 2, "error": None, "front": known}
    state |= {"crashed": False}
    rest = {"kl": kl, "win_rate": kl, "length": kl, "within_bound": known}
    return {PATH: 10.0**-number, "objective.preset": "dpo", **state, **figures, **gain, **rest, **more}


RECORD = StudyRecord(
    name="a study",
    form="offline",
    headline=["best: trial 2"],
    warnings=["a <script>warning</script>"],
    paths=[PATH, "objective.preset"],
    logarithmic=[PATH],
    trials=[row(1, 0.5, 1.0), row(2, 0.9, 2.0), row(3, 0.7, 0.5), row(4, None, None, error="<b>no</b>")],
    best=2,
    start=0.1,
    kl_bound=4.0,
    importance={
        "reward": {"shares": {PATH: 0.8, "objective.preset": 0.2}, "reason": ""},
        "kl": {"shares": {}, "reason": "x"},
    },
    study="name: a study",
    config="name: best",
    versions={"raypo": "0"},
)


def test_the_page_is_escaped_and_loads_nothing() -> None:
    page = render_study(RECORD)
    assert "<script" not in page
    assert "&lt;script&gt;warning" in page
    assert "<b>no</b>" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert page == render_study(RECORD)


def test_a_trial_that_failed_says_why_on_the_page() -> None:
    """Trial 4 in words and not in a title alone, which a phone does not show; one that crashed is tried again."""
    assert "trial 4 failed: &lt;b&gt;no" in render_study(RECORD)
    lost = [*RECORD.trials[:3], row(4, 0.2, 0.3, state="failed", error="its node died", crashed=True, front=False)]
    page = render_study(dataclasses.replace(RECORD, trials=lost))
    assert "trial 4 crashed, and the same command tries it again: its node died" in page


def test_a_study_without_a_winner_or_figures_has_a_page() -> None:
    page = render_study(dataclasses.replace(RECORD, trials=RECORD.trials[3:], best=None, config=""))
    assert "best.yaml" not in page


def test_ranks_are_descending_and_unknown_values_last() -> None:
    assert ranks([1.0, 3.0, None, 2.0, float("nan")]) == [2, 0, 3, 1, 4]
    assert ranks(["b", "c", "a"]) == [1, 0, 2]
    assert ranks([1, 1, 2]) == [1, 2, 0]


def test_cells_know_their_places() -> None:
    """By reward: trials 2, 3, 1 and then 4, which has none."""
    place = columns(RECORD).index("reward")
    assert [line[place].rank for line in cells(RECORD)] == [2, 0, 1, 3]
    assert cells(RECORD)[1][place].text == "0.900 [0.800, 1.000]"


def test_numbers_stand_where_they_are_and_choices_at_equal_distances() -> None:
    """On a logarithmic axis 1e-4 is half way between 1e-6 and 1e-2."""
    assert scale([1e-6, 1e-4, 1e-2], log=True)[0]["0.0001"] == pytest.approx(0.5)
    assert scale([0.0, 1.0, 4.0], log=False)[0]["1"] == 0.25
    assert scale(["x", None, "a"], log=False)[0] == {"None": 0.0, "a": 0.5, "x": 1.0}
