"""Runs of several conditions and seeds, compared where they moved equally far from the start.

A run's path is its evaluated versions: KL to the start and each held-out prompt's reward. Two conditions of one seed
share prompts and sampling seeds, so they are paired by prompt where the one that moved less ended; over seeds, both the
seeds and the prompts are samples (`combine_seeds`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from raypo.errors import DataError
from raypo.evaluation.diagnostics import by_source
from raypo.evaluation.frontier import Point, least_end, passed
from raypo.evaluation.seeds import Combined, combine_seeds
from raypo.evaluation.significance import Floats, detectable_by_t, power_by_t
from raypo.evaluation.statistics import prompt_means
from raypo.online.folder import RunFolder
from raypo.report import plots
from raypo.report.plots import Figure
from raypo.stages import tables
from raypo.studies.result import CONFIDENCE, Row, Verdict, measured
from raypo.studies.sentences import VOTES, grouped, side, sign

MATTERS = 0.1
"""Smallest difference that matters, in spreads of the start's rewards over all its responses."""

BASE = "dpo"
CLAIMED = ("mallows-theta", "mallows-phi", "mpo", "w-mpo", "mallows-mpo")
"""Conditions of which it is claimed that they beat BASE; what else is run is reported beside them."""

GAIN, REACHED, MOVED = "reward over dpo's at equal kl", "most reward over the start", "kl at the end"
UNTRAINED = "never trained on"


@dataclass(frozen=True)
class Run:
    """One finished run.

    Args:
        condition: its objective.
        seed: of the run.
        kl: [V] of each version to the start, nats per response.
        rewards: [V, P] training reward of each held-out prompt, in spreads of the start's rewards.
        other: [V, P] a second reward that was never trained on, in its own spreads; None where there is none.
        other_name: its name.
        prompts: [P] their ids.
    """

    condition: str
    seed: int
    kl: Floats
    rewards: Floats
    other: Floats | None = None
    other_name: str = ""
    prompts: tuple[str, ...] = ()

    def path(self, second: bool) -> list[Point]:
        """Its versions by the training reward, or by the second one, which must be there then."""
        values = self.other if second else self.rewards
        assert values is not None  # runs without it are not asked for it
        return [Point(float(kl), each) for kl, each in zip(self.kl, values, strict=True)]


def read(condition: str, seed: int, folder: RunFolder, other: str | None) -> Run:
    """A run from its folder.

    Args:
        condition: of the run.
        seed: of the run.
        folder: with evaluated versions.
        other: name of the reward that was never trained on; None: there is none.

    Raises:
        DataError: a version was not evaluated, or on other prompts than the start.
    """
    facts = folder.evaluations()
    found = [tables.read(folder.evaluation(version)) for version in range(len(facts))]
    rows = [one[0] for one in found if one is not None]
    if len(rows) < max(2, len(facts)):
        raise DataError(
            f"{folder.root} has {len(rows)} evaluated versions and figures of {len(facts)}",
            "both of each version, the start and a trained one at least",
        )
    prompts, *later = [tuple(one["prompt_id"].to_pylist()) for one in rows]
    if any(one != prompts for one in later):
        raise DataError(f"{folder.root} has versions that were evaluated on different prompts", "one list for all")
    kl = np.array([one["evaluation"]["kl_per_response"]["mean"] for one in facts], dtype=np.float64)
    kl[0] = 0.0  # the start's KL to itself, which rounding may put beside 0
    second = None if other is None else _in_spreads([_source(one, other) for one in rows])
    rewards = _in_spreads([one["rewards"].to_pylist() for one in rows])
    return Run(condition, seed, kl, rewards, second, other or "", prompts)


def _source(rows: pa.Table, name: str) -> Sequence[Sequence[float | None]]:
    return by_source(rows)[name]


def _in_spreads(versions: Sequence[Sequence[Sequence[float | None]]]) -> Floats:
    """Prompt means of every version over the spread of the start's responses; plain where those are all alike."""
    start = np.array([value for row in versions[0] for value in row if value is not None], dtype=np.float64)
    spread = float(np.nanstd(start))
    return np.stack([prompt_means(one) for one in versions]) / (spread or 1.0)


def differences(one: Run, other: Run, *, second: bool = False) -> tuple[float, Floats]:
    """KL at which two runs of one seed are compared, that of the one that moved less, and each prompt's difference.

    See `raypo.evaluation.frontier` for why there.

    Raises:
        DataError: a version's KL is not finite, so that there is no such place.
    """
    for run in (one, other):
        if not np.isfinite(run.kl).all():
            version = int(np.isfinite(run.kl).argmin())
            raise DataError(
                f"{run.condition} of seed {run.seed} has a KL of {run.kl[version]} at version {version}",
                "a finite one of each version: runs are compared where they moved equally far",
                "look at that run's evaluation; with a smaller learning rate or a larger beta it may not diverge",
            )
    paths = [run.path(second) for run in (one, other)]
    kl = least_end(paths)
    first, base = (found for path in paths if (found := passed(path, kl)) is not None)  # from 0 to it at least
    return kl, first - base


def rows_of(runs: Sequence[Run]) -> list[Row]:
    """Every condition against BASE at equal KL, by the training reward and by the second; then where each arrived.

    Args:
        runs: all conditions with the same seeds, BASE among them, on the same prompts.

    Raises:
        DataError: runs were evaluated on different prompts, which cannot be paired.
    """
    first = runs[0]
    for run in runs:
        if run.prompts != first.prompts:
            raise DataError(
                f"{run.condition} of seed {run.seed} was evaluated on other prompts than {first.condition} of seed "
                f"{first.seed}",
                "the same prompts, in the same order, in all runs",
                "run the study in a folder of its own",
            )
    by_condition: dict[str, dict[int, Run]] = {}
    for run in runs:
        by_condition.setdefault(run.condition, {})[run.seed] = run
    base = by_condition[BASE]
    rows: list[Row] = []
    for name, mine in by_condition.items():
        if name != BASE:
            pairs = [(mine[seed], base[seed]) for seed in mine]
            rows.append(_combined(name, GAIN, [differences(*pair) for pair in pairs], tested=True))
            if pairs[0][0].other is not None:
                told = f"{pairs[0][0].other_name}, {UNTRAINED}, over dpo's at equal kl"
                rows.append(_combined(name, told, [differences(*pair, second=True) for pair in pairs], tested=False))
    for name, mine in by_condition.items():
        prompts = next(iter(mine.values())).rewards.shape[1]
        most = np.array([(run.rewards.mean(1) - run.rewards[0].mean()).max() for run in mine.values()])
        rows.append(measured(name, REACHED, most, n=prompts))
        rows.append(measured(name, MOVED, np.array([run.kl[-1] for run in mine.values()]), n=prompts))
    return rows


def _combined(name: str, measure: str, found: Sequence[tuple[float, Floats]], *, tested: bool) -> Row:
    """A row over seeds and prompts, with the power of the test that combines them; one seed has none."""
    values = np.stack([difference for _, difference in found])
    both = combine_seeds(values, confidence=CONFIDENCE)
    seeds = both.seeds
    kl = float(np.mean([kl for kl, _ in found]))
    row = Row(
        f"{name}, {kl:.2f} nats", measure, both.interval.n, seeds, both.interval.mean, both.interval.low,
        both.interval.high,
    )  # fmt: skip
    if not tested:
        return row
    chance, least = _means(both, CONFIDENCE)
    means = partial(_means, both)
    up, down = (combine_seeds(values - off, confidence=CONFIDENCE).p for off in (MATTERS, -MATTERS))
    return replace(row, p=both.p, matters=MATTERS, power=chance, detectable=least, means=means, p_up=up, p_down=down)


def _means(both: Combined, confidence: float) -> tuple[float, float]:
    """Power and detectable effect of the test that combines seeds and prompts; NaN where it can tell nothing."""
    if np.isnan(both.error):
        return float("nan"), float("nan")
    power = power_by_t(MATTERS, both.error, both.degrees, confidence=confidence)
    return power, detectable_by_t(both.error, both.degrees, confidence=confidence)


def claimed(rows: Sequence[Row]) -> list[Row]:
    """The claimed conditions that were run."""
    return [row for row in rows if row.measure == GAIN and row.condition.split(",")[0] in CLAIMED]


def votes(rows: Sequence[Row]) -> list[Verdict]:
    """What each row says that decides the claim."""
    return [row.supports() for row in claimed(rows)]


def plain(rows: Sequence[Row]) -> str:
    """The claimed conditions, those beside them, and the reward that was never trained on, in words."""
    decided = claimed(rows)
    said = {row.condition.split(",")[0]: f"{VOTES[row.supports()]} for" for row in decided}
    others = [row for row in rows if row.measure == GAIN and row not in decided]
    beside = "".join(f"; {row.condition.split(',')[0]} against DPO is {side(row)}" for row in others)
    words = {"above": "higher with", "below": "lower with", "unclear": "not told apart with"}
    second = {row.condition.split(",")[0]: words[sign(row)] for row in rows if UNTRAINED in row.measure}
    claim = grouped(said, [f"{one} for" for one in VOTES.values()])
    there = f"; the reward that was never trained on, against DPO's, is {grouped(second, list(words.values()))}"
    return f"That a condition has more reward than DPO at the same KL is {claim}{beside}{there if second else ''}."


def finding(rows: Sequence[Row]) -> str:
    """Condition by condition: reward at equal KL, the second reward there, and how far each went."""
    gains = [row for row in rows if row.measure == GAIN]
    told = "; ".join(f"{row.condition} {row.words()}" for row in gains)
    sentences = [f"Held-out reward over DPO's at equal KL, in spreads of the start's rewards: {told}."]
    second = [row for row in rows if UNTRAINED in row.measure]
    if second:
        name = second[0].measure.split(",")[0]
        each = "; ".join(f"{row.condition.split(',')[0]} {row.told()}" for row in second)
        sentences.append(f"There the reward that was never trained on ({name}) differs from DPO's by: {each}.")
    most = {row.condition: row for row in rows if row.measure == REACHED}
    moved = {row.condition: row for row in rows if row.measure == MOVED}
    each = "; ".join(f"{name} {row.effect:+.2f} at the end {moved[name].effect:.2f} nats" for name, row in most.items())
    sentences.append(f"Most reward over the start, and KL at the end: {each}.")
    return " ".join(sentences)


def figure(runs: Sequence[Run]) -> Figure:
    """Reward over the start against KL: a line per run, a colour per condition."""
    drawn, ax = plots.axes(5.6, 3.8)
    names = list(dict.fromkeys(run.condition for run in runs))
    for run in runs:
        at = names.index(run.condition)
        first = run.seed == next(one.seed for one in runs if one.condition == run.condition)
        gain = run.rewards.mean(1) - run.rewards[0].mean()
        colour = plots.COLOURS[at % len(plots.COLOURS)]
        ax.plot(run.kl, gain, color=colour, marker="o", markersize=3, alpha=0.7, label=run.condition if first else None)
    ax.set_xlabel("KL to the start, nats per response")
    ax.set_ylabel("held-out reward over the start, spreads")
    ax.legend(frameon=False, fontsize=7)
    return drawn


def told_runs(runs: Sequence[Run]) -> list[Mapping[str, Any]]:
    """Every run's path as plain values."""
    return [
        {"condition": run.condition, "seed": run.seed, "kl": run.kl.tolist(), "reward": run.rewards.mean(1).tolist()}
        for run in runs
    ]
