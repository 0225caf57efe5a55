"""Rows, verdicts and what is written: every word of a study comes from its numbers."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import call

from raypo.errors import ConfigError, DataError, OutputError
from raypo.evaluation.significance import Floats, power
from raypo.report import plots
from raypo.studies.catalogue import CATALOGUE, entry
from raypo.studies.correlations import CEILING, RANK
from raypo.studies.overview import COLUMNS, markdown
from raypo.studies.result import FLIPS, Drawing, Result, Row, Setting, adjusted, compared, measured, overall, tally
from raypo.studies.run import command, named, parsed, shown, study
from raypo.studies.write import clauses, told, write

NAN = float("nan")


def around(mean: float, spread: float = 0.01, count: int = 40) -> Floats:
    """Differences with exactly this mean and about this spread."""
    noise = np.random.default_rng(0).normal(size=count)
    return mean + spread * (noise - noise.mean())


@pytest.mark.parametrize(
    ("low", "high", "p", "expected", "opposite"),
    [
        (0.01, 0.05, 0.001, "holds", "fails"),  # above 0; towards -1 wholly on the wrong side
        (-0.01, 0.05, 0.2, "undecided", "fails"),  # may matter upwards; downwards at most 0.01, less than 0.02
        (0.01, 0.05, 0.2, "undecided", "fails"),  # an interval above 0, and the adjusted test does not agree
        (-0.05, 0.05, 0.9, "undecided", "undecided"),
        (-0.01, 0.01, 0.9, "fails", "fails"),  # nothing that matters on either side
        (0.001, 0.01, 0.001, "fails", "fails"),  # sure, and too small
    ],
)
def test_a_row_bears_out_a_sign_or_its_opposite(
    low: float, high: float, p: float, expected: str, opposite: str
) -> None:
    row = Row("a", "b", 8, 40, (low + high) / 2, low, high, p=p, matters=0.02)
    assert (row.supports(), row.supports(-1)) == (expected, opposite)


@pytest.mark.parametrize(
    ("up", "down", "expected", "opposite"),
    [
        (0.01, 0.01, "fails", "fails"),
        (0.05, 0.01, "undecided", "fails"),  # among so many it may be 0.02 upwards
        (0.01, 0.05, "fails", "undecided"),
        (NAN, NAN, "fails", "fails"),  # no test: the interval alone
    ],
)
def test_what_is_too_small_is_found_by_a_test_among_many_as_well(
    up: float, down: float, expected: str, opposite: str
) -> None:
    """An effect of 0.005 [0.001, 0.009], surely above 0: where it is not surely below 0.02 it does not hold either."""
    row = Row("a", "b", 8, 40, 0.005, 0.001, 0.009, p=0.001, matters=0.02, p_up=up, p_down=down)
    assert (row.supports(), row.supports(-1)) == (expected, opposite)


def test_a_row_is_tested_against_what_matters_above_and_below() -> None:
    """Of -1 to -6 all are negative, and so are they less 1: 2 of 64 patterns are as far off. Plus 1 they are 0 to -5.

    The sign of 0 is nothing, so there 4 of 64 are.
    """
    row = compared("a", "b", -np.arange(1.0, 7.0), n=8, matters=1.0)
    assert (row.p, row.p_up, row.p_down) == (1 / 32, 1 / 32, 1 / 16)
    moved = compared("a", "b", -np.arange(1.0, 7.0) - 0.5, n=8, matters=1.0, against=-0.5)
    assert (moved.p, moved.p_up, moved.p_down) == (1 / 32, 1 / 32, 1 / 16)


def test_five_seeds_neither_confirm_nor_refute() -> None:
    """Of 2^5 patterns two are as far off: p = 1/16, however far off they are. Of six p = 1/32."""
    five, six = (compared("a", "b", np.linspace(-1.1, -0.9, count), n=8, matters=0.02) for count in (5, 6))
    assert (five.p, five.p_up, five.power) == (1 / 16, 1 / 16, 0.0)
    assert (five.supports(), five.supports(-1)) == ("undecided", "undecided")
    assert (six.supports(), six.supports(-1)) == ("fails", "holds")


def test_among_many_rows_a_true_effect_is_refuted_no_more_often_than_among_one() -> None:
    """Nine units each, of an effect that is just what matters; eight rows, a hundred times.

    Their intervals alone refute one somewhere in 1 - 0.975^8 = 18 % of repetitions. Adjusted in at most 2.5 %, as both
    sides of each test are alike: 2.5 of 100, with a standard deviation of 1.6.
    """
    rng = np.random.default_rng(0)
    alone = together = 0
    for _ in range(100):
        rows = [compared("a", "b", 0.5 + rng.normal(size=9), n=1, matters=0.5) for _ in range(8)]
        alone += any(row.high < 0.5 for row in rows)
        together += any(row.supports() == "fails" for row in adjusted(rows))
    assert alone >= 10
    assert together <= 7


def test_words_follow_the_verdict() -> None:
    def words(low: float, high: float, direction: int = 1) -> str:
        return Row("a", "b", 8, 40, (low + high) / 2, low, high, p=0.001, matters=0.02).words(direction)

    assert words(0.01, 0.05) == "+0.030 [+0.010, +0.050], confirmed"
    assert words(0.01, 0.05, -1) == "+0.030 [+0.010, +0.050], the opposite"
    assert words(-0.009, -0.001) == "-0.005 [-0.009, -0.001], the opposite, too small to matter"
    assert words(-0.05, -0.01, -1) == "-0.030 [-0.050, -0.010], confirmed"
    assert words(0.001, 0.009) == "+0.005 [+0.001, +0.009], too small to matter"
    assert words(-0.01, 0.01) == "+0.000 [-0.010, +0.010], no effect that matters"
    assert words(-0.05, 0.05) == "+0.000 [-0.050, +0.050], undecided"


@pytest.mark.parametrize(
    ("low", "high", "p", "down", "expected"),
    [
        (-0.05, -0.01, 0.6, 0.9, "not by as much as matters"),  # its test does not find that it is below 0
        (-0.05, -0.01, 0.01, 0.9, "the opposite"),
        (-0.009, -0.001, 0.6, 0.01, "no effect that matters"),
        (-0.009, -0.001, 0.6, 0.6, "not by as much as matters"),  # it may be -0.02
        (-0.009, -0.001, 0.01, 0.6, "not by as much as matters"),
        (-0.009, -0.001, 0.01, 0.01, "the opposite, too small to matter"),
        (-0.01, 0.01, 0.9, 0.6, "not by as much as matters"),
        (0.001, 0.009, 0.6, 0.01, "no effect that matters"),
        (0.001, 0.009, 0.01, 0.01, "too small to matter"),
    ],
)
def test_each_word_of_what_is_refuted_has_its_own_test(
    low: float, high: float, p: float, down: float, expected: str
) -> None:
    """0.02 matters, and that the effect has this size is refuted in each; towards -1 the same with signs exchanged."""
    row = Row("a", "b", 8, 40, (low + high) / 2, low, high, p=p, matters=0.02, p_up=0.01, p_down=down)
    assert row.words().split("], ")[1] == expected
    turned = Row("a", "b", 8, 40, -row.effect, -high, -low, p=p, matters=0.02, p_up=down, p_down=0.01)
    assert turned.words(-1).split("], ")[1] == expected


def test_an_effect_that_is_there_holds_and_its_negative_fails() -> None:
    """Mean 0.05 with a standard error of 0.01 / sqrt(40) = 0.0016."""
    there, gone = (compared("a", "b", values, n=8, matters=0.02) for values in (around(0.05), around(-0.05)))
    assert there.effect == pytest.approx(0.05)
    assert 0.045 < there.low < 0.05 < there.high < 0.055
    assert (there.supports(), gone.supports(), gone.supports(-1)) == ("holds", "fails", "holds")
    assert there.p < 0.001
    assert there.power > 0.99


def test_noise_alone_is_undecided_with_few_seeds_and_fails_with_many() -> None:
    few, many = (compared("a", "b", around(0.0, 0.05, count), n=8, matters=0.02) for count in (8, 400))
    assert (few.supports(), many.supports()) == ("undecided", "fails")
    assert few.power < 0.5 < 0.99 < many.power


def test_seeds_that_could_not_be_compared_are_left_out() -> None:
    row = compared("a", "b", np.array([NAN, 1.0, 2.0, 3.0]), n=8, matters=0.02)
    assert (row.seeds, row.n, row.effect) == (3, 8, 2.0)
    prompts = compared("a", "b", np.array([1.0, 2.0, 3.0]), n=8, matters=0.02, prompts=True)
    assert (prompts.seeds, prompts.n) == (1, 3)
    nothing = compared("a", "b", np.array([NAN, NAN]), n=8, matters=0.02)
    assert nothing.seeds == 0
    assert nothing.supports() == "undecided"


def test_p_values_are_adjusted_for_the_rows_that_test_something() -> None:
    """Two tests of p 0.01 and 0.04: 0.02 and 0.04. The row that states a figure counts for nothing."""
    rows = [Row("a", "b", 1, 1, 0.0, 0.0, 0.0, p=p) for p in (0.01, NAN, 0.04)]
    assert [row.p for row in adjusted(rows)] == pytest.approx([0.02, NAN, 0.04], nan_ok=True)


def test_the_tests_of_what_matters_are_adjusted_each_for_its_number() -> None:
    """Above: 0.01, 0.04 to 0.02, 0.04. Below: 0.03 and 0.02 to 0.04 and 0.04, as none is smaller than one before it."""
    each = [(0.5, 0.01, 0.03), (0.5, 0.04, 0.02), (NAN, NAN, NAN)]
    rows = adjusted([Row("a", "b", 1, 1, 0.0, 0.0, 0.0, p=p, p_up=up, p_down=down) for p, up, down in each])
    assert [row.p_up for row in rows] == pytest.approx([0.02, 0.04, NAN], nan_ok=True)
    assert [row.p_down for row in rows] == pytest.approx([0.04, 0.04, NAN], nan_ok=True)
    assert [row.p for row in rows] == pytest.approx([1.0, 1.0, NAN], nan_ok=True)


def test_power_is_that_of_a_test_among_so_many() -> None:
    """Two tests: 5 % / 2 for the stricter. Spread 0.05 of 40 seeds, 0.02 off: error 0.0079, noncentral t of 39."""
    alone = compared("a", "b", around(0.0, 0.05), n=8, matters=0.02)
    spread = float(around(0.0, 0.05).std(ddof=1))
    (one, _), (other,) = adjusted([alone, alone]), adjusted([alone])
    assert other.power == pytest.approx(alone.power)
    assert one.power == pytest.approx(power(0.02, spread, 40, confidence=0.975, resamples=FLIPS))
    assert one.power < other.power
    assert one.detectable > other.detectable
    assert "means" not in Result([one], "holds", "", [], {}).table()[0]


def test_a_claim_of_several_rows() -> None:
    assert overall(["holds", "holds"]) == "holds"
    assert overall(["holds", "fails", "undecided"]) == "mixed"
    assert overall(["undecided", "fails"]) == "fails"
    assert overall(["holds", "undecided"]) == "undecided"
    assert overall([]) == "undecided"
    assert tally(["holds", "fails", "fails", "undecided"]) == (
        "Of 4 comparisons that decide the claim 1 confirm it, 2 refute it and 1 leave it open."
    )


def test_a_decided_result_begins_with_its_votes() -> None:
    row = Row("a", "b", 8, 40, 0.05, 0.01, 0.09, p=0.01)
    found = Result.decided([row], ["holds", "fails"], ["So.", "Thus."], drawings=[], settings={"kl": 1}, headline=[row])
    assert found == Result(
        [row],
        "mixed",
        "Of 2 comparisons that decide the claim 1 confirm it, 1 refute it and 0 leave it open. So. Thus.",
        [],
        {"kl": 1},
        headline=[row],
    )


def test_sizes() -> None:
    assert (Setting(True).size(4, 9), Setting(False).size(4, 9), Setting(False, most=3).size(4, 9)) == (4, 9, 3)


def result() -> Result:
    """Two rows, one of them without a test, and a figure."""
    figure, ax = plots.axes(3.0, 2.0)
    ax.plot([0, 1], [0, 1])
    rows = [
        compared("with <tags> & co", "gain", around(0.05), n=8, matters=0.02),
        measured("a figure", "slope", around(-0.5), n=8),
    ]
    return Result(rows, "holds", "It is so: 3 < 4.", [Drawing("effects", "What is seen.", figure)], {"kl": 0.5})


def test_the_files_of_a_study_agree(tmp_path: Path) -> None:
    found = result()
    run = {"command": "raypo study prior", "environment": {}, "seconds": 1.0, "seed": 0, "quick": True}
    paths = write(tmp_path / "made", told("prior", entry("prior"), found, run), found)
    assert [path.name for path in paths] == ["result.json", "table.csv", "effects.svg", "page.html"]
    stored = json.loads(paths[0].read_text())
    with paths[1].open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(stored["rows"]) == len(table) == 2
    for mine, row, line in zip(found.table(), stored["rows"], table, strict=True):
        for key, value in mine.items():
            if isinstance(value, float) and value != value:
                assert row[key] is None
                assert line[key] == ""
            else:
                assert row[key] == value
                assert line[key] == str(value)
    page = paths[3].read_text()
    assert paths[2].read_text().lstrip().startswith(("<?xml", "<svg"))
    assert "with &lt;tags&gt; &amp; co" in page
    assert "It is so: 3 &lt; 4." in page
    assert "prior: the claim holds" in page
    assert "Claim (arXiv 2501.01544): " in page
    assert f"<td>{stored['rows'][0]['effect']:.3g}</td>" in page
    # 0.05, where 0.02 matters: of 40 seeds all are above -0.02, 0 and 0.02, and no drawn pattern is as far off
    assert "<td>2e-05</td><td>0.02</td><td>2e-05</td><td>2e-05</td>" in page
    assert page.count("<svg") == 1
    assert CATALOGUE["prior"].claim in page


def test_a_figure_that_is_not_drawn_again_goes_and_a_strange_one_stays(tmp_path: Path) -> None:
    run = {"command": "raypo study prior", "environment": {}, "seconds": 1.0, "seed": 0, "quick": True}
    found = result()
    write(tmp_path, told("prior", entry("prior"), found, run), found)
    (tmp_path / "mine.svg").write_text("<svg/>")
    none = replace(found, drawings=[])
    write(tmp_path, told("prior", entry("prior"), none, run), none)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["mine.svg", "page.html", "result.json", "table.csv"]


def test_a_folder_is_tried_before_the_study_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is a file, lies below a file, holds another study, or a result.json of something else."""
    monkeypatch.setattr("raypo.studies.prior.run", lambda setting: pytest.fail("it ran"))
    (tmp_path / "file").write_text("mine")
    for name, stored in (("other", '{"study": "bandit"}'), ("strange", "[1]"), ("torn", '{"stu')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(stored)
    for name, kind, said in (
        ("file", OutputError, "cannot write to "),
        ("file/below", OutputError, "cannot write to "),
        ("other", ConfigError, "holds the study bandit"),
        ("strange", ConfigError, "that is no study's"),
        ("torn", ConfigError, "that is no study's"),
    ):
        with pytest.raises(kind, match=said):
            study("prior", quick=True, seed=0, out=tmp_path / name, options=[], most=2)
    assert (tmp_path / "other" / "result.json").read_text() == '{"study": "bandit"}'


def test_the_page_of_a_study_is_told_beside_the_record_of_its_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder of `online`: its study.json is no tuning study's, whose file has the same name."""
    how = {"command": "", "shown": "", "environment": {}, "seconds": 1.0, "seed": 0, "quick": True}
    found = result()
    write(tmp_path, told("online", entry("online"), found, how), found)
    (tmp_path / "study.json").write_text('{"base": "the quickstart\'s", "seed": 0}')
    code, out, _ = call(monkeypatch, capsys, "report", str(tmp_path))
    assert (code, out.strip()) == (0, str(tmp_path / "page.html"))


def test_a_table_shows_a_dash_for_a_number_that_there_is_not() -> None:
    cells = shown(result())
    assert cells[0][0] == "with <tags> & co"
    assert cells[0][4] == "0.05"
    assert cells[0][-1] == "above"
    assert cells[1][-4:] == ["-", "-", "-", "-"]


def test_options_are_those_that_a_study_takes() -> None:
    assert parsed("x", {"model": ""}, ["model=a=b"]) == {"model": "a=b"}
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        parsed("x", {"model": ""}, ["model"])
    with pytest.raises(ConfigError, match="no option 'modell'"):
        parsed("x", {"model": ""}, ["modell=a"])
    with pytest.raises(ConfigError, match="takes no options"):
        parsed("x", {}, ["model=a"])
    with pytest.raises(ConfigError, match="unknown study 'bandits'"):
        entry("bandits")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonesuch"], "unknown study 'nonesuch'"),
        (["prior", "beta=1"], "study prior has no option 'beta'"),
        (["dispersion", "cobbler=nowhere.jsonl"], "nowhere.jsonl: "),
        (["dispersion", "model=nowhere"], "model= without judgements"),
        (["dispersion", "gold=judged.jsonl", "model=nowhere"], "nowhere"),
        (["dispersion", "pandalm=judged.jsonl"], "KeyError 'response1'"),
        (["dispersion", "gold=judged.jsonl", "slots=2,3"], "slots=2,3 without cobbler="),
    ],
)
def test_what_cannot_be_studied_is_one_message(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    one = {"text": "yes", "unbiased": [1, 2], "granular": [3, 3]}
    (tmp_path / "judged.jsonl").write_text(json.dumps({"prompt": "well?", "responses": [one, one]}) + "\n")
    code, _, said = call(monkeypatch, capsys, "study", *arguments, "--quick")
    assert code == 2
    assert message in said
    assert "Traceback" not in said
    assert [one.name for one in tmp_path.iterdir()] == ["judged.jsonl"]


def test_a_page_leads_with_a_findings_first_two_sentences() -> None:
    """The tally and what it says in words. Points of intervals and decimals have no space behind."""
    told = "Of 2 one is so. That a gains is open; b 0.5 not. At 0.5 nats. a +0.1 [-0.2, 0.4], undecided; b -0.3, so."
    assert clauses(told) == [
        "Of 2 one is so. That a gains is open; b 0.5 not.",
        "At 0.5 nats.",
        "a +0.1 [-0.2, 0.4], undecided",
        "b -0.3, so.",
    ]
    assert clauses("Of 2 one is so. That a gains is open.") == ["Of 2 one is so. That a gains is open."]
    assert clauses("Nothing was found.") == ["Nothing was found."]


def test_the_command_lists_runs_and_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = call(monkeypatch, capsys, "study")
    assert code == 0
    assert all(name in out for name in CATALOGUE)
    place = tmp_path / "a"
    code, out, _ = call(
        monkeypatch, capsys, "study", "normalisation", "--quick", "--most", "3", "--seed", "7", "--out", str(place)
    )
    assert code == 0
    stored = json.loads((place / "result.json").read_text())
    assert stored["finding"] in out
    assert stored["command"] == "raypo study normalisation --quick --most 3 --seed 7"
    # the same seed again, bit by bit; another seed is another study
    again = study("normalisation", quick=True, seed=7, out=tmp_path / "b", options=[], most=3)
    assert json.loads((tmp_path / "b" / "result.json").read_text())["rows"] == stored["rows"]
    assert again.finding == stored["finding"]
    other = study("normalisation", quick=True, seed=8, out=tmp_path / "c", options=[], most=3)
    assert other.table() != again.table()
    assert stored["measured"] == CATALOGUE["normalisation"].measured
    rows = [stored["rows"][at] for at in stored["headline"]]
    assert [row["condition"] for row in rows] == [
        row["condition"] for row in stored["rows"] if "known" not in row["condition"]
    ]
    # one row a study, from the files
    code, table, _ = call(monkeypatch, capsys, "study", "--markdown", str(place), str(tmp_path / "c"))
    assert code == 0
    lines = table.splitlines()
    assert len(lines) == 4
    assert lines[0] == f"| {' | '.join(COLUMNS)} |"
    assert all(line.count(" | ") == len(COLUMNS) - 1 for line in lines if "---" not in line)
    assert "`raypo study normalisation --quick --most 3 --seed 7` | " in lines[2]
    assert "--seed 8" in lines[3]
    code, _, said = call(monkeypatch, capsys, "study", "--markdown", str(tmp_path))
    assert code == 2
    assert "a folder that `raypo study NAME` wrote" in said
    code, _, said = call(monkeypatch, capsys, "study", "--markdown")
    assert code == 2
    assert "without a folder" in said


def test_the_row_of_a_study_by_hand(tmp_path: Path) -> None:
    """Of three rows the claim rests on two: both of 8 observations and 40 seeds, their powers 0.5 and 0.25."""
    rows = [
        Row("a | b", "gain", 8, 40, 0.05, 0.01, 0.09, p=0.01, matters=0.02, power=0.5),
        Row("beside it", "gain", 8, 40, 0.0, -1.0, 1.0, p=0.01, matters=0.02, power=0.9),
        Row("c", "gain", 8, 40, -0.05, NAN, NAN, p=0.01, matters=0.02, power=0.25),
    ]
    found = Result(rows, "mixed", "So.", [], {}, headline=[rows[2], rows[0]])
    run = {"command": "raypo study prior", "shown": "raypo study prior", "environment": {"commit": "abc"}}
    how = {**run, "seconds": 1.0, "seed": 0, "quick": True}
    write(tmp_path, told("prior", entry("prior"), found, how), found)
    about = CATALOGUE["prior"]
    assert markdown([tmp_path]).splitlines()[-1] == (
        f"| **`prior`** {about.claim} | 2501.01544 | {about.measured} | **holds in part** (n 8, seeds 40, power "
        "0.25 to 0.50): So. Effects: c -0.050 [-, -]; a \\| b +0.050 [+0.010, +0.090]. | `raypo study prior` | abc |"
    )
    stored = json.loads((tmp_path / "result.json").read_text())
    assert stored["headline"] == [0, 2]
    del stored["measured"]
    (tmp_path / "result.json").write_text(json.dumps(stored))
    with pytest.raises(DataError, match="lacks measured"):
        markdown([tmp_path])


def test_a_condition_that_was_measured_in_several_ways_names_them(tmp_path: Path) -> None:
    rows = [Row("noise", f"retained, less {one}", 8, 40, 0.05, 0.01, 0.09, p=0.01) for one in ("mpo", "dpo")]
    found = Result(rows, "fails", "So.", [], {}, headline=rows)
    how = {"command": "", "shown": "", "environment": {"commit": "abc"}, "seconds": 1.0, "seed": 0, "quick": True}
    write(tmp_path, told("prior", entry("prior"), found, how), found)
    told_row = markdown([tmp_path]).splitlines()[-1]
    assert (
        "**fails** (n 8, seeds 40): So. Effects: noise, retained, less mpo +0.050 [+0.010, +0.090]; noise" in told_row
    )


def test_of_many_comparisons_the_least_and_the_greatest_are_named(tmp_path: Path) -> None:
    """Neither a ceiling, which is no comparison and has no p, is among them nor what has no effect."""
    rows = [Row(f"c{one}", "gain", 8, 40, one / 100, one / 200, one / 50, p=0.01) for one in (3, 1, 4, 2)]
    rows.append(Row("perfect", "ceiling", 8, 40, 0.9, 0.8, 1.0))
    rows.append(Row("never at the KL", "gain", 8, 40, NAN, NAN, NAN, p=1.0))
    found = Result(rows, "holds", "Of 4 all are so. None is not. c1 is +0.01.", [], {}, headline=rows)
    how = {"command": "", "shown": "", "environment": {"commit": "abc"}, "seconds": 1.0, "seed": 0, "quick": True}
    write(tmp_path, told("prior", entry("prior"), found, how), found)
    cell = markdown([tmp_path]).splitlines()[-1]
    least, greatest = "+0.010 [+0.005, +0.020] (c1)", "+0.040 [+0.020, +0.080] (c4)"
    assert f"(n 8, seeds 40): Of 4 all are so. None is not. Effects: {least} to {greatest}. | " in cell


def test_a_correlation_stands_beside_its_ceiling(tmp_path: Path) -> None:
    """The least of four has one, the greatest none; of other effects none is asked."""
    rows = [Row(f"c{one}, entropy", RANK, 36, 1, one / 10, one / 20, one / 5, p=0.5) for one in (3, 1, 4, 2)]
    rows.append(Row("c1, a perfect index", CEILING, 36, 1, 0.62, 0.0, 0.82))
    how = {"command": "", "shown": "", "environment": {"commit": "abc"}, "seconds": 1.0, "seed": 0, "quick": True}
    found = Result(rows, "undecided", "So.", [], {}, headline=rows)
    write(tmp_path, told("dispersion", entry("dispersion"), found, how), found)
    cell = markdown([tmp_path]).splitlines()[-1]
    assert (
        "Effects: +0.100 [+0.050, +0.200] (c1, entropy, ceiling +0.620 [+0.000, +0.820]) to +0.400 [+0.200, +0.800] "
        "(c4, entropy, no ceiling can be told)."
    ) in cell
    few = Result(rows[1:2], "undecided", "So.", [], {}, headline=rows[1:2])
    write(tmp_path, told("dispersion", entry("dispersion"), few, how), few)
    assert "c1, entropy +0.100 [+0.050, +0.200], no ceiling can be told." in markdown([tmp_path])


def test_a_page_names_a_claims_source() -> None:
    """A paper, or raypo itself: no paper asked whether scales are better frozen."""
    assert (entry("prior").source, entry("online").source) == ("arXiv 2501.01544", "arXiv 2405.14953, 2412.04628")
    assert entry("normalisation").source == "raypo's own question"


def test_a_command_names_what_readers_have_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "rankings of people.jsonl"
    file.write_text("")
    options = [f"cobbler={file}", "slots=2,3", f"policy.path={tmp_path}", "conditions=mpo"]
    assert command(["dispersion", "--seed", "0", *map(named, options)]) == (
        "raypo study dispersion --seed 0 cobbler=COBBLER slots=2,3 policy.path=POLICY_PATH conditions=mpo"
    )
    assert command(["dispersion", options[0]]) == f"raypo study dispersion 'cobbler={file}'"
    assert named(f"model={tmp_path}/none") == f"model={tmp_path}/none"


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_study_says_what_it_measures(name: str) -> None:
    about = CATALOGUE[name]
    assert about.measured == " ".join(about.measured.split())
    assert 40 < len(about.measured) < 200
