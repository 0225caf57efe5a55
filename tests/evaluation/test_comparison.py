"""Several policies together: literals, seeds against points, and the family of tests."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from test_diagnostics import PROMPTS, config, measured, moved, synthetic

from raypo.evaluation.comparison import START, Drawn, compare, groups
from raypo.evaluation.intervals import Interval
from raypo.evaluation.significance import holm
from raypo.evaluation.verdicts import Verdicts
from raypo.online.comparison_tables import figure, least, meanings, number, probability, sheets


def test_holm_by_hand() -> None:
    """Sorted 0.01, 0.02, 0.03, 0.04 by 4, 3, 2, 1: 0.04, 0.06, 0.06, 0.06 (none below one before it)."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=8))
def test_holm_is_between_the_p_value_and_bonferroni_and_keeps_the_order(values: list[float]) -> None:
    found = np.array(holm(values))
    given_values = np.array(values)
    assert (found >= given_values - 1e-12).all()
    assert (found <= np.minimum(given_values * len(values), 1.0) + 1e-12).all()
    order = np.argsort(given_values, kind="stable")
    assert (np.diff(found[order]) >= 0).all()


def drawn(method: str, shift: float, kl: float, point: str = "", seed: int = 0) -> Drawn:
    """A policy whose rewards are the prompt's number / 10 and a shift, with a little of its own."""
    rng = np.random.default_rng(seed)
    rewards = [[n / 10 + shift + 0.1 * rng.normal() for _ in range(2)] for n in range(PROMPTS)]
    rows = synthetic([[5, 5]] * PROMPTS, rewards, seed)
    return Drawn(method, point, rows, measured(rows, kl=kl), None if method == START else moved(1.0, -1.0))


def test_policies_are_compared_with_the_start_with_each_other_and_over_seeds() -> None:
    """Gains 1 (two seeds, KL 1) and 0.5 (KL 2): the first is better at less KL, and nobody beats it."""
    policies = {
        START: drawn(START, 0.0, 0.0, seed=0),
        "good": drawn("good", 1.0, 1.0, seed=1),
        "good.2": drawn("good", 1.1, 1.0, seed=2),
        "far": drawn("far", 0.5, 2.0, seed=3),
    }
    found = compare(policies, config())
    assert list(found.policies) == list(policies)
    assert found.policies["good"].reward_gain.mean == pytest.approx(1.0, abs=0.05)
    assert found.frontier == [START, "good.2"]
    assert set(found.seeds) == {"good"}
    assert found.seeds["good"].interval.mean == pytest.approx(1.05, abs=0.05)
    by_names = {(one.one, one.other): one for one in found.pairs}
    assert len(by_names) == 5  # six but for the two seeds
    last = by_names["far", "good"]
    assert last.difference.mean == pytest.approx(-0.5, abs=0.05)
    assert last.p <= last.p_adjusted <= 5 * last.p
    assert last.win_rate.mean < 0.1
    # at KL 1 the far one is at sqrt(1 / 2) of its way: 0.354 of gain against 1.05
    equal = found.equal_kl["good against far"]
    assert equal.kl == 1.0
    assert equal.difference.mean == pytest.approx(1.05 - 0.5 * np.sqrt(0.5), abs=0.05)
    assert (equal.seeds, equal.p) == ((2, 1), 1.0)  # of the far one's seeds nothing is known
    assert equal.p_adjusted == equal.p  # of one comparison
    assert found.methods == []
    assert found.judged == {}
    json.dumps(found.to_dict())


def test_methods_with_seeds_are_compared_over_them() -> None:
    """a: gains 1.0, 1.1, 1.2; b: 0.2, 0.3, 0.4, paired by number: 0.8 each time. c: gains 0 and 1, two seeds.

    a - b: seeds agree. a - c: c's seeds alone leave 0.6 -+ 12.7 * 0.5. Seeds of one method are in no pair.
    """
    gains = {"a": [1.0, 1.1, 1.2], "b": [0.2, 0.3, 0.4], "c": [0.0, 1.0]}
    policies = {START: drawn(START, 0.0, 0.0)}
    for method, shifts in gains.items():
        for seed, shift in enumerate(shifts, 1):
            name = f"{method}.{seed}"
            policies[name] = drawn(method, shift, 1.0, seed=10 * len(policies) + seed)
    found = compare(policies, config(evaluation={"num_responses": 2, "bootstrap_samples": 100}))
    told = {(one.one, one.other): one for one in found.methods}
    assert set(told) == {("b", "a"), ("c", "a"), ("c", "b")}
    sure, unsure = told["b", "a"], told["c", "a"]
    assert (sure.seeds, unsure.seeds) == ((3, 3), (2, 3))
    assert sure.difference.mean == pytest.approx(-0.8, abs=0.05)
    assert sure.p_adjusted < 0.01
    assert sure.detectable < 0.3
    assert unsure.difference.mean == pytest.approx(-0.6, abs=0.05)
    assert unsure.p_adjusted > 0.3
    assert unsure.difference.high > 4
    assert unsure.detectable > 4
    equal = found.equal_kl["a against b"]
    assert (equal.seeds, equal.kl) == ((3, 3), 1.0)
    assert equal.difference.mean == pytest.approx(0.8, abs=0.05)
    assert equal.p < 0.01
    assert found.equal_kl["a against c"].p > 0.1
    family = list(found.equal_kl.values())
    assert len(family) == 3
    assert [one.p_adjusted for one in family] == holm([one.p for one in family])
    assert equal.p_adjusted > equal.p
    assert not [pair for pair in found.pairs if pair.one[0] == pair.other[0] != "s"]
    assert len(found.pairs) == 8 + 3 * 3 + 3 * 2 + 3 * 2
    told_tables = json.dumps(found.to_dict())
    assert '"methods": [{"one": "b", "other": "a", "seeds": [3, 3]' in told_tables


def test_tables_tell_every_figure_with_its_bounds() -> None:
    """Seeds on both sides, a judge, and a start: each table has its rows, and nothing is cut off a wide terminal."""
    policies = {START: drawn(START, 0.0, 0.0)}
    for name, shift in {"a": 1.0, "a.2": 1.1, "b": 0.2, "b.2": 0.1}.items():
        policies[name] = drawn(name[0], shift, 1.0, seed=len(policies))
    verdicts = Verdicts([[1.0]] * PROMPTS, [[0.0]] * PROMPTS, [[3.0]] * PROMPTS)
    found = compare(policies, config(evaluation={"num_responses": 2, "bootstrap_samples": 100}), {"a": verdicts})
    console = Console(width=240, file=io.StringIO(), record=True)
    for sheet in sheets(found.to_dict(), 0.95):
        console.print(sheet.drawn())
    text = console.export_text()
    assert "1.00 [1.00, 1.00]" in text  # KL
    assert "5.0 [5.0, 5.0]" in text  # tokens
    assert "over seeds" in text
    assert "b - a" in text
    assert "a against b" in text
    assert "0.500 [0.500, 0.500]" in text  # position bias of a judge that always takes the first place
    assert " nan" not in text
    assert text.count("p (Holm)") == 3  # over seeds, one against another, at equal KL
    assert "none decided" in text  # by a judge that turns with the order
    assert least(math.nan) == "none"
    assert figure(Interval(0.5, math.nan, math.nan, 1).to_dict()) == "0.500"
    assert figure(Interval(math.nan, math.nan, math.nan, 0).to_dict()) == number(math.nan, ".2g") == "-"
    assert [text.split(":")[0] for text in meanings(found.to_dict())][-1] == "logits per unit"


def test_where_probability_went_and_how_texts_read() -> None:
    """The start did not move from itself; what its own tables say of the rest stands beside the other's."""
    policies = {START: drawn(START, 0.0, 0.0), "a": drawn("a", 1.0, 1.0, seed=1)}
    found = compare(policies, config(evaluation={"num_responses": 2, "bootstrap_samples": 100})).to_dict()
    found["policies"]["a"] |= {
        "chosen_shift": Interval(1.0, 0.5, 1.5, 9).to_dict(),
        "rejected_shift": Interval(-2.0, -3.0, -1.0, 9).to_dict(),
        "saturated": Interval(0.25, 0.0, 0.5, 9).to_dict(),
        "distinct_within": {str(n): Interval(n / 4, math.nan, math.nan, 1).to_dict() for n in (1, 2, 3)},
    }
    sheet = probability(found)
    start, moved = (dict(zip(sheet.heads, row, strict=True)) for row in sheet.rows)
    assert [start[head] for head in sheet.heads[:4]] == [START, "-", "-", "-"]
    shifts = ["a", "1.00 [0.50, 1.50]", "-2.00 [-3.00, -1.00]", "0.250 [0.000, 0.500]"]
    assert [moved[head] for head in sheet.heads[:4]] == shifts
    assert [moved[f"distinct-{n}"] for n in (1, 2, 3)] == ["0.250", "0.500", "0.750"]
    assert moved["reward by length"] == "-"  # all responses have 5 tokens
    assert moved["tied"].startswith("0.000")
    heads = {text.split(":")[0] for text in meanings(found)}
    assert {"chosen shift", "saturated", "distinct-n", "reward by length", "tied"} <= heads


def test_versions_of_a_run_are_points_and_not_seeds() -> None:
    """They lie on one path: no mean over them is taken."""
    policies = {
        START: drawn(START, 0.0, 0.0),
        "run-v1": drawn("run", 0.5, 1.0, "v1", seed=1),
        "run-v2": drawn("run", 1.0, 4.0, "v2", seed=2),
    }
    assert groups(policies) == {"run": {"v1": ["run-v1"], "v2": ["run-v2"]}}
    found = compare(policies, config())
    assert found.seeds == {}
    assert found.frontier == list(policies)


def test_a_judges_verdicts_are_told_beside_the_rewards() -> None:
    """It prefers the policy to every prompt but the first, which it did not answer in one order."""
    policies = {START: drawn(START, 0.0, 0.0), "a": drawn("a", 0.1, 0.5, seed=1)}
    verdicts = Verdicts([[1.0]] * PROMPTS, [[None], *[[1.0]] * (PROMPTS - 1)], [[3.0]] * PROMPTS)
    found = compare(policies, config(), {"a": verdicts})
    assert found.judged["a"].win_rate.mean == 1.0
    assert found.judged["a"].unanswered == pytest.approx(1 / PROMPTS)
    assert found.judged["a"].position_bias.mean == 0.0
    assert found.judged_controlled["a"].controlled.mean > 0.9
    duel = verdicts.duel()
    assert np.isnan(duel.preference[0])
    assert duel.prompt.tolist() == list(range(PROMPTS))
    assert duel.preference[1:].tolist() == [1.0] * (PROMPTS - 1)
