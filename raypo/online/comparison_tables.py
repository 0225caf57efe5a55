"""A comparison of policies as tables for the terminal."""

from __future__ import annotations

import math

from rich.table import Column, Table

from raypo.evaluation.comparison import Comparison
from raypo.evaluation.intervals import Interval


def figure(interval: Interval, digits: int = 3) -> str:
    """`0.412 [0.380, 0.441]`; without bounds where there are none."""
    if math.isnan(interval.low):
        return f"{interval.mean:.{digits}f}"
    return f"{interval.mean:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def least(detectable: float) -> str:
    """`0.041`; `none` where no effect would have been found."""
    return "none" if math.isnan(detectable) else f"{detectable:.3f}"


def folded(*heads: str, title: str | None = None) -> Table:
    """An empty table whose cells break where the terminal is narrow."""
    columns = (Column(head, overflow="fold") for head in heads)
    return Table(*columns, title=title, box=None, title_justify="left")


def shown(found: Comparison, confidence: float) -> list[Table]:
    """Tables for the terminal; "detectable" is the least true effect that would have been found four times in five."""
    made = [by_reward(found, confidence), responses(found)]
    if found.judged:
        made += [by_judge(found), beside_judge(found)]
    if found.seeds:
        table = folded("method", "seeds", "gain over seeds and prompts", "p", "detectable", "spread of seeds")
        for method, both in found.seeds.items():
            gain, spread = figure(both.interval), f"{both.seed_spread:.3f}"
            table.add_row(method, str(both.seeds), gain, f"{both.p:.2g}", least(both.detectable), spread)
        made.append(table)
    if found.methods:
        table = folded("over seeds", "seeds", "difference", "p (Holm)", "detectable")
        for one in found.methods:
            told = [f"{one.one} - {one.other}", counted(one.seeds), figure(one.difference)]
            table.add_row(*told, f"{one.p_adjusted:.2g}", least(one.detectable))
        made.append(table)
    pairs = folded("one against another", "difference", "p (Holm)", "detectable", "win rate")
    for pair in found.pairs:
        told = [f"{pair.one} - {pair.other}", figure(pair.difference), f"{pair.p_adjusted:.2g}"]
        pairs.add_row(*told, least(pair.detectable), figure(pair.win_rate))
    made.append(pairs)
    if found.equal_kl:
        table = folded("at equal KL", "seeds", "KL", "difference", "p (Holm)", "detectable")
        for name, equal in found.equal_kl.items():
            told = [name, counted(equal.seeds), f"{equal.kl:.2f}", figure(equal.difference)]
            table.add_row(*told, f"{equal.p_adjusted:.2g}", least(equal.detectable))
        made.append(table)
    return made


def counted(seeds: tuple[int, int]) -> str:
    """Seeds of two methods: `3`, or `3, 2` where they are not as many."""
    return str(seeds[0]) if seeds[0] == seeds[1] else f"{seeds[0]}, {seeds[1]}"


def by_reward(found: Comparison, confidence: float) -> Table:
    """Reward, gain and win rates of each policy."""
    title = f"held-out prompts, {confidence:.0%} intervals over prompts; * nobody is better at reward and KL at once"
    heads = ["policy", "reward", "gain", "p", "detectable", "win rate", "p", "at equal length", "p"]
    table = folded(*heads, title=title)
    for name, one in found.policies.items():
        fair = found.length_controlled.get(name)
        table.add_row(
            name + (" *" if name in found.frontier else ""),
            figure(one.reward),
            figure(one.reward_gain),
            f"{one.reward_gain_p:.2g}",
            least(one.reward_gain_detectable),
            figure(one.reward_win_rate),
            f"{one.reward_win_rate_p:.2g}",
            *(["", ""] if fair is None else [figure(fair.controlled), f"{fair.p:.2g}"]),
        )
    return table


def responses(found: Comparison) -> Table:
    """How far each policy moved, and what its responses are like."""
    table = folded("policy", "KL", "tokens", "cut off", "self-similarity", "entropy per token")
    for name, one in found.policies.items():
        table.add_row(
            name,
            figure(one.kl_per_response, 2),
            figure(one.length, 1),
            figure(one.truncated, 2),
            figure(one.self_similarity),
            figure(one.entropy_per_token),
        )
    return table


def by_judge(found: Comparison) -> Table:
    """Win rates by the judge, and how far it can be trusted."""
    heads = ["by the judge", "win rate", "p", "detectable", "at equal length", "p"]
    table = folded(*heads, "ties", "position bias", "turned", "unanswered")
    for name, told in found.judged.items():
        fair = found.judged_controlled[name]
        rates = [
            figure(told.win_rate),
            f"{told.p:.2g}",
            least(told.detectable),
            figure(fair.controlled),
            f"{fair.p:.2g}",
        ]
        itself = [figure(told.tie_rate, 2), figure(told.position_bias), figure(told.turned, 2)]
        table.add_row(name, *rates, *itself, f"{told.unanswered:.0%}")
    return table


def beside_judge(found: Comparison) -> Table:
    """How far each reward says what the judge says."""
    table = folded("reward", "pairs ordered as the judge does", "logits per unit", "calibration error", "pairs")
    for name, one in found.as_judged.items():
        if not one.pairs:
            table.add_row(name, "none decided", "", "", "0")
            continue
        table.add_row(name, figure(one.right), figure(one.slope, 2), f"{one.error:.3f}", str(one.pairs))
    return table
