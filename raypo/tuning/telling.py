"""What a study says of itself: the table on the terminal, sentences, warnings, and study.html."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Column, Table

from raypo.errors import DataError
from raypo.report.study import StudyRecord, write_study
from raypo.stages import tables
from raypo.tuning.results import FEW, Row
from raypo.tuning.study import StudyConfig

TRIALS_PER_PARAMETER = 10
"""Below it the importances are told with a warning."""


def write_page(root: str | Path) -> str:
    """Write study.html, from the study's folder alone; returns its path.

    Raises:
        DataError: the folder holds no finished study.
    """
    known, summary = (tables.read_json(f"{root}/{name}.json") for name in ("study", "summary"))
    if known is None or summary is None:
        raise DataError(f"{root} has no finished study", "study.json and summary.json", "let the study run to its end")
    study, best = known["study"], Path(root, "best.yaml")
    record = StudyRecord(
        name=summary["name"],
        form=summary["form"],
        headline=sentences(summary),
        warnings=summary["warnings"],
        paths=list(study["space"]),
        logarithmic=[path for path, one in study["space"].items() if isinstance(one, dict) and one["log"]],
        trials=summary["trials"],
        best=summary["best"] and summary["best"]["trial"],
        start=summary["start"]["mean"],
        kl_bound=summary["kl_bound"],
        importance=summary["importance"],
        study=yaml.safe_dump(study, sort_keys=False, allow_unicode=True),
        config=best.read_text(encoding="utf-8") if best.is_file() else "",
        versions=known["versions"],
    )
    place = Path(root, "study.html")
    write_study(record, place)
    return str(place)


def warnings_of(rows: Sequence[Row], best: Row | None, confirmed: dict[str, Any] | None) -> list[str]:
    """What a reader should know before taking the winner."""
    told = []
    if failed := [row for row in rows if row.state == "failed" and not row.crashed]:
        told.append(f"{len(failed)} of {len(rows)} trials failed: {failed[0].error}")
    if crashed := [row for row in rows if row.crashed]:
        told.append(
            f"{len(crashed)} of {len(rows)} trials crashed, and the same command tries them again: {crashed[0].error}"
        )
    finished = [row for row in rows if row.state == "finished"]
    if FEW <= len(finished) < TRIALS_PER_PARAMETER * len(finished[0].point):
        told.append(
            f"the importances rest on {len(finished)} finished trials over {len(finished[0].point)} parameters: what "
            "happened to change together is not told apart, and another search may say otherwise"
        )
    if best is None:
        return [
            *told,
            "no trial with a known reward trained to its end within the KL bound: there is no winner, and no best.yaml",
        ]
    if best.figures["gain_low"] <= 0:
        told.append("the winner's gain over the start is not clear of 0, though it is the best of many")
    if confirmed is None:
        told.append(
            "the winner was chosen and measured on the same prompts: its figures are those of the luckiest; "
            "hold more prompts out than evaluation.num_prompts to have it measured on others"
        )
    elif confirmed["reward_gain"]["low"] <= 0:
        told.append("on prompts that the search never used, the winner's gain over the start is not clear of 0")
    return told


def show(study: StudyConfig, root: str, summary: dict[str, Any], console: Console) -> None:
    """The table, the winner and the warnings."""
    paths = list(study.space)
    table = Table(*[Column(name, justify="right") for name in ("trial", "state", *paths)], box=None)
    for name in ("reward", "gain", "KL", "front"):
        table.add_column(name, justify="right")
    for row in sorted(summary["trials"], key=lambda one: -(one["score"] or -math.inf)):
        cells = [str(row["trial"]), row["state"], *[str(row[path]) for path in paths]]
        numbers = [figure(row[name]) for name in ("reward", "gain", "kl")]
        table.add_row(*cells, *numbers, "yes" if row["front"] else "")
    console.print(table)
    for text in [*sentences(summary), *[f"  warning: {one}" for one in summary["warnings"]]]:
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    console.print(f"all trials: {root}/trials.csv", highlight=False, soft_wrap=True)


def figure(value: float | None) -> str:
    """Three digits, or nothing."""
    return "" if value is None else f"{value:.3f}"


def sentences(summary: dict[str, Any]) -> list[str]:
    """What came out, in plain words."""
    told, best = [], summary["best"]
    if best is not None:
        told.append(
            f"best: trial {best['trial']}, held-out reward {summary['start']['mean']:.3f} -> "
            f"{best['reward']:.3f}, gain {best['gain']:+.3f} [{best['gain_low']:+.3f}, {best['gain_high']:+.3f}] at "
            f"KL {best['kl']:.2f} of at most {summary['kl_bound']:g} nats per response"
        )
    if (again := summary["confirmed"]) is not None:
        gain, kl = again["reward_gain"], again["kl_per_response"]["mean"]
        told.append(
            f"  on held-out prompts that the search never used: gain {gain['mean']:+.3f} "
            f"[{gain['low']:+.3f}, {gain['high']:+.3f}] at KL {kl:.2f}"
        )
    for name, one in summary["importance"].items():
        shares = ", ".join(f"{path} {share:.0%}" for path, share in one["shares"].items())
        finished = sum(row["state"] == "finished" for row in summary["trials"])
        told.append(f"  what {name} depended on (fANOVA of {finished} trials): {shares or one['reason']}")
    return told
