"""The page of `raypo evaluate`, from its folder alone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raypo.config import build
from raypo.errors import DataError, OutputError
from raypo.online.comparison_figures import FIGURES, read_figures, write_figures
from raypo.online.comparison_page import COMPARED, PAGE, samples, write_comparison_page
from raypo.records import SCORED
from raypo.stages import tables


def figures(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": math.nan, "high": math.nan, "n": 1}


def policy(reward: float) -> dict[str, Any]:
    names = ("kl_per_response", "length", "truncated", "self_similarity", "entropy_per_token", "reward_win_rate")
    names += ("length_correlation", "tie_rate", "chosen_shift", "rejected_shift", "saturated")
    names += ("reward_win_rate_controlled",)
    tested = ("reward_gain", "reward_win_rate", "reward_win_rate_controlled")
    tests = {f"{name}_{kind}": 1.0 for name in tested for kind in ("p", "detectable")}
    tests |= {"engine_gap": 0.01, "distinct_2": 0.5}
    told = {"reward": figures(reward), "reward_gain": figures(reward), "best_of_n": {"1": figures(reward)}}
    told["distinct_within"] = {str(n): figures(0.5) for n in (1, 2, 3)}
    return {**told, **{name: figures(0.5) for name in names}, **tests, "reward_by_source": {}, "warnings": []}


def place(folder: Path) -> Path:
    """A comparison of one policy with the start, on one prompt: nothing has bounds."""
    config = build({"name": "mine", "policy": {"path": "nowhere"}, "prompts": {"path": "nowhere"}})
    (folder / COMPARED).write_text(json.dumps({"config": config.model_dump(mode="json"), "versions": {"raypo": "0"}}))
    pair = {"one": "a", "other": "start", "difference": figures(0.5), "p": 1.0, "p_adjusted": 1.0}
    pair |= {"detectable": math.nan, "win_rate": figures(0.5)}
    fair = {name: figures(0.5) for name in ("win_rate", "controlled", "length_effect")}
    fair |= {"p": 1.0, "detectable": math.nan, "uses_difficulty": False}
    found = {
        "policies": {"start": policy(0.0), "a": policy(0.5)},
        "length_controlled": {"a": fair},
        "pairs": [pair],
        "frontier": ["start"],
        "folders": {"start": "nowhere", "a": "somewhere"},
        "prompts": 1,
        **{name: {} for name in ("judged", "judged_controlled", "as_judged", "seeds", "equal_kl")},
        **{name: [] for name in ("methods", "warnings")},
    }
    write_figures(folder, found)
    for name, text in (("start", "before"), ("a", "<b>after</b>")):
        row = {"prompt_id": "0", "prompt": "why?", "responses": [text, "other"], "rewards": [None, 1.0]}
        tables.commit(str(folder / "policies" / name / "scored"), pa.Table.from_pylist([row], schema=SCORED), "scored")
    return folder


def test_a_folder_tells_its_page_all_that_it_shows(tmp_path: Path) -> None:
    page = Path(write_comparison_page(place(tmp_path))).read_text()
    assert "mine: policies compared" in page
    assert "a: no clear difference from the start: gain +0.500, p = 1 (Holm), at KL 0.50" in page
    assert "&lt;b&gt;after" in page
    assert "nan" not in page.split("In figures")[1]
    first = samples(tmp_path, ["start", "a"])[0]
    assert first.responses == [("start", "before", None), ("a", "<b>after</b>", None)]


def test_a_comparison_that_has_not_ended_has_no_page(tmp_path: Path) -> None:
    (place(tmp_path) / FIGURES).unlink()
    with pytest.raises(DataError, match="no comparison that ended"):
        write_comparison_page(tmp_path)


def test_what_is_not_known_is_null_in_the_file_and_not_a_number_in_hand(tmp_path: Path) -> None:
    """A shift of the start is absent, which is another thing; a bound beyond all numbers is no number of JSON."""
    start = {"chosen_shift": None, "reward": {"mean": 0.5, "low": math.nan, "high": math.inf, "n": 2}}
    write_figures(tmp_path, {"policies": {"start": start}, "seeds": (2, 1)})

    def refused(word: str) -> None:
        raise AssertionError(word)

    json.loads((tmp_path / FIGURES).read_text(), parse_constant=refused)
    found = read_figures(tmp_path)
    assert found is not None
    assert found["seeds"] == [2, 1]
    told = found["policies"]["start"]
    assert (told["chosen_shift"], told["reward"]["mean"], told["reward"]["n"]) == (None, 0.5, 2)
    assert math.isnan(told["reward"]["low"])
    assert math.isnan(told["reward"]["high"])
    assert read_figures(tmp_path / "elsewhere") is None


@pytest.mark.parametrize("key", ["policies", "prompts", "pairs", "folders"])
def test_figures_without_what_the_page_shows_are_refused(tmp_path: Path, key: str) -> None:
    found = read_figures(place(tmp_path))
    assert found is not None
    write_figures(tmp_path, {name: value for name, value in found.items() if name != key})
    with pytest.raises(DataError, match="cannot be shown"):
        write_comparison_page(tmp_path)


def test_figures_that_are_no_object_are_refused(tmp_path: Path) -> None:
    (place(tmp_path) / FIGURES).write_text("[]")
    with pytest.raises(DataError, match="no JSON object"):
        write_comparison_page(tmp_path)


def test_a_page_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (place(tmp_path) / PAGE).mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        write_comparison_page(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("frontier", ["b"], r"frontier of other policies than a, start"),
        ("length_controlled", {}, r"length_controlled of other policies"),
    ],
)
def test_figures_of_other_policies_are_refused(tmp_path: Path, key: str, value: object, message: str) -> None:
    found = read_figures(place(tmp_path))
    assert found is not None
    write_figures(tmp_path, found | {key: value})
    with pytest.raises(DataError, match=message):
        write_comparison_page(tmp_path)


def test_a_figure_that_is_no_number_is_named(tmp_path: Path) -> None:
    found = read_figures(place(tmp_path))
    assert found is not None
    found["policies"]["a"]["reward"]["mean"] = "much"
    write_figures(tmp_path, found)
    with pytest.raises(DataError, match=r"policies\.a\.reward\.mean: Input should be a valid number"):
        write_comparison_page(tmp_path)


@pytest.mark.parametrize("key", ["policies", "pairs", "folders"])
def test_figures_of_another_kind_are_refused(tmp_path: Path, key: str) -> None:
    found = read_figures(place(tmp_path))
    assert found is not None
    write_figures(tmp_path, found | {key: 3})
    with pytest.raises(DataError, match="cannot be shown"):
        write_comparison_page(tmp_path)
