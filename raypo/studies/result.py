"""What every study ends in: rows, figures and a finding, and how a row is made from independent repetitions.

A row is about one effect. Its units are independent repetitions: seeds, each with its own world, data and policy; or
prompts, where the data are given. The interval is over those units. `power` is the chance to find an effect of the size
that matters, which was fixed beforehand, and not the power at the effect that was found, which would repeat p. It is
the power of the test that decides: among m tests of a result Holm's first stands at a level of 5 % / m, later ones at a
higher one. Power is told at that strictest level, and is at least that.

To say that an effect is short of what matters is a finding too, and among many rows as easily a false one. So a row has
three tests of one kind: that its effect is `against`, that it is the smallest one above that matters, and the same
below. Each is adjusted for its number, and two-sided as the interval is: it finds on either side at 2.5 %, to confirm
and to refute alike. They are one test of units that are moved. So `power` is also the chance to find, where there is no
effect, that it is short of what matters; and units too few for the one (`attainable`) are too few for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure

from raypo.evaluation.intervals import Interval
from raypo.evaluation.significance import Floats, detectable, holm, paired_test, power
from raypo.evaluation.statistics import mean_interval

CONFIDENCE = 0.95
SAMPLES = 2000

FLIPS = 99_999
"""Patterns of signs that a test draws: its least p is 2 / 100,000, which Holm's 80th multiple leaves at 0.0016."""

Verdict = Literal["holds", "fails", "mixed", "undecided"]


def differs(p: float) -> bool:
    """Whether an adjusted p finds a difference; NaN, which is no test, leaves that to the interval."""
    return not p >= 0.05


Means = Callable[[float], tuple[float, float]]
"""Of a test: confidence (1 - its level) -> its power, and the effect that it finds in 80 % of repetitions."""


@dataclass(frozen=True)
class Setting:
    """How a study is run.

    Args:
        quick: minutes on two cores, with wider intervals.
        seed: of everything random.
        options: the study's own, as given.
        most: no size is above this; None: as `quick` says. For a look at all of a study in seconds.
        place: folder of the study, for what it continues with.
    """

    quick: bool
    seed: int = 0
    options: Mapping[str, str] = field(default_factory=dict)
    most: int | None = None
    place: Path = Path("study")

    def size(self, quick: int, full: int) -> int:
        """A number of seeds, contexts, prompts or steps that depends on `quick` and `most`."""
        asked = quick if self.quick else full
        return asked if self.most is None else min(asked, self.most)


@dataclass(frozen=True)
class Row:
    """One effect.

    Args:
        condition: under which it was measured.
        measure: what is compared, with its unit.
        n: observations within each seed, or prompts.
        seeds: independent repetitions; 1 where prompts are the units.
        effect: mean.
        low: lower bound of the 95 % interval over the units.
        high: upper bound.
        p: two-sided, that the effect is `against`; within a result adjusted for its number of tests (Holm). NaN: no
            test.
        matters: the smallest distance from `against` that would matter.
        power: chance to find an effect of that size, at the level of a test among so many; NaN where the row tests
            nothing.
        detectable: effect that would be found in 80 % of repetitions.
        against: value that the test is against: 0, or the one that is claimed.
        p_up: as p, that the effect is `against` + `matters`; NaN: no test.
        p_down: as p, that the effect is `against` - `matters`.
        means: power and `detectable` of the test at another level; None: they are told as they are.
    """

    condition: str
    measure: str
    n: int
    seeds: int
    effect: float
    low: float
    high: float
    p: float = float("nan")
    matters: float = float("nan")
    power: float = float("nan")
    detectable: float = float("nan")
    against: float = 0.0
    p_up: float = float("nan")
    p_down: float = float("nan")
    means: Means | None = field(default=None, repr=False, compare=False)

    @property
    def interval(self) -> Interval:
        """Effect and bounds."""
        return Interval(self.effect, self.low, self.high, self.n)

    def supports(self, direction: int = 1) -> Verdict:
        """Whether the row bears out that the effect has this sign.

        `fails`: the interval lies wholly below the effect that would matter, be it on the other side of 0, and the test
        that it has that size has p < 0.05. `holds`: else, where the interval lies above 0 and p < 0.05. Either p is
        adjusted, and not asked for where there is no test. `undecided`: neither can be told.
        """
        low, high = sorted((direction * self.low, direction * self.high))
        if high < 0 or high < self.matters:
            return "fails" if differs(self.p_up if direction > 0 else self.p_down) else "undecided"
        return "holds" if low > 0 and differs(self.p) else "undecided"

    def words(self, direction: int = 1) -> str:
        """The effect, its interval, and what they say of that sign."""
        said = {"holds": "confirmed", "undecided": "undecided"}
        return f"{self.told()}, {said.get(self.supports(direction)) or self._refuted(direction)}"

    def _refuted(self, direction: int) -> str:
        """What is known of an effect that is surely short of what matters; each word has a test of its own."""
        other = self.supports(-direction)
        if other != "fails":
            return "the opposite" if other == "holds" else "not by as much as matters"
        if not differs(self.p) or self.low <= 0 <= self.high:
            return "no effect that matters"
        return "too small to matter" if direction * self.low > 0 else "the opposite, too small to matter"

    def told(self, digits: int = 3) -> str:
        """`+0.012 [-0.003, +0.027]`."""
        return f"{self.effect:+.{digits}f} [{self.low:+.{digits}f}, {self.high:+.{digits}f}]"


@dataclass(frozen=True)
class Drawing:
    """A figure, and what it shows.

    Args:
        name: of its file.
        caption: one sentence.
        figure: closed when it is written.
    """

    name: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Result:
    """What a study found.

    Args:
        rows: effects.
        verdict: on the claim.
        finding: sentences made from the rows.
        drawings: figures.
        settings: sizes and scales that were used.
        headline: those of the rows on which the claim is decided, with what is told beside them.
        rule: by which the verdict follows from them.
    """

    rows: Sequence[Row]
    verdict: Verdict
    finding: str
    drawings: Sequence[Drawing]
    settings: Mapping[str, Any]
    headline: Sequence[Row] = ()
    rule: str = ""

    @classmethod
    def decided(
        cls,
        rows: Sequence[Row],
        votes: Sequence[Verdict],
        told: Sequence[str],
        *,
        drawings: Sequence[Drawing],
        settings: Mapping[str, Any],
        headline: Sequence[Row],
        rule: str = "",
    ) -> Result:
        """A result whose verdict follows from votes, and whose finding begins with how many say what.

        Args:
            rows: see the class.
            votes: what each row says that decides the claim.
            told: sentences that follow.
            drawings: see the class.
            settings: see the class.
            headline: see the class.
            rule: see the class.
        """
        return cls(rows, overall(votes), " ".join([tally(votes), *told]), drawings, settings, headline, rule)

    def table(self) -> list[dict[str, Any]]:
        """Rows as plain values."""
        names = [one.name for one in fields(Row) if one.name != "means"]
        return [{name: getattr(row, name) for name in names} for row in self.rows]


RULE = (
    "A comparison confirms the claim when its whole interval lies on the claimed side of 0 and its adjusted p is below "
    "0.05. It refutes it when the whole interval lies short of the smallest effect that matters and the adjusted p "
    "that the effect has that size is below 0.05. The claim holds when all comparisons of the headline confirm it, "
    "holds in part when some confirm and others refute it, fails when some refute it and none confirms it, and is "
    "undecided otherwise."
)
"""How claims are decided, fixed before any was tested; `supports` and `overall` in words."""


def tally(verdicts: Sequence[Verdict]) -> str:
    """How many comparisons of those that decide a claim say what, as a sentence."""
    count = {name: sum(one == name for one in verdicts) for name in ("holds", "fails", "undecided")}
    return (
        f"Of {len(verdicts)} comparisons that decide the claim {count['holds']} confirm it, {count['fails']} refute it "
        f"and {count['undecided']} leave it open."
    )


TESTS = ("p", "p_up", "p_down")
"""The p-values of a row."""


def adjusted(rows: Sequence[Row]) -> list[Row]:
    """Rows with Holm's p-values over those that test something, and the power of tests among so many.

    Each of the three tests is adjusted over all rows that have it: it finds what is not there, in whichever of them, in
    at most 5 % of repetitions.
    """
    tests = [_together([getattr(row, name) for row in rows]) for name in TESTS]
    level = (1 - CONFIDENCE) / max(int(np.isfinite(tests[0]).sum()), 1)
    return [_among(row, p, level) for row, *p in zip(rows, *tests, strict=True)]


def _together(p_values: Sequence[float]) -> list[float]:
    """Holm's p-values of those that are finite; the others as they are."""
    found = iter(holm([p for p in p_values if np.isfinite(p)]))
    return [next(found) if np.isfinite(p) else p for p in p_values]


def _among(row: Row, p_values: Sequence[float], level: float) -> Row:
    p, up, down = p_values
    told = replace(row, p=p, p_up=up, p_down=down)
    if row.means is None or not np.isfinite(row.p):
        return told
    chance, least = row.means(1 - level)
    return replace(told, power=chance, detectable=least)


def compared(
    condition: str,
    measure: str,
    differences: Floats,
    *,
    n: int,
    matters: float,
    prompts: bool = False,
    against: float = 0.0,
) -> Row:
    """A row from paired differences, or from other figures, one per independent unit.

    p, p_up and p_down are the sign-flip test's that their mean is `against`, or `matters` above or below it; power is
    that of finding a mean that lies `matters` away from `against`, by the noncentral t distribution with the units'
    spread (`raypo.evaluation.significance.power`). Five units or fewer have no p below 0.05, whatever they are: they
    neither confirm nor refute.

    Args:
        condition: see `Row`.
        measure: see `Row`.
        differences: one per seed, or per prompt; NaN where the unit could not be compared.
        n: observations within each seed; not read where prompts are the units.
        matters: see `Row`, > 0.
        prompts: the units are prompts and not seeds.
        against: see `Row`.
    """
    kept = np.asarray(differences, dtype=np.float64)
    kept = kept[np.isfinite(kept)]
    found = mean_interval(kept, confidence=CONFIDENCE, samples=SAMPLES)
    units, spread = len(kept), float(kept.std(ddof=1)) if len(kept) > 1 else float("nan")

    def means(confidence: float) -> tuple[float, float]:
        chance = power(matters, spread, units, confidence=confidence, resamples=FLIPS) if units > 1 else float("nan")
        return chance, detectable(kept, confidence=confidence, resamples=FLIPS)

    chance, least = means(CONFIDENCE)
    return Row(
        condition=condition,
        measure=measure,
        n=units if prompts else n,
        seeds=1 if prompts else units,
        effect=found.mean,
        low=found.low,
        high=found.high,
        p=paired_test(kept - against, resamples=FLIPS),
        matters=matters,
        power=chance,
        detectable=least,
        against=against,
        p_up=paired_test(kept - (against + matters), resamples=FLIPS),
        p_down=paired_test(kept - (against - matters), resamples=FLIPS),
        means=means,
    )


def measured(condition: str, measure: str, values: Floats, *, n: int) -> Row:
    """A row that states a figure and tests nothing: its mean over seeds with an interval."""
    found = mean_interval(np.asarray(values, dtype=np.float64), confidence=CONFIDENCE, samples=SAMPLES)
    return Row(condition, measure, n, found.n, found.mean, found.low, found.high)


def overall(verdicts: Sequence[Verdict]) -> Verdict:
    """A claim about several rows: it holds when all do, is mixed when some hold and others fail."""
    if not verdicts:
        return "undecided"
    if all(one == "holds" for one in verdicts):
        return "holds"
    if "fails" in verdicts:
        return "mixed" if "holds" in verdicts else "fails"
    return "undecided"
