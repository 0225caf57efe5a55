"""Several policies on the same held-out prompts: each against the start, each against each, seeds put together.

Pure functions of tables: no network, no Ray.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa

from raypo.config import RunConfig
from raypo.evaluation.diagnostics import REFITS, Evaluation, evaluate, reward_duel
from raypo.evaluation.frontier import AtEqualKl, Point, at_equal_kl, on_frontier
from raypo.evaluation.intervals import SHARE, Interval
from raypo.evaluation.length import LengthControlled, length_controlled
from raypo.evaluation.methods import difference_over_seeds
from raypo.evaluation.seeds import Combined, combine_seeds
from raypo.evaluation.significance import Floats, detectable, holm, paired_test
from raypo.evaluation.statistics import mean_interval, prompt_means
from raypo.evaluation.verdicts import AsJudged, Verdicts, as_judged, misjudged
from raypo.evaluation.winrate import Judged, judged, win_shares

START = "start"
"""Name of the initial policy, which every other is compared with."""


@dataclass(frozen=True)
class Drawn:
    """What was measured of one policy; tables sorted by prompt id, of the same prompts for every policy.

    Args:
        method: how it was made.
        point: where on the method's path it lies, such as its weight version; a method's points are in the order of
            training. Policies of one method and one point are seeds of each other.
        rows: records.SCORED.
        measured: records.MEASURED of its own responses.
        moved: records.MEASURED of the start's responses under this policy; None for the start.
    """

    method: str
    point: str
    rows: pa.Table
    measured: pa.Table
    moved: pa.Table | None = None

    def reward(self) -> Floats:
        """Mean training reward of each prompt."""
        return prompt_means(self.rows["rewards"].to_pylist())


@dataclass(frozen=True)
class Against:
    """Two policies by the training reward, paired by prompt.

    Args:
        one: name of the first.
        other: name of the second.
        difference: reward of the first less that of the second.
        p: p-value that it is 0, as it is.
        p_adjusted: the same for all comparisons of the table together (Holm).
        detectable: smallest true difference that would have been found four times in five.
        win_rate: of the first.
    """

    one: str
    other: str
    difference: Interval
    p: float
    p_adjusted: float
    detectable: float
    win_rate: Interval


@dataclass(frozen=True)
class MethodAgainst:
    """Two methods by the training reward over their seeds.

    Args:
        one: the first's name, with its point on its path if it has one.
        other: the second's.
        seeds: of the first and of the second.
        difference: reward of the first less that of the second, over seeds and prompts.
        p: p-value that it is 0, as it is.
        p_adjusted: the same for all comparisons of the table together (Holm).
        detectable: smallest true difference that would have been found four times in five.
    """

    one: str
    other: str
    seeds: tuple[int, int]
    difference: Interval
    p: float
    p_adjusted: float
    detectable: float


@dataclass(frozen=True)
class Comparison:
    """Everything that is told of several policies.

    Args:
        policies: by name, the start among them.
        length_controlled: by name, by the training reward, lengths in tokens.
        judged: by name, by the judge; empty without one.
        judged_controlled: the same at equal length in characters.
        as_judged: by reward source: how often it orders a pair as the judge does; empty without a judge.
        frontier: names that nobody beats at reward and KL at once.
        pairs: every two policies that are not seeds of each other.
        seeds: by method and point with several seeds: reward gain over seeds and prompts.
        methods: every two methods and points with several seeds each, over their seeds.
        equal_kl: by `a against b`, methods where both moved equally far; without those that share no KL. Adjusted for
            all of them together.
        warnings: of the rewards beside the judge, in plain words; those of a policy are its evaluation's.
    """

    policies: dict[str, Evaluation]
    length_controlled: dict[str, LengthControlled]
    judged: dict[str, Judged]
    judged_controlled: dict[str, LengthControlled]
    as_judged: dict[str, AsJudged]
    frontier: list[str]
    pairs: list[Against]
    seeds: dict[str, Combined]
    methods: list[MethodAgainst]
    equal_kl: dict[str, AtEqualKl]
    warnings: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def compare(
    drawn: Mapping[str, Drawn], config: RunConfig, verdicts: Mapping[str, Verdicts] | None = None
) -> Comparison:
    """Compare policies that were sampled on the same prompts with the same seeds.

    Args:
        drawn: by name; START is the initial policy.
        config: confidence and resamples.
        verdicts: of the judge, by name, against the start.
    """
    settings = config.evaluation
    options: dict[str, Any] = {"confidence": settings.confidence, "samples": settings.bootstrap_samples}
    refits = options | {"samples": min(settings.bootstrap_samples, REFITS)}
    start, others = drawn[START], {name: one for name, one in drawn.items() if name != START}
    found = {name: evaluate(one.rows, start.rows, one.measured, config, one.moved) for name, one in drawn.items()}
    prompts = start.rows.num_rows
    kls = [one.kl_per_response.mean for one in found.values()]
    rewards = [one.reward.mean for one in found.values()]
    told = verdicts or {}
    beside = as_judged({name: one.rows for name, one in others.items()}, start.rows, told, **options)
    return Comparison(
        policies=found,
        length_controlled=length_controlled(
            {name: reward_duel(one.rows, start.rows) for name, one in others.items()}, prompts, **refits
        ),
        judged={name: judged(one.ours_first, one.ours_second, **options) for name, one in told.items()},
        judged_controlled=length_controlled({name: one.duel() for name, one in told.items()}, prompts, **refits),
        as_judged=beside,
        frontier=[name for name, on in zip(found, on_frontier(kls, rewards), strict=True) if on],
        pairs=each_against_each(drawn, options),
        seeds=over_seeds(drawn, settings.confidence),
        methods=method_against_method(drawn, options),
        equal_kl=methods_at_equal_kl(drawn, found, options),
        warnings=misjudged(beside),
    )


def each_against_each(drawn: Mapping[str, Drawn], options: dict[str, Any]) -> list[Against]:
    """Every two policies, the later against the earlier, but for seeds of each other.

    That two seeds differ is no finding; in the family it would cost the others power.
    """
    rows = {name: one.rows["rewards"].to_pylist() for name, one in drawn.items()}
    names = [(later, earlier) for earlier, later in combinations(drawn, 2) if not alike(drawn[later], drawn[earlier])]
    gains = [prompt_means(rows[one]) - prompt_means(rows[other]) for one, other in names]
    p_values = [paired_test(gain) for gain in gains]
    return [
        Against(
            one,
            other,
            mean_interval(gain, **options),
            p,
            adjusted,
            detectable(gain, confidence=options["confidence"]),
            mean_interval(win_shares(rows[one], rows[other]), **options, within=SHARE),
        )
        for (one, other), gain, p, adjusted in zip(names, gains, p_values, holm(p_values), strict=True)
    ]


def alike(one: Drawn, other: Drawn) -> bool:
    """Whether two policies are seeds of each other."""
    return (one.method, one.point) == (other.method, other.point)


def groups(drawn: Mapping[str, Drawn]) -> dict[str, dict[str, list[str]]]:
    """Names of the policies by method and point, the start aside."""
    found: dict[str, dict[str, list[str]]] = {}
    for name, one in drawn.items():
        if name != START:
            found.setdefault(one.method, {}).setdefault(one.point, []).append(name)
    return found


def over_seeds(drawn: Mapping[str, Drawn], confidence: float) -> dict[str, Combined]:
    """Reward gain over the start, where a method has several seeds at one point."""
    before = drawn[START].reward()
    return {
        name: combine_seeds(rewards - before, confidence=confidence)
        for name, rewards in rewards_of_seeds(drawn).items()
    }


def rewards_of_seeds(drawn: Mapping[str, Drawn]) -> dict[str, Floats]:
    """Mean reward of each prompt, [S, P], of each method and point with several seeds."""
    return {
        f"{method} {point}".strip(): np.stack([drawn[name].reward() for name in names])
        for method, points in groups(drawn).items()
        for point, names in points.items()
        if len(names) > 1
    }


def method_against_method(drawn: Mapping[str, Drawn], options: dict[str, Any]) -> list[MethodAgainst]:
    """Every two that have several seeds each, the later against the earlier."""
    rewards = rewards_of_seeds(drawn)
    names = [(later, earlier) for earlier, later in combinations(rewards, 2)]
    found = [difference_over_seeds(rewards[one], rewards[other], **options) for one, other in names]
    return [
        MethodAgainst(one, other, each.seeds, each.interval, each.p, adjusted, each.detectable)
        for (one, other), each, adjusted in zip(names, found, holm([each.p for each in found]), strict=True)
    ]


def methods_at_equal_kl(
    drawn: Mapping[str, Drawn], found: Mapping[str, Evaluation], options: dict[str, Any]
) -> dict[str, AtEqualKl]:
    """Every two methods where the seed that moved least ended; the path of each seed begins at the start.

    Points follow each other as they were given, which is the order of training. The seeds of a point are numbered as
    they were given: the second of every point are one path.
    """

    def point(name: str) -> Point:
        return Point(found[name].kl_per_response.mean, drawn[name].reward())

    paths = {
        method: [
            [point(START), *(point(names[seed]) for names in points.values() if seed < len(names))]
            for seed in range(max(map(len, points.values())))
        ]
        for method, points in groups(drawn).items()
    }
    compared = {
        f"{one} against {other}": at_equal_kl(paths[one], paths[other], **options)
        for one, other in combinations(paths, 2)
    }
    shared = {name: result for name, result in compared.items() if result is not None}
    together = holm([result.p for result in shared.values()])
    return {
        name: replace(result, p_adjusted=adjusted)
        for (name, result), adjusted in zip(shared.items(), together, strict=True)
    }
