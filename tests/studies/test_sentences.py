"""What a finding says in words: every word follows from rows that are made here, and turns with them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from raypo.studies import bandit, calibration, contrast, dispersion, normalisation, prior, responses, weights
from raypo.studies.correlations import RANK
from raypo.studies.result import Row
from raypo.studies.sentences import counted, grouped, joined, lies, side, sides, sign, voted

NAN = float("nan")


def row(condition: str, measure: str, effect: float, *, off: float = 0.01, matters: float = 0.02) -> Row:
    """A sure effect of 40 seeds, its interval so far off on both sides."""
    return Row(condition, measure, 8, 40, effect, effect - off, effect + off, p=0.001, matters=matters)


def test_words_are_joined_and_counted() -> None:
    assert [joined(list(words)) for words in ("", "a", "ab", "abc")] == ["", "a", "a and b", "a, b and c"]
    assert voted([]) == "not measured"
    assert voted(["fails"]) == "refuted"
    assert voted(["holds", "holds"]) == "confirmed in both 2"
    assert voted(["undecided"] * 3) == "open in all 3"
    assert voted(["fails", "undecided", "fails", "holds"]) == "confirmed in 1, refuted in 2 and open in 1 of 4"
    assert counted(["b", "a", "b"], ["a", "b", "c"]) == "a in 1 and b in 2 of 3"
    assert grouped({"x": "up", "y": "down", "z": "up"}, ("down", "up", "same")) == "down y, up x and z"
    assert grouped({}, ("up",)) == "not measured"


@pytest.mark.parametrize(
    ("low", "high", "p", "expected"),
    [
        (0.01, 0.05, 0.001, "better"),
        (-0.05, -0.01, 0.001, "worse"),
        (0.01, 0.05, 0.2, "open"),  # the adjusted test does not agree
        (0.001, 0.01, 0.001, "no different"),  # too small to matter
        (-0.01, 0.01, 0.9, "no different"),
        (-0.05, 0.01, 0.9, "open"),  # no better, and worse or not
        (NAN, NAN, NAN, "open"),
    ],
)
def test_where_an_effect_lies(low: float, high: float, p: float, expected: str) -> None:
    assert side(Row("a", "b", 8, 40, (low + high) / 2, low, high, p=p, matters=0.02)) == expected


@pytest.mark.parametrize(
    ("low", "high", "p", "up", "down", "expected"),
    [
        (0.01, 0.05, 0.01, 0.9, 0.01, "above"),
        (-0.05, -0.01, 0.01, 0.01, 0.9, "below"),
        (-0.01, 0.01, 0.9, 0.01, 0.01, "no different"),
        (0.001, 0.01, 0.01, 0.01, 0.01, "no different"),  # sure, and too small
        (-0.05, 0.01, 0.9, 0.01, 0.9, "not above"),
        (-0.01, 0.05, 0.9, 0.9, 0.01, "not below"),
        (-0.01, 0.01, 0.9, 0.9, 0.9, "open"),
        (-0.05, 0.05, 0.9, 0.9, 0.9, "open"),
        (0.01, 0.05, NAN, NAN, NAN, "-"),
    ],
)
def test_a_rows_three_tests_and_interval_in_a_word(
    low: float, high: float, p: float, up: float, down: float, expected: str
) -> None:
    """0.02 matters. A test against -1/2 is told as one against 0: the interval is moved as far."""
    for against in (0.0, -0.5):
        middle = (low + high) / 2 + against
        one = Row("a", "b", 8, 40, middle, low + against, high + against, p, 0.02, p_up=up, p_down=down)
        assert lies(replace(one, against=against)) == expected


def test_sides_can_be_called_otherwise_and_signs_need_no_test() -> None:
    rows = [row("a", "b", 0.05), row("a", "b", -0.05), row("a", "b", 0.05)]
    assert sides(rows) == "better in 2 and worse in 1 of 3"
    assert sides(rows, ("up", "down", "same", "open")) == "up in 2 and down in 1 of 3"
    assert [sign(row("a", "b", effect)) for effect in (0.02, -0.02, 0.005)] == ["above", "below", "unclear"]


def test_the_bandit_tells_each_estimate_and_collapse() -> None:
    def told(by_true: float, by_entropy: float, table: float) -> str:
        names = {bandit.IPO: 0.0, "mallows-phi by true": by_true, "mallows-theta by true": by_true}
        names |= {"mallows-theta by entropy": by_entropy, "mallows-theta by shuffled": -0.05}
        rows = [
            row(f"beta 1, {truth}, reference {known}, {name}", bandit.GAIN, effect, off=0.005)
            for truth in ("theta", "phi", "bradley-terry")
            for known in ("informed", "independent")
            for name, effect in names.items()
        ]
        spread = {"dpo": 0.0, "mallows-theta": table}
        return bandit.plain([*rows, *(row(f"theta, table, {one}", bandit.COLLAPSE, r) for one, r in spread.items())])

    good = told(0.05, -0.05, 0.8)
    # under theta and phi, two methods by true dispersion and one by entropy, where the reference is informed
    assert "with true dispersion, confirmed in all 4, and with the reference's entropy refuted in both 2;" in good
    assert "by true better in all 4, by likelihood not measured," in good  # informed or not
    assert "by shuffled worse in all 4, by the entropy of a reference that follows dispersion worse in both 2" in good
    assert "IPO against DPO is no different in all 4;" in good
    assert "spread wider under mallows-theta, no wider as far as can be told under dpo (alike" in good
    bad = told(-0.05, 0.05, -0.8)
    assert "with true dispersion, refuted in all 4, and with the reference's entropy confirmed in both 2;" in bad
    assert "spread narrower under mallows-theta," in bad


def test_responses_tell_how_each_bias_falls() -> None:
    slopes = {
        "normal, mpo": (-0.5, "falls as 1/sqrt(n) with mpo"),
        "normal, dpo": (0.0, "does not fall with dpo"),
        "normal, w-mpo, beta 1": (-0.8, "falls faster with w-mpo at beta 1"),
        f"cauchy, {responses.PLAIN}": (0.2, "plain mean grows under Cauchy tails"),
        "cauchy, mpo": (-0.39, "has a slope that is undecided under Cauchy tails"),  # from -0.41 on
        f"{responses.LAWS[-1]}, mpo": (-0.1, "falls more slowly under a correlation of 0.3"),
    }
    rows = [row(name, responses.SLOPE, slope, off=0.02) for name, (slope, _) in slopes.items()]
    spent = {2: responses.Cost(np.array([0.5]), 0.5), 8: responses.Cost(np.array([1.5]), 0.75)}
    told = responses.plain(rows, spent)
    for _, words in slopes.values():
        assert words in told
    assert "a step with 4 times the responses takes 3.0 times as long and 1.5 times the memory." in told
    # only mpo and w-mpo under the theorem's assumptions decide
    assert [one.condition for one in responses.claimed(rows)] == ["normal, mpo", "normal, w-mpo, beta 1"]


def test_weights_tell_signed_deviations_and_large_alpha() -> None:
    rows = [
        row(
            f"beta {beta:g}, {shape}, {kind}, power {power}, alpha {alpha:g}",
            "gain over mpo",
            -0.05 if alpha == 4 else 0.05 if kind == "abs" else 0.0,
        )
        for beta in weights.BETAS
        for shape in weights.SHAPES
        for kind, power, alpha in weights.WEIGHTS
    ]
    told = weights.plain(rows)
    assert "at power 1 and alpha 1 beat MPO is confirmed in all 8 shapes and betas;" in told
    assert "by absolute deviations at power 1 and alpha 4, worse in all 8;" in told
    assert "by signed deviations at power 1 and alpha 1, no different in all 8;" in told


def test_contrasts_tell_rankings_and_near_copies() -> None:
    rows = [
        row(f"beta {beta:g}, {where}, {name}", contrast.GAIN, effect)
        for beta in contrast.BETAS
        for where in ("2 levels", "5 levels", "4 of 8 alike")
        for name, effect in (("mpo", -0.05), ("all-pairs", 0.05), ("plackett-luce", 0.0))
    ]
    rows += [
        row(f"beta {beta:g}, 4 of 8 alike, {name}", contrast.COST, effect * beta)
        for beta in contrast.BETAS
        for name, effect in (("dpo", 0.05), ("mpo", -0.05))
    ]
    told = contrast.plain(rows)
    assert "beats best against worst is refuted in all 4;" in told
    assert "are: all-pairs better in all 4; plackett-luce no different in all 4; near copies" in told
    assert "at beta 0.1 do not change that of dpo and mpo;" in told  # 0.005 of 0.02
    assert "at beta 1 lower the gain of dpo, raise that of mpo." in told


def test_calibration_tells_who_loses_half_first_and_from_where_the_check_warns() -> None:
    rows = [
        row(name, f"retained by w-mpo less {other}", -0.2 if other == "dpo" else 0.2)
        for name in calibration.DISTORTIONS
        for other in ("mpo", "dpo")
    ]
    doubted = {"true rewards": 0.05, "noise 1": 0.5, "noise 2": 0.6, "noise 4": 1.0}
    rows += [row(name, calibration.DOUBTED, share) for name, share in doubted.items()]
    left = {"dpo": [0.9, 0.8, 0.7, 0.6], "mpo": [0.9, 0.4, 0.3, 0.2], "w-mpo": [0.9, 0.6, 0.4, 0.1]}
    kept = {name: {one: [np.array([0.9])] * 4 for one in left} for name in ("length", "noise")}
    kept["noise"] = {one: [np.array([share]) for share in shares] for one, shares in left.items()}
    told = calibration.plain(rows, kept)
    assert "than mpo refuted in all 5; than dpo confirmed in all 5;" in told
    assert "half of the gain is lost first under: noise at 1 (mpo), and by none under length;" in told
    assert told.endswith("the check doubts true rewards in 5% of seeds, and most seeds' from noise at 2 on.")
    whole = calibration.plain(rows[:-2], {"length": kept["length"]})
    assert whole.endswith(
        "no objective loses half of its gain; the check doubts true rewards in 5% of seeds, and most seeds' under no "
        "distortion."
    )


def test_priors_are_told_one_by_one() -> None:
    effect = {"uniform": 0.0, "joint": 0.05, "marginal": -0.05, "moving": -0.05}
    rows = [
        row(f"beta {beta:g}, start {start}, {name}", prior.GAIN, effect[name])
        for start in prior.STARTS
        for beta in prior.BETAS
        for name in prior.PRIORS[1:]
    ]
    told = prior.plain(rows)
    assert "joint confirmed in all 6; marginal refuted in all 6; moving refuted in all 6 starts and betas;" in told
    assert told.endswith("a uniform one against the reference is no different in all 6.")


def test_normalisation_tells_each_part_of_its_claim() -> None:
    def told(psi: float, reward: float, reference: float) -> str:
        rows = []
        for beta in normalisation.BETAS:
            for way in normalisation.WAYS[1:]:
                changed = {psi: way.psi == "refit", reward: way.reward == "refit"}
                changed |= {reference: way.reference == "previous"}
                rows.append(
                    row(f"beta {beta:g}, {way}", normalisation.GAIN, sum(one for one in changed if changed[one]))
                )
        return normalisation.plain(rows)

    only = told(0.001, 0.002, -0.05)
    assert "betas: psi refuted in both 2; the reward scale refuted in both 2; the reference confirmed in both 2" in only
    assert (
        "(by itself a difference comes from the reference alone); both scales at once refuted in both 2, with the ref"
        in only
    )
    assert only.endswith("dispersion that is known is no different in all 4 against dispersion that is estimated.")
    assert "(by itself a difference comes from psi and the reward scale alone)" in told(-0.05, -0.06, 0.001)
    assert "(none decides anything by itself)" in told(0.001, 0.002, 0.003)


def test_dispersion_tells_every_index_on_people_and_the_language_apart() -> None:
    def told(people: float, language: float) -> str:
        wheres = {"gold, variance": people, "pandalm, pairs": people, "language": language}
        return dispersion.plain(
            [
                row(f"{where}, {name}", RANK, effect, matters=0.1)
                for where, effect in wheres.items()
                for name in ("entropy", "likelihood", *([dispersion.HALVES] if where == "gold, variance" else []))
            ]
        )

    assert told(0.5, 0.0) == (
        "That the reference's entropy tracks people's disagreement is confirmed in both 2; the same by likelihood "
        "confirmed in both 2; that an index tracks the language's truth is refuted for entropy and likelihood."
    )
    assert "disagreement is refuted in both 2;" in told(-0.5, 0.5)
    assert "truth is confirmed for entropy and likelihood." in told(-0.5, 0.5)
