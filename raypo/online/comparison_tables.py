"""A comparison of policies as tables, for the terminal and for its page: from the figures of evaluation.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.table import Column, Table

from raypo.evaluation.comparison import START

MEANINGS = {
    "gain": "reward less the start's on the same prompts with the same seeds",
    "detectable": "least true effect that would have been found four times in five; none: no effect would have been",
    "win rate": "share of pairs won against the start, or against the other policy; ties half",
    "at equal length": "the same if responses were as long as the start's, by the regression of AlpacaEval 2",
    "p (Holm)": "p-value for all comparisons of its table together; p: of one by itself",
    "KL": "to the start, nats per response",
    "cut off": "share of responses that met the length limit",
    "chosen shift": "log-ratio to the start of its best response to each prompt, nats; rejected shift: of its worst",
    "saturated": "share of prompts whose margin between the two leaves the loss less than 2 % of its gradient",
    "distinct-n": "distinct runs of n tokens over all of them, within a prompt",
    "reward by length": "rank correlation of reward and length over responses",
    "tied": "share of pairs of responses to one prompt with equal reward",
}
JUDGED = {
    "position bias": "how much more often the first place wins than one half",
    "turned": "share of pairs whose winner is another one in the other order",
    "logits per unit": "of the judge's preference, by reward difference; 1: it is log-odds, below 1 it is too sure",
}
"""Of a comparison with a judge."""

NOTHING = "-"


@dataclass(frozen=True)
class Sheet:
    """A table as texts.

    Args:
        title: a sentence above it.
        heads: of its columns.
        rows: a text per column, each.
    """

    title: str
    heads: list[str]
    rows: list[list[str]] = field(default_factory=list)

    def drawn(self) -> Table:
        """For the terminal; cells break where it is narrow."""
        columns = (Column(head, overflow="fold") for head in self.heads)
        table = Table(*columns, title=self.title, box=None, title_justify="left")
        for row in self.rows:
            table.add_row(*row)
        return table


def figure(interval: Mapping[str, float], digits: int = 3) -> str:
    """`0.412 [0.380, 0.441]`; without bounds where there are none, and `-` for what is not known."""
    mean, low, high = interval["mean"], interval["low"], interval["high"]
    if math.isnan(mean):
        return NOTHING
    return f"{mean:.{digits}f}" + ("" if math.isnan(low) else f" [{low:.{digits}f}, {high:.{digits}f}]")


def number(value: float, form: str) -> str:
    """A number without an interval in a format such as `.2g`; `-` for one that is not known."""
    return NOTHING if math.isnan(value) else format(value, form)


def least(detectable: float) -> str:
    """`0.041`; `none` where no effect would have been found."""
    return "none" if math.isnan(detectable) else f"{detectable:.3f}"


def meanings(found: Mapping[str, Any]) -> list[str]:
    """What the tables' heads mean, a line each."""
    return [f"{head}: {told}" for head, told in (MEANINGS | (JUDGED if found["judged"] else {})).items()]


def sheets(found: Mapping[str, Any], confidence: float) -> list[Sheet]:
    """All tables of a comparison.

    Args:
        found: as of `Comparison.to_dict`.
        confidence: of its intervals.
    """
    made = [by_reward(found, confidence), responses(found), probability(found)]
    if found["judged"]:
        made += [by_judge(found), beside_judge(found)]
    return [*made, *over_seeds(found), *against_each_other(found)]


def by_reward(found: Mapping[str, Any], confidence: float) -> Sheet:
    """Reward, gain and win rates of each policy; of the start beside itself they would say nothing."""
    title = f"held-out prompts, {confidence:.0%} intervals over prompts; * nobody is better at reward and KL at once"
    heads = ["policy", "reward", "gain", "p", "detectable", "win rate", "p", "at equal length", "p"]
    made = Sheet(title, heads)
    for name, one in found["policies"].items():
        row = [name + (" *" if name in found["frontier"] else ""), figure(one["reward"])]
        if name == START:
            made.rows.append([*row, *[NOTHING] * (len(heads) - 2)])
            continue
        fair = found["length_controlled"][name]
        row += [figure(one["reward_gain"]), number(one["reward_gain_p"], ".2g"), least(one["reward_gain_detectable"])]
        row += [figure(one["reward_win_rate"]), number(one["reward_win_rate_p"], ".2g")]
        made.rows.append([*row, figure(fair["controlled"]), number(fair["p"], ".2g")])
    return made


def responses(found: Mapping[str, Any]) -> Sheet:
    """How far each policy moved, and what its responses are like."""
    made = Sheet(
        "what the responses are like", ["policy", "KL", "tokens", "cut off", "self-similarity", "entropy per token"]
    )
    for name, one in found["policies"].items():
        made.rows.append(
            [
                name,
                figure(one["kl_per_response"], 2),
                figure(one["length"], 1),
                figure(one["truncated"], 2),
                figure(one["self_similarity"]),
                figure(one["entropy_per_token"]),
            ]
        )
    return made


def probability(found: Mapping[str, Any]) -> Sheet:
    """Where probability went from the start's own responses, on which the start itself did not move; how texts read."""
    heads = ["policy", "chosen shift", "rejected shift", "saturated", "distinct-1", "distinct-2", "distinct-3"]
    made = Sheet("where probability went, and how texts read", [*heads, "reward by length", "tied"])
    for name, one in found["policies"].items():
        moved = [
            NOTHING if one[key] is None else figure(one[key], digits)
            for key, digits in (("chosen_shift", 2), ("rejected_shift", 2), ("saturated", 3))
        ]
        varied = [figure(one["distinct_within"][n]) for n in ("1", "2", "3")]
        made.rows.append([name, *moved, *varied, figure(one["length_correlation"], 2), figure(one["tie_rate"])])
    return made


def by_judge(found: Mapping[str, Any]) -> Sheet:
    """Win rates by the judge, and how far it can be trusted."""
    heads = ["policy", "win rate", "p", "detectable", "at equal length", "p"]
    made = Sheet("against the start, by the judge", [*heads, "ties", "position bias", "turned", "unanswered"])
    for name, told in found["judged"].items():
        fair = found["judged_controlled"][name]
        rates = [figure(told["win_rate"]), number(told["p"], ".2g"), least(told["detectable"])]
        rates += [figure(fair["controlled"]), number(fair["p"], ".2g")]
        itself = [figure(told["tie_rate"], 2), figure(told["position_bias"]), figure(told["turned"], 2)]
        made.rows.append([name, *rates, *itself, number(told["unanswered"], ".0%")])
    return made


def beside_judge(found: Mapping[str, Any]) -> Sheet:
    """How far each reward says what the judge says."""
    made = Sheet(
        "the rewards beside the judge",
        ["reward", "pairs ordered as the judge does", "logits per unit", "calibration error", "pairs decided"],
    )
    for name, one in found["as_judged"].items():
        told = [figure(one["right"]), figure(one["slope"], 2), number(one["error"], ".3f")]
        if not one["pairs"]:
            told = ["none decided", NOTHING, NOTHING]
        elif math.isnan(one["slope"]["mean"]):
            told[1:] = ["tells none apart", NOTHING]
        made.rows.append([name, *told, str(one["pairs"])])
    return made


def over_seeds(found: Mapping[str, Any]) -> list[Sheet]:
    """Methods with several seeds: against the start, and against each other."""
    alone = Sheet(
        "gain over the start, over seeds and prompts", ["method", "seeds", "gain", "p", "detectable", "spread of seeds"]
    )
    for method, both in found["seeds"].items():
        told = [figure(both["interval"]), number(both["p"], ".2g"), least(both["detectable"])]
        alone.rows.append([method, str(both["seeds"]), *told, number(both["seed_spread"], ".3f")])
    apart = Sheet("methods over their seeds", ["methods", "seeds", "difference", "p (Holm)", "detectable"])
    for one in found["methods"]:
        told = [f"{one['one']} - {one['other']}", counted(one["seeds"]), figure(one["difference"])]
        apart.rows.append([*told, number(one["p_adjusted"], ".2g"), least(one["detectable"])])
    return [sheet for sheet in (alone, apart) if sheet.rows]


def against_each_other(found: Mapping[str, Any]) -> list[Sheet]:
    """Every two policies, and every two methods where both moved equally far."""
    pairs = Sheet("one policy against another", ["policies", "difference", "p (Holm)", "detectable", "win rate"])
    for pair in found["pairs"]:
        told = [f"{pair['one']} - {pair['other']}", figure(pair["difference"]), number(pair["p_adjusted"], ".2g")]
        pairs.rows.append([*told, least(pair["detectable"]), figure(pair["win_rate"])])
    equal = Sheet("methods at equal KL", ["methods", "seeds", "KL", "difference", "p (Holm)", "detectable"])
    for name, one in found["equal_kl"].items():
        told = [name, counted(one["seeds"]), number(one["kl"], ".2f"), figure(one["difference"])]
        equal.rows.append([*told, number(one["p_adjusted"], ".2g"), least(one["detectable"])])
    return [pairs, *([equal] if equal.rows else [])]


def counted(seeds: tuple[int, int]) -> str:
    """Seeds of two methods: `3`, or `3, 2` where they are not as many."""
    return str(seeds[0]) if seeds[0] == seeds[1] else f"{seeds[0]}, {seeds[1]}"
