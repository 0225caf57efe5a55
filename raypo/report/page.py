"""The page of a run: a template over a record, escaped throughout."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from raypo.errors import OutputError
from raypo.report import plots
from raypo.report.record import RunRecord


def interval(found: dict[str, float] | float, digits: int = 3) -> str:
    """`0.412 [0.380, 0.441]`; without bounds where there are none, as of a figure that is a plain number."""
    if not isinstance(found, dict):  # records of older runs have no interval of what was cut off
        return f"{found:.{digits}f}"
    if not math.isfinite(found["low"]):
        return f"{found['mean']:.{digits}f}"
    return f"{found['mean']:.{digits}f} [{found['low']:.{digits}f}, {found['high']:.{digits}f}]"


def cell(found: dict[str, float] | float, digits: int = 3) -> str:
    """The same for a table, where a narrow cell breaks before the bounds and not within them."""
    return unbroken(interval(found, digits))


def unbroken(text: str) -> str:
    """A text that breaks before the bounds of an interval and not within them; without an interval, as it is."""
    return re.sub(r"(\[\S+), (\S+\])", "\\1,\u00a0\\2", text)


def plain(value: float | None) -> str:
    """`0.041`; empty where a record has none, or it cannot be told."""
    return "" if value is None or math.isnan(value) else f"{value:.2g}"


def scored(value: float | None) -> str:
    """`reward 0.42`, or that there is none."""
    return "could not be scored" if value is None or math.isnan(value) else f"reward {value:.2f}"


def render(record: RunRecord, *, confidence: float, untrained: list[str]) -> str:
    """The page as HTML.

    Args:
        record: of the run.
        confidence: coverage of the record's intervals.
        untrained: names of the reward sources that are never trained on.
    """
    environment = Environment(
        loader=PackageLoader("raypo.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["interval"] = cell
    environment.filters["plain"] = plain
    environment.filters["unbroken"] = unbroken
    environment.filters["reward"] = scored
    drawn = {
        "evaluations": evaluation_plots(record.evaluations, untrained) if record.evaluations else [],
        "responses": response_plots(record.evaluations) if record.evaluations else [],
        "steps": step_plots(record.steps),
        "spread": spread_plots(record.spread, record.histogram),
        "dispersion": dispersion_plots(record.dispersion),
        "time": Markup(plots.svg(plots.time_spent(record.seconds))) if record.seconds else "",
    }
    template = environment.get_template("page.html.j2")
    told = cards(record.evaluations[-1] if record.evaluations else record.figures)
    return template.render(record=record, plots=drawn, cards=told, confidence=confidence, untrained=untrained)


CARDS = {
    "reward_gain": ("reward gain, paired", "+.3f"),
    "reward_win_rate": ("win rate against the start", ".3f"),
    "reward_win_rate_controlled": ("win rate, lengths held equal", ".3f"),
    "kl_per_response": ("KL to the start, nats", ".2f"),
    "length": ("tokens per response", ".1f"),
    "heldout_accuracy": ("held-out pairs ranked as the rewards do", ".3f"),
    "dispersion": ("dispersion of training sets, mean", ".3f"),
}
"""Figures that a reader looks for first, with their form."""


def cards(figures: dict[str, Any]) -> list[dict[str, str]]:
    """Those of `CARDS` that an evaluation, or a run without one, has."""
    found = []
    for key, (label, form) in CARDS.items():
        if (one := figures.get(key)) and math.isfinite(one["mean"]):
            bounds = f"[{one['low']:{form}}, {one['high']:{form}}]" if math.isfinite(one["low"]) else ""
            found.append({"label": label, "value": f"{one['mean']:{form}}", "bounds": bounds})
    return found


def drawing(figure: Figure, caption: str) -> dict[str, Any]:
    """A figure and what it shows."""
    return {"svg": Markup(plots.svg(figure)), "caption": caption}


def evaluation_plots(evaluations: list[dict[str, Any]], untrained: list[str]) -> list[dict[str, Any]]:
    """Reward, win rate and the frontier, by round."""
    found = [
        drawing(plots.rewards(evaluations, untrained), "Held-out rewards, with intervals over prompts."),
        drawing(plots.frontier(evaluations), "Training reward against KL to the start; numbers are rounds."),
    ]
    if len(evaluations) > 1:
        caption = "Win rate against the start; a coin would be at the dashed line."
        found.insert(1, drawing(plots.win_rate(evaluations), caption))
    return found


def response_plots(evaluations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What changed in the responses beside their reward: lengths, variety, and where probability went."""
    kinds = [
        ([("length", "length")], "tokens per response", "Length of held-out responses."),
        (
            [("length_correlation", "correlation")],
            "rank correlation",
            "Reward against length, over all responses: far from 0, longer (or shorter) ones are what is rewarded.",
        ),
        (
            [("entropy_per_token", "entropy"), ("self_similarity", "self-similarity")],
            "nats per token; cosine",
            "Entropy per token, and how alike a prompt's responses are (cosine of bigram counts). A collapse shows as "
            "less of the one and more of the other.",
        ),
        (
            [("chosen_shift", "best response"), ("rejected_shift", "worst response")],
            "change of log-prob, nats",
            "Log-prob of the start's best and worst response to each prompt, as the policy moves. The best one "
            "falling is likelihood displacement.",
        ),
    ]
    found = [
        drawing(plots.by_round(evaluations, named, label), caption)
        for named, label, caption in kinds
        if any(one.get(named[0][0]) for one in evaluations)
    ]
    if evaluations[0].get("best_of_n") and evaluations[-1].get("best_of_n"):
        ends = [("start", evaluations[0], plots.COLOURS[7]), ("last version", evaluations[-1], plots.COLOURS[0])]
        found.append(drawing(plots.best_of(ends), plots.BEST_OF))
    return found


def spread_plots(points: list[tuple[float, float]], histogram: list[int]) -> list[dict[str, Any]]:
    """Dispersion against reward spread, and how it is distributed, where a run has sets."""
    found = []
    if points:
        caption = "Dispersion against reward spread, a point a training set; of a run in rounds, of the first."
        found.append(drawing(plots.spread_and_dispersion(points), caption))
    if any(histogram):
        caption = "Sets by their dispersion index; of a run in rounds, those of the first."
        found.append(drawing(plots.histogram(histogram), caption))
    return found


def step_plots(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Loss, accuracy, margin and gradient norm over optimizer steps."""
    if not steps:
        return []
    named = {
        "loss": ("loss", "Loss. Losses of different presets do not compare."),
        "rewards/accuracies": ("accuracy", "Share of chosen-rejected pairs that the policy ranks as the reward does."),
        "rewards/margins": (
            "reward margin",
            "Implicit reward of the chosen less that of the rejected, unscaled by psi.",
        ),
        "grad_norm": ("gradient norm", "Gradient norm before clipping."),
    }
    known = {name: told for name, told in named.items() if name in steps[0]}
    return [drawing(plots.curve(steps, name, label), caption) for name, (label, caption) in known.items()]


def dispersion_plots(found: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Each estimator's agreement with the truth, and the used one's values by class."""
    if found is None:
        return []
    return [
        drawing(
            plots.correlations(found["estimators"], found["ceiling"]),
            "Rank correlation of each estimator with the truth, and the same with estimates shuffled among prompts.",
        ),
        *[
            drawing(
                plots.dispersion_boxes(found["points"], one["name"]), f"Index by {one['name']}, by class of prompts."
            )
            for one in found["estimators"]
        ],
    ]


def write_report(record: RunRecord, path: str | Path, *, confidence: float, untrained: list[str]) -> None:
    """Write the page.

    Raises:
        OutputError: the file cannot be written.
    """
    write_html(render(record, confidence=confidence, untrained=untrained), path)


def write_html(text: str, path: str | Path) -> None:
    """Write the HTML of any page.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error}", "a writable folder", "check space and rights") from error
