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

from raypo.evaluation.length import Duel, length_controlled

CONFIDENCE = 0.95
WIDTH = 2 * float(stats.norm.ppf(0.5 + CONFIDENCE / 2))  # of an interval, in standard errors


def main(answers: str, leaderboard: str) -> None:
    """Fit, compare, print."""
    with gzip.open(answers, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    with open(leaderboard, encoding="utf-8") as file:
        published = {row["model"]: row for row in csv.DictReader(file)}
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
    found = length_controlled(duels, len(rows), confidence=CONFIDENCE, samples=400)
    table = Table("model", "win rate %", "published", "at equal length %", "published", "difference / error", box=None)
    ours, theirs = [], []
    for model, one in found.items():
        low, high = 100 * one.controlled.low, 100 * one.controlled.high
        cells = [
            model,
            f"{100 * one.win_rate.mean:.2f}",
            "",
            f"{100 * one.controlled.mean:.2f} [{low:.2f}, {high:.2f}]",
        ]
        if model in published:
            cells[2] = f"{float(published[model]['win_rate']):.2f}"
            ours.append(100 * one.controlled.mean)
            theirs.append(float(published[model]["length_controlled_winrate"]))
            cells += [f"{theirs[-1]:.2f}", f"{(ours[-1] - theirs[-1]) / ((high - low) / WIDTH):+.2f}"]
        table.add_row(*cells)
    console = Console(width=140)
    console.print(table)
    console.print(
        f"{len(rows)} prompts; rank correlation with the published {stats.spearmanr(ours, theirs).statistic:.3f}, "
        f"Pearson's {np.corrcoef(ours, theirs)[0, 1]:.3f}, mean difference in size "
        f"{np.abs(np.array(ours) - theirs).mean():.2f} points"
    )


if __name__ == "__main__":
    main(*sys.argv[1:3])
