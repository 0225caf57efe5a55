"""The page of a run: escaped, self-contained, the same for the same record."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raypo.errors import OutputError
from raypo.report.page import interval, plain, render, write_html
from raypo.report.record import RunRecord, Sample


def figures(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "n": 10}


def evaluation(reward: float) -> dict[str, Any]:
    names = ["reward_win_rate", "reward_win_rate_controlled", "kl_per_response", "length", "length_correlation"]
    names += ["entropy_per_token", "self_similarity"]
    return {
        "reward": figures(reward),
        "reward_gain": figures(reward),
        "reward_by_source": {"other": figures(0.3)},
        "distinct_2": 0.5,
        "truncated": {"mean": 0.25, "low": 0.125, "high": 0.5, "n": 10},
        "reward_gain_p": 0.0004,
        "reward_gain_detectable": 0.07,
        "reward_win_rate_p": 0.03,
        "best_of_n": {"1": figures(reward), "2": figures(2 * reward)},
        "chosen_shift": None,  # a start has moved nothing
        **{name: figures(0.6) for name in names},
    }


def record(text: str) -> RunRecord:
    summary = {
        "name": "a run", "preset": "w-mpo", "num_responses": 8, "rounds": 1, "seed": 0, "warnings": [text],
        "sets_in": 10, "sets_trained": 9, "dropped": {"set: ties": 1}, "versions": {"raypo": "0"},
    }  # fmt: skip
    step = {"step": 1, "loss": 0.7, "rewards/accuracies": 0.5, "rewards/margins": 0.1, "grad_norm": 1.0}
    return RunRecord(
        summary=summary,
        headline=[text],
        evaluations=[evaluation(0.1), evaluation(0.4)],
        seconds=[{"sample": 1.0, "train": 2.0}],
        steps=[step, step | {"step": 2}],
        spread=[(0.5, 0.6), (1.0, 0.4)],
        inputs=[(f"tied pairs: {text}", "0.10 [0.05, 0.15]")],
        samples=[Sample(text, text, text, 0.0, 1.0)],
        config=text,
    )


def offline_record(text: str) -> RunRecord:
    """As of a run on given sets: steps, sets and a figure, and no evaluation."""
    one = record(text)
    summary = {key: value for key, value in one.summary.items() if key not in ("num_responses", "rounds")}
    return replace(
        one,
        summary=summary,
        evaluations=[],
        samples=[],
        seconds=[{"annotate": 1.0, "train": 2.0}],
        histogram=[0, 4, 6],
        figures={"heldout_accuracy": figures(0.7), "dispersion": {"mean": math.nan, "low": math.nan, "high": math.nan}},
    )


def test_a_run_on_given_sets_has_a_page_of_what_it_has() -> None:
    """A card for the figure that is a number, four curves, sets against spread and by dispersion, one bar of time."""
    page = render(offline_record("<script>"), confidence=0.95, untrained=[])
    assert "<script" not in page
    assert "trained on given sets, seed 0" in page
    assert "held-out pairs ranked as the rewards do</span><b>0.700</b><span>[0.600, 0.800]" in page
    assert "dispersion of training sets" not in page
    assert page.count("<svg") == 4 + 2 + 1
    assert "By round" not in page
    assert "sets given" in page


def test_model_text_is_data_and_never_markup() -> None:
    page = render(record("<script>alert(1)</script>"), confidence=0.95, untrained=["other"])
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 7


def test_a_page_names_nothing_outside_itself() -> None:
    """XML namespaces are names and not addresses."""
    page = render(record("plain"), confidence=0.95, untrained=["other"])
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace(
        "http://www.w3.org/1999/xlink", ""
    ).replace("http-equiv", "")
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page


def test_figures_take_the_pages_ink() -> None:
    """Black lines and glyphs would vanish in the dark."""
    page = render(record("plain"), confidence=0.95, untrained=["other"])
    figures_of = page[page.index("<svg") :]
    assert "#000000" not in figures_of
    assert figures_of.count('fill="currentColor"') >= figures_of.count("<svg ")


def test_the_same_record_gives_the_same_page() -> None:
    pages = [render(record("plain"), confidence=0.95, untrained=["other"]) for _ in range(2)]
    assert pages[0] == pages[1]


def test_an_interval_is_shown_with_its_bounds_where_it_has_any() -> None:
    assert interval({"mean": 0.5, "low": 0.25, "high": 0.75}) == "0.500 [0.250, 0.750]"
    assert interval({"mean": 0.5, "low": float("nan"), "high": float("nan")}) == "0.500"
    assert interval({"mean": 0.5, "low": 0.25, "high": 0.75}, 1) == "0.5 [0.2, 0.8]"


def test_every_figure_of_the_table_has_its_bounds_and_its_test() -> None:
    page = render(record("plain"), confidence=0.95, untrained=["other"])
    start, row, _ = re.sub(
        r"<[^>]*>", "|", page[page.index("<tbody><tr><td>0") :].replace("</tr>", "\n").replace("\u00a0", " ")
    ).split("\n", 2)
    assert "|0.400 [0.300, 0.500]||0.0004||0.07||" in row  # gain, p, detectable
    assert "|0.600 [0.500, 0.700]||0.03||0.60 [0.50, 0.70]||0.6 [0.5, 0.7]||0.500||0.25 [0.12, 0.50]|" in row
    # beside itself the start has no gain, p, detectable, win rate and p; reward, other and KL it has
    assert "|0||0.100 [0.000, 0.200]||-||-||-||0.300 [0.200, 0.400]||-||-||0.60 [0.50, 0.70]|" in start


def test_a_record_of_an_older_run_is_shown_as_it_is() -> None:
    """It has what was cut off as a plain number, no test of the win rate, and perhaps no detectable gain."""
    given = record("plain")
    new = ("reward_gain_p", "reward_gain_detectable", "reward_win_rate_p")
    older = [{k: v for k, v in one.items() if k not in new} | {"truncated": 0.25} for one in given.evaluations]
    page = render(replace(given, evaluations=older), confidence=0.95, untrained=["other"])
    assert "<td>0.25</td>" in page
    assert [plain(None), plain(float("nan")), plain(0.00041)] == ["", "", "0.00041"]


def test_a_page_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        write_html("<p>", tmp_path)
