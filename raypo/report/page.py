"""The page of a run: a template over a record, escaped throughout."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from raypo.report import plots
from raypo.report.record import RunRecord


def interval(found: dict[str, float]) -> str:
    """`0.412 [0.380, 0.441]`; without bounds where there are none."""
    if not math.isfinite(found["low"]):
        return f"{found['mean']:.3f}"
    return f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


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
    environment.filters["interval"] = interval
    drawn = {
        "evaluations": [
            drawing(plots.rewards(record.evaluations, untrained), "Held-out rewards, with intervals over prompts."),
            drawing(
                plots.win_rate(record.evaluations), "Win rate against the start; a coin would be at the dashed line."
            ),
            drawing(plots.frontier(record.evaluations), "Training reward against KL to the start; numbers are rounds."),
        ],
        "steps": step_plots(record.steps),
        "dispersion": dispersion_plots(record.dispersion),
        "time": Markup(plots.svg(plots.time_spent(record.seconds))) if record.seconds else "",
    }
    template = environment.get_template("page.html.j2")
    return template.render(record=record, plots=drawn, confidence=confidence, untrained=untrained)


def drawing(figure: Figure, caption: str) -> dict[str, Any]:
    """A figure and what it shows."""
    return {"svg": Markup(plots.svg(figure)), "caption": caption}


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
    return [drawing(plots.curve(steps, name, label), caption) for name, (label, caption) in named.items()]


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
        OSError: the file cannot be written.
    """
    Path(path).write_text(render(record, confidence=confidence, untrained=untrained), encoding="utf-8")
