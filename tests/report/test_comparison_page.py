"""The page of a comparison: escaped, self-contained, and of one mind with its tests."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from raypo.report.comparison import Answered, ComparisonRecord, headline, render_comparison

NAN = math.nan


def figures(mean: float, half: float = 0.1) -> dict[str, float]:
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": 10}


def policy(gain: float, kl: float, text: str) -> dict[str, Any]:
    return {
        "reward": figures(gain),
        "reward_gain": figures(gain),
        "reward_win_rate": figures(0.5 + gain / 2),
        "kl_per_response": figures(kl),
        "best_of_n": {"1": figures(gain), "2": figures(2 * gain)},
        "warnings": [text] if kl else [],
    }


def found(text: str) -> dict[str, Any]:
    """Two policies: the first gained 0.4, which its test finds; the second 0.2, which it does not."""
    return {
        "policies": {"start": policy(0.0, 0.0, text), "a": policy(0.4, 1.0, text), text: policy(0.2, 2.0, text)},
        "length_controlled": {name: {"controlled": figures(0.6)} for name in ("a", text)},
        "judged": {name: {"win_rate": figures(0.4)} for name in ("a", text)},
        "frontier": ["start", "a"],
        "pairs": [
            {"one": "a", "other": "start", "p_adjusted": 0.01},
            {"one": text, "other": "start", "p_adjusted": 0.06},
            {"one": text, "other": "a", "p_adjusted": 1.0},
        ],
        "prompts": 10,
        "warnings": [text],
        "folders": {"start": "policy", "a": "one", text: text},
    }


def record(text: str) -> ComparisonRecord:
    return ComparisonRecord(
        name=text,
        found=found(text),
        sheets=[(text, ["policy", "gain"], [[text, "0.400 [0.300, 0.500]"]])],
        meanings=[f"gain: {text}"],
        samples=[Answered(text, [("start", text, 0.5), ("a", text, None)])],
        config=text,
        versions={"raypo": "0"},
    )


def test_text_of_models_and_people_is_data_and_never_markup() -> None:
    page = render_comparison(record("<script>x</script>"), confidence=0.95)
    assert "<script" not in page
    assert page.count("<svg") == 3
    assert "could not be scored" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert page == render_comparison(record("<script>x</script>"), confidence=0.95)


def test_a_policy_is_better_where_interval_and_test_agree() -> None:
    """Of the second the interval [0.1, 0.3] is clear of 0 and p is 0.06; of one prompt nothing is told."""
    told = headline(found("b"), 0.95)
    assert told[0] == "a: better than the start: gain +0.400 [+0.300, +0.500], p = 0.01 (Holm), at KL 1.00"
    assert told[1].startswith("b: no clear difference from the start: gain +0.200 [+0.100, +0.300], p = 0.06")
    one = found("b")
    one["policies"]["a"]["reward_gain"] = {"mean": 0.4, "low": NAN, "high": NAN, "n": 1}
    assert headline(one, 0.95)[0].startswith("a: no clear difference from the start: gain +0.400, p")
    one["policies"]["a"]["reward_gain"]["mean"] = NAN
    assert headline(one, 0.95)[0].startswith("a: its gain over the start is not known")


def test_a_comparison_without_a_judge_has_a_page() -> None:
    given = record("plain")
    page = render_comparison(replace(given, found=dict(given.found) | {"judged": {}}, samples=[]), confidence=0.95)
    assert "side by side" not in page
