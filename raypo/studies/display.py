"""Did people rank by taste, or keep the order in which responses were shown? What a file of rankings can tell of it.

A person who keeps one order of display seems to have a taste, and two who keep it seem to agree or to disagree prompt
by prompt for reasons that are none of the prompt's: split-half reliability rises, and the ceiling with it. Seen here:

    order of the file kept       each person's rankings against the order of responses in the file; without power where
                                 that order is alphabetical by source, and then `slots` rests on the data's notes
    one order over all prompts   each person's rankings of two prompts against each other
    two annotators               each two people's rankings of a prompt against each other
    ceiling of four annotators   what a perfect index would reach, with and without each person

None proves an order of display that the file does not tell: good sources of responses are good at every prompt, and
people of one taste agree. A ceiling that falls without one or two people rests on them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from raypo.errors import ConfigError
from raypo.evaluation.intervals import Interval
from raypo.evaluation.significance import Floats
from raypo.evaluation.statistics import correlation, resampled
from raypo.studies.annotators import Judged, ceiling, disagreements, gained, halves, mean_correlation, spaced
from raypo.studies.result import CONFIDENCE, SAMPLES, Row, adjusted, compared

KEPT = 0.3
"""Rank correlation with the order of the file, in size, from which a person counts as having kept it."""

FILE_ORDER, ONE_ORDER = "order of the file kept", "one order over all prompts"
TWO, OF_FOUR = "rank correlation of two annotators", "ceiling of four annotators"
"""Measures of the control, see above."""

FOURS = 40
"""At most so many groups of four people on either side of a comparison."""


@dataclass(frozen=True)
class Control:
    """What is known of the order of display.

    Args:
        rows: of the measures above, of all people in the file.
        judged: the people who are used.
        told: sentences.
        everyone: all people in the file, where some are left out.
    """

    rows: list[Row]
    judged: Judged
    told: str
    everyone: Judged | None = None


def order_kept(judged: Judged) -> Floats:
    """Rank correlation of each person's scores with the order of the responses in the file, [prompts, people].

    1: the first was the best to this person. Far from 0 on average, where the file has the order of display, that order
    was kept and not a taste.
    """
    each = [
        [correlation(-one[who], np.arange(one.shape[1], dtype=np.float64)) for who in range(judged.people)]
        for one in judged.scores
    ]
    return np.array(each, dtype=np.float64)


def order_repeated(judged: Judged) -> list[Interval]:
    """Rank correlation of each person's scores of two prompts, mean over all pairs of prompts, prompts resampled.

    An order of display that is the same for all prompts and that the file does not tell is seen here, together with
    what makes one source of responses really better than another. NaN where prompts have different numbers of
    responses.
    """
    people, prompts = judged.people, len(judged.scores)
    if len({one.shape[1] for one in judged.scores}) > 1 or prompts < 2:
        return [Interval(np.nan, np.nan, np.nan, prompts)] * people
    ranks = np.stack([stats.rankdata(one[:people], axis=1) for one in judged.scores], axis=1)  # [people, prompts, K]
    with np.errstate(invalid="ignore"):  # one who gives all the same score has no order
        return [
            resampled(partial(_between, np.corrcoef(mine)), prompts, confidence=CONFIDENCE, samples=SAMPLES)
            for mine in ranks
        ]


def _between(matrix: Floats, index: NDArray[np.int64]) -> float:
    """Mean over pairs of different prompts; a prompt that was drawn twice is no pair with itself."""
    found = matrix[np.ix_(index, index)][index[:, None] != index[None, :]]
    kept = found[np.isfinite(found)]
    return float(kept.mean()) if len(kept) else float("nan")


def agreements(judged: Judged) -> dict[tuple[int, int], Floats]:
    """Rank correlation of every two people's scores of each prompt, [prompts]."""
    return {
        two: np.array([correlation(one[two[0]], one[two[1]]) for one in judged.scores], dtype=np.float64)
        for two in combinations(range(judged.people), 2)
    }


def ceilings(
    judged: Judged, measure: Callable[[Floats], float], groups: Sequence[tuple[int, ...]]
) -> dict[str, Interval]:
    """What a perfect index would reach with four people, with and without those of each group; see `ceiling`.

    Fours, so that both sides stand on as many judgements: those that hold all of the group, those that hold none of it.
    The mean is over them and over their cuts into two and two.

    Returns:
        by `with annotator 0`, `without annotators 0 and 1`; nothing where fewer than four people are left.
    """
    fours = list(combinations(range(judged.people), 4))
    held: dict[tuple[int, ...], Floats] = {}

    def pairs(chosen: Sequence[tuple[int, ...]]) -> list[tuple[Floats, Floats]]:
        found = []
        for four in chosen:
            for cut in halves(4):
                first, second = (tuple(four[one] for one in half) for half in cut)
                for who in (first, second):
                    if who not in held:
                        held[who] = disagreements(judged, measure, who)
                found.append((held[first], held[second]))
        return found

    told = {}
    for group in groups:
        name = f"annotator{'s' if len(group) > 1 else ''} {' and '.join(map(str, group))}"
        inside = [four for four in fours if set(group) <= set(four)]
        outside = [four for four in fours if not set(group) & set(four)]
        if inside and outside:
            for word, chosen in (("with", inside), ("without", outside)):
                told[f"{word} {name}"] = ceiling(mean_correlation(pairs(spaced(chosen, FOURS))), gained(4, 2))
    return told


def chosen_people(judged: Judged, slots: str | None, kept: Floats) -> list[int]:
    """The people to use: those named, or all who did not keep the order of the file.

    Args:
        judged: all of them.
        slots: numbers with commas; None: not given.
        kept: [people] mean rank correlation with the order of the file.

    Raises:
        ConfigError: `slots` names people who are not there, or one twice, or fewer than two remain.
    """
    people = judged.people
    if slots is None:
        found = [who for who in range(people) if not abs(kept[who]) >= KEPT]
        if len(found) < 2:
            raise ConfigError(
                f"{len(found)} annotators of cobbler who did not keep the order of the file", "two at least", "slots="
            )
        return found
    names = [one.strip() for one in slots.split(",")]
    right = all(one.isdecimal() and int(one) < people for one in names)
    if not right or len({int(one) for one in names}) < max(2, len(names)):
        raise ConfigError(
            f"slots={slots}",
            f"two at least of the annotators 0 to {people - 1}, with commas, each once",
            "for example slots=" + ",".join(map(str, range(people)[-4:])),
        )
    return [int(one) for one in names]


def control(judged: Judged, slots: str | None, measure: Callable[[Floats], float]) -> Control:
    """The control of display order: what is seen, whom it leaves, and what it cannot tell.

    Args:
        judged: all people of the file.
        slots: see `chosen_people`.
        measure: disagreement of some people's rankings, for the ceilings.

    Raises:
        ConfigError: see `chosen_people`.
    """
    each, prompts = order_kept(judged), len(judged.prompts)
    kept = np.array([float(one[np.isfinite(one)].mean()) if np.isfinite(one).any() else np.nan for one in each.T])
    chosen = chosen_people(judged, slots, kept)
    rows = adjusted([_row(f"annotator {who}", FILE_ORDER, each[:, who]) for who in range(judged.people)])
    rows += [_stated(f"annotator {who}", ONE_ORDER, one) for who, one in enumerate(order_repeated(judged))]
    pairs = {two: float(np.nanmean(one)) for two, one in agreements(judged).items() if np.isfinite(one).any()}
    rows += adjusted([_row(f"annotators {a} and {b}", TWO, one) for (a, b), one in agreements(judged).items()])
    groups: list[tuple[int, ...]] = [(who,) for who in range(judged.people)]
    if pairs:
        groups.append(most_alike(pairs))
    found = ceilings(judged, measure, groups)
    rows += [_stated(name, OF_FOUR, one) for name, one in found.items()]
    used = Judged(judged.prompts, judged.responses, [one[chosen] for one in judged.scores], sources=judged.sources)
    sentences = told(judged, rows, chosen, slots is None, pairs, prompts)
    return Control(rows, used, sentences, judged if len(chosen) < judged.people else None)


def most_alike(pairs: Mapping[tuple[int, int], float]) -> tuple[int, int]:
    """The two people with the largest correlation."""
    return max(pairs, key=lambda two: pairs[two])


def _row(condition: str, measure: str, values: Floats) -> Row:
    return compared(f"cobbler, {condition}", measure, values, n=len(values), matters=KEPT, prompts=True)


def _stated(condition: str, measure: str, found: Interval) -> Row:
    return Row(f"cobbler, {condition}", measure, found.n, 1, found.mean, found.low, found.high)


def order_of_file(judged: Judged) -> str:
    """What the order of responses in the file can say of the order of display, as a sentence."""
    sources = [tuple(one) for one in judged.sources]
    if sources and all(list(one) == sorted(one) for one in sources):
        return (
            "In the file responses stand in the alphabetical order of their sources at every prompt: it does not tell "
            "in which order they were shown, and to have kept its order or not says nothing of that. Whom to leave out "
            "cannot be decided by this control: where slots= names the annotators, that rests on what the data's notes "
            "say of the display."
        )
    if sources and len(set(sources)) == 1:
        return (
            "In the file responses stand in one order of their sources at every prompt, and it does not tell whether "
            "that was the order of display."
        )
    return (
        "The file does not tell whether its order of responses is the order of display; the control takes it for that."
    )


def told(
    judged: Judged,
    rows: Sequence[Row],
    chosen: Sequence[int],
    by_itself: bool,
    pairs: Mapping[tuple[int, int], float],
    prompts: int,
) -> str:
    """Who is used and why, and what would show an order of display that the file does not tell."""
    why = f"whose correlation with the order of the file is below {KEPT:g}" if by_itself else "as slots= names them"
    sentences = [
        order_of_file(judged),
        f"Of {judged.people} annotators {', '.join(map(str, chosen))} are used, {why} ({prompts} prompts).",
    ]
    for what in (FILE_ORDER, ONE_ORDER):
        each = ", ".join(f"{row.effect:+.2f}" for row in rows if row.measure == what)
        sentences.append(f"Annotators, {what}: {each}.")
    if pairs:
        most, rest = most_alike(pairs), sorted(pairs.values())[-2:-1]
        others = f"; the others up to {rest[0]:+.2f}" if rest else ""
        sentences.append(f"Most alike are annotators {most[0]} and {most[1]}, {pairs[most]:+.2f}{others}.")
    fours = [row for row in rows if row.measure == OF_FOUR]
    if fours:
        each = "; ".join(
            f"{row.condition.removeprefix('cobbler, ')}: {row.effect:.2f} [{row.low:.2f}, {row.high:.2f}]"
            for row in fours
        )
        sentences.append(f"Ceiling of four annotators: {each}. A ceiling that falls without somebody rests on them.")
    return " ".join(sentences)
