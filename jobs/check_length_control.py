"""Check the length-controlled win rate on published data: `python jobs/check_length_control.py ANSWERS LEADERBOARD`.

ANSWERS: JSON lines (gzipped), per prompt `baseline` (text) and `responses`, each with `model`, `text` and `score`, the
judge's probability that it beats the baseline. LEADERBOARD: CSV with `model`, `win_rate` and
`length_controlled_winrate` in percent. Prints both beside each other, the differences in standard errors of our own
sampling, and the rank correlation.
"""

from __future__ import annotations

import csv
import gzip
import json
import sys

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from raypo.evaluation.length import Duel, LengthControlled, length_controlled

CONFIDENCE = 0.95
WIDTH = 2 * float(stats.norm.ppf(0.5 + CONFIDENCE / 2))  # of an interval, in standard errors


def read(answers: str) -> tuple[dict[str, Duel], int]:
    """Each model's answers against the baseline's, and the number of prompts."""
    with gzip.open(answers, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    duels = {}
    for model in [one["model"] for one in rows[0]["responses"]]:
        prompt, preference, longer = [], [], []
        for number, row in enumerate(rows):  # a model may have no answer to a prompt
            for one in row["responses"]:
                if one["model"] == model:
                    prompt.append(number)
                    preference.append(float(one["score"]))
                    longer.append(float(len(one["text"]) - len(row["baseline"])))
        duels[model] = Duel(np.array(prompt), np.array(preference), np.array(longer))
    return duels, len(rows)


def leaderboard_of(path: str) -> dict[str, dict[str, str]]:
    """Published rows by model."""
    with open(path, encoding="utf-8") as file:
        return {row["model"]: row for row in csv.DictReader(file)}


def beside(
    found: dict[str, LengthControlled], published: dict[str, dict[str, str]]
) -> dict[str, tuple[float, float, float]]:
    """Of each published model: our win rate at equal length, the published one, and our standard error, in percent."""
    return {
        model: (
            100 * one.controlled.mean,
            float(published[model]["length_controlled_winrate"]),
            100 * (one.controlled.high - one.controlled.low) / WIDTH,
        )
        for model, one in found.items()
        if model in published
    }


def main(answers: str, leaderboard: str) -> None:
    """Fit, compare, print."""
    duels, prompts = read(answers)
    published = leaderboard_of(leaderboard)
    found = length_controlled(duels, prompts, confidence=CONFIDENCE, samples=400)
    rows = beside(found, published)
    table = Table("model", "win rate %", "published", "at equal length %", "published", "difference / error", box=None)
    for model, one in found.items():
        low, high = 100 * one.controlled.low, 100 * one.controlled.high
        cells = [
            model,
            f"{100 * one.win_rate.mean:.2f}",
            "",
            f"{100 * one.controlled.mean:.2f} [{low:.2f}, {high:.2f}]",
        ]
        if model in rows:
            ours, theirs, error = rows[model]
            cells[2] = f"{float(published[model]['win_rate']):.2f}"
            cells += [f"{theirs:.2f}", f"{(ours - theirs) / error:+.2f}"]
        table.add_row(*cells)
    console = Console(width=140)
    console.print(table)
    ours_all, theirs_all, _ = np.array(list(rows.values())).T
    console.print(
        f"{prompts} prompts; rank correlation with the published "
        f"{stats.spearmanr(ours_all, theirs_all).statistic:.3f}, Pearson's "
        f"{np.corrcoef(ours_all, theirs_all)[0, 1]:.3f}, mean difference in size "
        f"{np.abs(ours_all - theirs_all).mean():.2f} points"
    )


if __name__ == "__main__":
    main(*sys.argv[1:3])
