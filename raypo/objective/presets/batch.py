"""Losses outside the kernel, and weighted sums of objectives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from raypo.objective.choices import TransformPrior
from raypo.objective.composition import Mixture, Objective
from raypo.objective.presets.anchored import ROWS as ANCHORED
from raypo.objective.presets.row import Hyper, Row, beyond, compose
from raypo.objective.presets.sets import ROWS as SETS

ROWS: dict[str, Row] = {
    "aot": Row(
        meaning="gaps of best and worst, sorted over the step's sets: a stochastic order, not pairs",
        paper="2406.05882",
        equation="paired AOT; TRL 1.16 aot",
        make=lambda p: beyond(p, "aot", couples_sets=True, parameters={"label_smoothing": p["label_smoothing"]}),
        hyperparameters=("label_smoothing",),
    ),
    "aot-unpaired": Row(
        meaning="log-ratios of best and of worst, each sorted over the step's sets",
        paper="2406.05882",
        equation="unpaired AOT; TRL 1.16 aot_unpaired",
        make=lambda p: beyond(
            p, "aot-unpaired", couples_sets=True, parameters={"label_smoothing": p["label_smoothing"]}
        ),
        hyperparameters=("label_smoothing",),
    ),
    "pro": Row(
        meaning="each response against all worse ones, with a temperature per pair, and a likelihood term",
        paper="2306.17492",
        equation="Eq. 7",
        make=lambda p: beyond(p, "pro", parameters={"sft": p["nll"]}, needs_reference=False, needs_scalar_rewards=True),
        hyperparameters=("nll",),
    ),
    "sft": Row(
        meaning="likelihood of the best response, per token; a baseline",
        paper="2203.02155",
        equation="cross-entropy of the best",
        make=lambda p: beyond(p, "sft", needs_reference=False),
    ),
    "cal-dpo": Row(
        meaning="DPO with beta 1, and log-ratios regressed to +-1/(2 beta)",
        paper="2412.14516",
        equation="code 7d16b46",
        make=lambda p: Mixture(
            name=p.name, parts=((1.0, compose(p, name="dpo", beta=1.0)), (0.5, _named(p, "sppo-hard")))
        ),
    ),
    "orpo": Row(
        meaning="likelihood of the best, and the log-odds of best against worst; no reference",
        paper="2403.07691",
        equation="Eq. 6; likelihood over response tokens",
        make=lambda p: Mixture(
            name=p.name,
            parts=(
                (p["odds_weight"], compose(p, name="odds", prior=TransformPrior(transform="odds"))),
                (1.0, beyond(p, "sft", name="sft", needs_reference=False)),
            ),
        ),
        hyperparameters=("odds_weight",),
        defaults={"beta": 1.0},  # the paper has none: its lambda is odds_weight
    ),
    "mixed-po": Row(
        meaning="0.8 DPO + 0.2 BCO + 1 likelihood: what TRL calls MPO",
        paper="2411.10442",
        equation="TRL: sigmoid, bco_pair, sft",
        make=lambda p: Mixture(
            name=p.name,
            parts=(
                (0.8, compose(p, name="dpo")),
                (0.2, _named(p, "bco-pair")),
                (1.0, beyond(p, "sft", name="sft", needs_reference=False)),
            ),
        ),
    ),
    "refa-eos": Row(
        meaning="REFA with its penalty on ending a response shorter than the set's longest",
        paper="2412.16378",
        equation="R_target",
        make=lambda p: _refa(p, "eos-target"),
        hyperparameters=("negative_weight", "eos_weight"),
    ),
    "refa-eos-independent": Row(
        meaning="REFA with its reward of ending responses",
        paper="2412.16378",
        equation="R_indep",
        make=lambda p: _refa(p, "eos-independent"),
        hyperparameters=("negative_weight", "eos_weight"),
    ),
    "refa-eos-budget": Row(
        meaning="REFA with its penalty on stopping before a budget of tokens and its reward of stopping after",
        paper="2412.16378",
        equation="R_budget",
        make=lambda p: _refa(p, "eos-budget", ("eos_before", "eos_after"), {"budget": p["eos_budget"]}),
        hyperparameters=("negative_weight", "eos_weight", "eos_budget"),
    ),
}


def _named(p: Hyper, name: str) -> Objective:
    """Another row as a part, under its own name."""
    part = (ANCHORED | SETS)[name].make(p)
    assert isinstance(part, Objective)  # both tables hold nothing else
    return replace(part, name=name)


def _refa(
    p: Hyper,
    loss: str,
    terms: tuple[str, ...] = ("eos_logps", "ended"),
    parameters: Mapping[str, float] = MappingProxyType({}),
) -> Mixture:
    end = beyond(p, loss, name=loss, needs_reference=False, terms=terms, parameters=parameters)
    return Mixture(name=p.name, parts=((1.0, _named(p, "refa")), (p["eos_weight"], end)))
