"""A comparison of policies as tables for the terminal."""

from __future__ import annotations

from rich.table import Column, Table

from raypo.evaluation.comparison import Comparison
from raypo.evaluation.statistics import Interval


def figure(interval: Interval) -> str:
    """`0.412 [0.380, 0.441]`."""
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def shown(found: Comparison, confidence: float) -> list[Table]:
    """Tables for the terminal."""
    title = f"held-out prompts, {confidence:.0%} intervals over prompts; * nobody is better at reward and KL at once"
    heads = ["policy", "reward", "gain", "p", "win rate", "at equal length", "KL", "tokens", "self-similarity"]
    whole = Table(*(Column(head, overflow="fold") for head in heads), title=title, box=None, title_justify="left")
    for name, one in found.policies.items():
        fair = found.length_controlled.get(name)
        whole.add_row(
            name + (" *" if name in found.frontier else ""),
            figure(one.reward),
            figure(one.reward_gain),
            f"{one.reward_gain_p:.2g}",
            figure(one.reward_win_rate),
            "" if fair is None else figure(fair.controlled),
            f"{one.kl_per_response.mean:.2f}",
            f"{one.length.mean:.1f}",
            f"{one.self_similarity.mean:.3f}",
        )
    made = [whole]
    if found.judged:
        heads = ["by the judge", "win rate", "p", "at equal length", "ties", "position bias", "turned", "unanswered"]
        table = Table(*(Column(head, overflow="fold") for head in heads), box=None)
        for name, told in found.judged.items():
            fair = found.judged_controlled[name]
            figures = [figure(told.win_rate), f"{told.p:.2g}", figure(fair.controlled), f"{told.tie_rate.mean:.2f}"]
            figures += [figure(told.position_bias), f"{told.turned.mean:.2f}", f"{told.unanswered:.0%}"]
            table.add_row(name, *figures)
        made.append(table)
    if found.seeds:
        table = Table("method", "seeds", "gain over seeds and prompts", "p", "spread of seeds", box=None)
        for method, combined in found.seeds.items():
            gain = figure(combined.interval)
            table.add_row(method, str(combined.seeds), gain, f"{combined.p:.2g}", f"{combined.seed_spread:.3f}")
        made.append(table)
    pairs = Table("one against another", "difference", "p (Holm)", "detectable", "win rate", box=None)
    for pair in found.pairs:
        names = f"{pair.one} - {pair.other}"
        pairs.add_row(
            names, figure(pair.difference), f"{pair.p_adjusted:.2g}", f"{pair.detectable:.3f}", figure(pair.win_rate)
        )
    made.append(pairs)
    for name, equal in found.equal_kl.items():
        table = Table("at equal KL", "KL", "difference", "p", box=None)
        table.add_row(name, f"{equal.kl:.2f}", figure(equal.difference), f"{equal.p:.2g}")
        made.append(table)
    return made
