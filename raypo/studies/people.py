"""Judgements by several people: every index that can be had against how far they disagree, beside its ceiling."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

import torch

from raypo import dispersion
from raypo.dispersion.mallows import DISTANCES, MOST_ITEMS
from raypo.errors import ConfigError
from raypo.evaluation.intervals import Interval
from raypo.evaluation.significance import Floats
from raypo.evaluation.statistics import correlation_interval, mean_interval
from raypo.models.load import check_folder
from raypo.studies import annotators
from raypo.studies.annotators import Judged
from raypo.studies.correlations import CEILING, correlated
from raypo.studies.display import Control, control
from raypo.studies.reference import under_model
from raypo.studies.result import CONFIDENCE, SAMPLES, Row, Setting

KINDS, MATTERS = ("cobbler", "gold", "pandalm"), 0.1
"""Kinds of files; smallest correlation that matters."""

PERFECT, PERFECT_ON_HALF = "a perfect index", "a perfect index against one half"
"""Conditions of ceilings: against all people's disagreement, and against that of one half."""

OTHER_HALF, HALVES = "reward spread of the other half", "half against half"

COST = "share of ln V that a token costs"
"""Of a model on judged responses, in [0, 1]; 1: as if it drew tokens evenly, and knew nothing of such text."""


def given(setting: Setting) -> dict[str, Control]:
    """Judgements by people as the options name them, with the control of display order; before anything is computed.

    Raises:
        ConfigError: slots that are not there, rankings longer than can be fitted, or options without the file that
            they are about.
        DataError: a file cannot be read.
        ModelError: the model's folder cannot be read.
    """
    options = setting.options
    if "slots" in options and "cobbler" not in options:
        raise ConfigError(f"slots={options['slots']} without cobbler=", "annotators of a file that is given")
    if "model" in options:
        if not any(kind in options for kind in KINDS):
            raise ConfigError("model= without judgements", f"one of {', '.join(KINDS)} beside it")
        check_folder(os.path.abspath(options["model"]))
    found = {kind: _read(kind, options[kind]) for kind in KINDS if kind in options}
    return {
        kind: control(judged, options.get("slots"), annotators.by_mallows("kendall"))
        if kind == "cobbler"
        else Control([], judged, "")
        for kind, judged in found.items()
    }


def _read(kind: str, path: str) -> Judged:
    judged = annotators.judged(path, kind)
    longest = max(len(one) for one in judged.responses)
    if kind == "cobbler" and longest > MOST_ITEMS:
        raise ConfigError(
            f"cobbler={path}: rankings of {longest} responses",
            f"at most {MOST_ITEMS}, of which the Mallows models can be fitted",
            "keep fewer responses of each prompt",
        )
    return judged


def on_people(kind: str, control: Control, setting: Setting) -> tuple[list[Row], list[Row]]:
    """Every index that can be had against the disagreement of the people in a file.

    Returns:
        rows of the people who are used; and of all in the file, where some are left out, under conditions of their own.
    """
    judged, rows, beside = control.judged, list[Row](), list[Row]()
    by_model = under_model(judged, setting.options["model"]) if "model" in setting.options else {}
    if by_model:
        paid = mean_interval(by_model["likelihood"], confidence=CONFIDENCE, samples=SAMPLES)
        rows.append(Row(f"{kind}, the model", COST, paid.n, 1, paid.mean, paid.low, paid.high))
    rows += against(kind, kind, judged, by_model)
    if (all_of := control.everyone) is not None:
        beside += against(kind, f"{kind} with all {all_of.people} annotators", all_of, by_model)
    return rows, beside


def of_used(row: Row) -> bool:
    """Whether a row is of people's judgements, and of those who are used."""
    return row.condition.split(", ")[0] in KINDS


def of_everyone(row: Row) -> bool:
    """Whether a row is of all people in a file of which some are left out."""
    return not of_used(row) and row.condition.startswith(tuple(f"{kind} with all " for kind in KINDS))


def against(kind: str, told: str, judged: Judged, by_model: Mapping[str, Floats]) -> list[Row]:
    """Indices by the people themselves and by a model against their disagreement, by every measure of the kind.

    Args:
        kind: of the file.
        told: what conditions begin with.
        judged: the people.
        by_model: index of each prompt by name.
    """
    rows: list[Row] = []
    measures: dict[str, Callable[[Floats], float]] = (
        {"variance": annotators.by_variance} if kind == "gold" else {"pairs": annotators.by_pairs}
    )
    if kind == "cobbler":
        measures = {name: annotators.by_mallows(name) for name in DISTANCES}
    for name, measure in measures.items():
        where = f"{told}, {name}"
        whole = annotators.disagreements(judged, measure)
        rows += halved(where, judged, measure)
        rows += [
            correlated(
                f"{where}, {index}",
                correlation_interval(values, whole, confidence=CONFIDENCE, samples=SAMPLES),
                matters=MATTERS,
            )
            for index, values in by_model.items()
        ]
    return rows


def halved(told: str, judged: Judged, measure: Callable[[Floats], float]) -> list[Row]:
    """Half against half, the ceilings, and one half's reward spread against the other's disagreement.

    Empty where people cannot be cut into two halves of two at least.
    """
    cuts = annotators.cuts(judged, measure)
    if not cuts:
        return []
    reliable = annotators.reliability(cuts, judged.people)
    pairs = [
        (spread(judged, who), disagreement)
        for cut in cuts
        for who, disagreement in zip((cut.first, cut.second), cut.disagreement[::-1], strict=True)
    ]
    return [
        correlated(f"{told}, {HALVES}", reliable.half, matters=MATTERS),
        ceiling_row(f"{told}, {PERFECT}", reliable.ceiling),
        ceiling_row(f"{told}, {PERFECT_ON_HALF}", reliable.ceiling_of_half),
        correlated(f"{told}, {OTHER_HALF}", annotators.mean_correlation(pairs), matters=MATTERS),
    ]


def ceiling_row(condition: str, found: Interval) -> Row:
    """A ceiling with its interval; it tests nothing."""
    return Row(condition, CEILING, found.n, 1, found.mean, found.low, found.high)


def spread(judged: Judged, who: Sequence[int]) -> Floats:
    """The index by spread of some people's mean scores, as rewards."""
    rewards = [torch.from_numpy(one[list(who)].mean(0)) for one in judged.scores]
    given = torch.nn.utils.rnn.pad_sequence(rewards, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(one) for one in rewards], batch_first=True).bool()
    found: Floats = dispersion.reward_spread_index(given, mask).double().numpy()
    return found
