"""The four choices as data: combined by hand, replaced in a preset, and refused where they mean nothing."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
from examples import NAMES, inputs, objective

from raypo.config import HYPERPARAMETER_DEFAULTS
from raypo.errors import ConfigError
from raypo.objective import Contrast, LinearPrior, Link, Mixture, Objective, TokenPrior, TransformPrior, set_loss
from raypo.objective.choices import CONTRASTS, LINKS, TRANSFORMS
from raypo.objective.contrast import BUILDERS
from raypo.objective.domains import HYPERPARAMETERS
from raypo.objective.link import LINKS as LINK_FUNCTIONS
from raypo.objective.overrides import override
from raypo.objective.presets import TABLE, hyperparameters
from raypo.objective.prior import TRANSFORMS as TRANSFORM_FUNCTIONS

LOGISTIC = Link(kind="logistic", parameters={"label_smoothing": 0.0})


def made(**choices: Any) -> Objective:
    """DPO with some choices replaced."""
    plain: dict[str, Any] = {
        "name": "mine",
        "prior": LinearPrior(),
        "dispersion": "none",
        "contrast": Contrast(kind="best-vs-worst"),
        "link": LOGISTIC,
        "beta": 0.1,
    }
    return Objective(**plain | choices)


@pytest.mark.parametrize(
    ("named", "functions"), [(CONTRASTS, BUILDERS), (LINKS, LINK_FUNCTIONS), (TRANSFORMS, TRANSFORM_FUNCTIONS)]
)
def test_names_and_parameters_are_those_of_the_functions(named: dict[str, Any], functions: dict[str, Any]) -> None:
    """What a plan checks without torch is what the functions take: their keyword-only arguments."""
    found = {
        name: {p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY}
        for name, function in functions.items()
    }
    assert {name: set(parameters) for name, parameters in named.items()} == found


PAIRED = Contrast(kind="anchored", parameters={"chosen_weight": 1, "rejected_weight": 1})
SHARES: dict[str, Any] = {"kind": "infonca", "parameters": {"temperature": 1.0}}
POSITIVE = TransformPrior(transform="positive", parameters={"penalty": 1.0})
SMOOTHED = Link(kind="logistic", parameters={"label_smoothing": 0.1})
CHAIN = Contrast(kind="plackett-luce")
NOTHING = {"chosen_weight": 0.0, "rejected_weight": 0.0}
PHI, PSI_SCORE = Link(kind="phi"), "score"


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        ({"dispersion": "score", "link": PHI}, "act twice"),
        ({"dispersion": "link"}, "exactly one place"),
        ({"contrast": Contrast(kind="above-mean", keep=2)}, "keep = 2 without a selection"),
        ({"contrast": Contrast(kind="all-pairs", offset_scale=0.5)}, "offset_scale = 0.5 without an offset"),
        ({"contrast": Contrast(kind="above-mean", power=2)}, "power = 2 without deviations"),
        ({"contrast": Contrast(kind="one-vs-rest", inside_beta=True)}, "inside_beta without deviations"),
        ({"prior": TokenPrior(weights="importance", tail=0.5)}, "tail = 0.5 with weights 'importance'"),
        ({"contrast": Contrast(**SHARES, offset=3.0)}, "an offset with contrast 'infonca'"),
        ({"contrast": Contrast(**SHARES, pool="logmeanexp")}, "pool 'logmeanexp' with contrast 'infonca'"),
        ({"contrast": Contrast(**SHARES, deviation="abs"), "alpha": 1.0}, "deviations with contrast 'infonca'"),
        ({"contrast": Contrast(**SHARES), "prior": LinearPrior(h=20.0)}, "a home advantage in the prior"),
        ({"contrast": Contrast(**SHARES), "prior": POSITIVE}, "a prior that differs by role"),
        ({"contrast": Contrast(**SHARES), "confidence": "plain"}, "weights by confidence"),
        (
            {"contrast": Contrast(**SHARES), "prior": TokenPrior(weights="importance")},
            "token weights by importance with contrast 'infonca'",
        ),
        ({"contrast": Contrast(**SHARES), "link": SMOOTHED}, "label smoothing with contrast 'infonca'"),
        ({"contrast": CHAIN, "prior": LinearPrior(h=0.1)}, "a home advantage in the prior in the Plackett-Luce chain"),
        ({"contrast": CHAIN, "confidence": "bounded"}, "weights by confidence in the Plackett-Luce chain"),
        ({"contrast": Contrast(kind="anchored", parameters=NOTHING)}, "all weights 0"),
        ({"link": Link(kind="hinge", parameters={"threshold": 0.0})}, "every margin is 0"),
        ({"contrast": Contrast(kind="above-mean"), "link": Link(kind="cauchy")}, "made of counting"),
        ({"contrast": Contrast(kind="plackett-luce", deviation="abs"), "alpha": 1.0}, "likelihood of the ranking"),
        (
            {
                "contrast": Contrast(
                    kind="anchored", parameters={"chosen_weight": 1, "rejected_weight": 1}, deviation="abs"
                )
            },
            "its deviation is 0",
        ),
        (
            {
                "contrast": Contrast(kind="anchored-all", parameters={"temperature": 1.0}),
                "dispersion": "link",
                "link": PHI,
            },
            "a constant has no place",
        ),
        ({"link": Link(kind="soft-exo")}, "term by term"),
        ({"anchor": "running-mean"}, "cancel a constant"),
        ({"contrast": PAIRED, "anchor": "running-mean", "dispersion": "score"}, "scale only one side"),
        ({"contrast": PAIRED, "anchor": "mismatched-pairs", "prior": LinearPrior(eta=1)}, "in its units"),
        ({"prior": TokenPrior(kl=1.0, penalty=0.5)}, "what nothing trains is a constant"),
        ({"prior": TokenPrior(weights="learned-mask", masks="independent")}, "the second mask weighs the KL"),
        ({"contrast": Contrast(kind="above-mean", reward_offset="log", offset_scale=1.0)}, "that of two responses"),
        ({"contrast": Contrast(kind="best-vs-worst", select="bottom", keep=2)}, "more than two"),
        ({"contrast": Contrast(kind="one-vs-rest", select="bottom")}, "keep >= 1"),
        ({"prior": LinearPrior(b=0), "reference": "moving"}, "reads none"),
        ({"beta": 0.0}, "beta = 0.0.*\n.*above 0"),
        ({"alpha": -1.0}, "at least 0"),
        ({"nll": -1.0}, "at least 0"),
        ({"link": Link(kind="robust", parameters={"label_smoothing": 0.5})}, "less than nothing"),
        ({"link": Link(kind="logistic", parameters={"label_smoothing": 0.7})}, "less than nothing"),
        ({"contrast": Contrast(kind="above-mean", deviation="Signed"), "alpha": 1.0}, "one of none, abs, signed"),  # type: ignore[arg-type]
        ({"contrast": Contrast(kind="above-mean", pool="mean")}, "one of logsumexp, logmeanexp"),  # type: ignore[arg-type]
        ({"contrast": Contrast(kind="above-mean", power=3)}, "one of 1, 2"),  # type: ignore[arg-type]
        ({"contrast": Contrast(kind="one-vs-rest", select="bogus", keep=1)}, "one of none, bottom"),  # type: ignore[arg-type]
        ({"contrast": Contrast(kind="infonca", parameters={"temperature": -1})}, "worst response has the largest"),
        ({"contrast": Contrast(kind="levels", parameters={"levels": 1})}, "a whole number, at least 2"),
        ({"contrast": Contrast(kind="top-vs-bottom", parameters={"top": 0, "bottom": 2})}, "at least 1"),
        ({"link": Link(kind="squared", parameters={"target_margin": 0.5, "scale": 0})}, "scale = 0"),
        ({"link": Link(kind="discopop", parameters={"temperature": -1})}, "temperature = -1"),
        ({"link": Link(kind="discopop", parameters={"temperature": 1.5})}, "grows without bound"),
        ({"contrast": Contrast(kind="above-mean"), "prior": TokenPrior(weights="importance")}, "only the best and the"),
        ({"link": Link(kind="clipped-logistic", parameters={"bound": -1})}, "bound = -1"),
        ({"link": Link(kind="exo", parameters={"label_smoothing": 0})}, "its logarithm enters"),
        ({"prior": LinearPrior(a=0)}, "the policy would not enter"),
        ({"prior": LinearPrior(b="one")}, "b = 'one'"),  # type: ignore[arg-type]
        ({"prior": TokenPrior(weights="bogus")}, "one of none, length-desensitized"),  # type: ignore[arg-type]
        ({"alpha": float("nan")}, "alpha = nan"),
        ({"link": Link(kind="logistics")}, "one of logistic"),
        ({"link": Link(kind="hinge")}, "exactly threshold"),
        ({"contrast": Contrast(kind="levels")}, "exactly levels"),
        ({"prior": TransformPrior(transform="cubic")}, "one of reverse-kl"),
    ],
)
def test_what_means_nothing_is_refused_with_the_reason(choices: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        made(**choices)


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        ({"prior": {"kind": "linear", "a": "foo"}}, "a = 'foo'"),
        ({"prior": {"kind": "token", "weights": "bogus"}}, "one of none"),
        ({"contrast": {"kind": "above-mean", "deviation": "signed"}}, "start from preset w-mpo"),
        ({"contrast": {"kind": "above-mean", "pool": "foo"}}, "one of logsumexp"),
    ],
)
def test_an_override_that_means_nothing_is_refused_and_not_read_as_something_else(
    choices: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        override(objective("dpo"), choices)


def test_every_hyperparameter_of_the_table_has_a_domain_and_its_default_lies_in_it() -> None:
    taken = {name for row in TABLE for name in hyperparameters(row)}
    assert taken == set(HYPERPARAMETERS)
    assert [name for name in taken if HYPERPARAMETER_DEFAULTS[name] not in HYPERPARAMETERS[name]] == []


def test_a_phi_link_over_chosen_by_rejected_pairs_with_a_transformed_prior_is_four_words() -> None:
    """Combined by hand and by overrides of a preset: the same loss, ln 2 at the start."""
    ours = override(
        objective("dpo"),
        {"prior": "jensen-shannon", "dispersion": "link", "contrast": "chosen-by-rejected", "link": "phi"},
    )
    theirs = made(
        prior=TransformPrior(transform="jensen-shannon"),
        dispersion="link",
        contrast=Contrast(kind="chosen-by-rejected"),
        link=PHI,
    )
    given = inputs([[-4.0, -6.0, -5.0]], [[3.0, 1.0, 2.0]])
    assert set_loss(ours, **given).loss.item() == set_loss(theirs, **given).loss.item()
    start = set_loss(ours, **inputs([[-5.0] * 3], [[3.0, 1.0, 2.0]])).loss.item()
    assert start == pytest.approx(math.log(2), abs=1e-12)


def test_overrides_take_parameters_and_keep_what_is_not_named() -> None:
    found = override(
        objective("w-mpo", alpha=0.3),
        {"contrast": {"kind": "levels", "levels": 4, "deviation": "signed"}, "prior": {"kind": "linear", "eta": 1}},
    )
    assert isinstance(found, Objective)
    assert (found.alpha, found.prior, found.link) == (0.3, LinearPrior(eta=1), LOGISTIC)
    assert found.contrast == Contrast(kind="levels", parameters={"levels": 4}, deviation="signed")
    assert found.name.startswith("w-mpo with contrast levels")


@pytest.mark.parametrize(
    ("name", "choices", "told"),
    [
        ("dpo", {"link": "logistics"}, "one of logistic"),
        ("dpo", {"link": {"threshold": 1.0}}, "mapping with `kind`"),
        ("dpo", {"contrast": {"kind": "levels", "level": 3}}, "objective.contrast.level"),
        ("dpo", {"prior": "quadratic"}, "one of linear"),
        ("dpo", {"prior": {"kind": "linear", "etta": 1}}, "objective.prior.etta"),
        ("dpo", {"dispersion": "score", "link": "phi"}, "act twice"),
        ("cal-dpo", {"link": "hinge"}, "sum of several"),
    ],
)
def test_overrides_that_mean_nothing_are_refused(name: str, choices: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        override(objective(name), choices)


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_says_what_it_needs(name: str) -> None:
    """Of four kinds; a live reference only where logits, hidden states or a moving reference are read."""
    chosen = objective(name)
    assert chosen.needs in ("sums", "token-logps", "reference-logits", "reference-hidden-states")
    live = {
        "tdpo1",
        "tdpo2",
        "sparsepo",
        "sparsepo-independent",
        "mapo",
        "tr-dpo",
        "learned-prior",
        "kto",
        "ampo-coreset",
        "ampo-opt-select",
    }
    assert chosen.needs.startswith("reference-") == (name in live)
    # embeddings choose responses, and the loss is measured against what was annotated
    assert chosen.measures_live == (name in live - {"ampo-coreset", "ampo-opt-select"})


MIXED = [
    (("bco", "kto"), "two parts against an anchor that moves"),
    (("refa-eos-budget", "refa-eos-budget"), "two parts with a budget of tokens"),
    (("tdpo1", "ld-dpo"), "two parts with token priors"),
    (("tr-dpo", "dpo"), "tr-dpo with a moving reference and dpo with a frozen one"),
    (("w-mpo", "kto"), "no data would train both"),
    (("dpo", "bco"), "bco first: its anchor is the running mean"),
]


@pytest.mark.parametrize(
    ("names", "told"), MIXED, ids=lambda value: value if isinstance(value, str) else "+".join(value)
)
def test_a_sum_whose_parts_ask_for_two_things_where_a_run_has_one_is_refused(names: tuple[str, str], told: str) -> None:
    parts = tuple((1.0, part) for name in names for _, part in objective(name).parts)
    with pytest.raises(ConfigError, match=told):
        Mixture(name="mine", parts=parts)


def test_a_moving_reference_beside_a_part_that_reads_none_is_a_sum() -> None:
    mixed = Mixture(name="mine", parts=((1.0, objective("tr-dpo")), (0.5, objective("sft"))))
    assert (mixed.reference, mixed.needs) == ("moving", "reference-logits")


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf, "1", None, True])
def test_a_weight_of_a_sum_is_a_number_above_0(weight: Any) -> None:
    with pytest.raises(ConfigError, match=r"mine: weight .* of dpo"):
        Mixture(name="mine", parts=((weight, objective("dpo")),))


def test_a_sum_is_no_part_of_a_sum() -> None:
    with pytest.raises(ConfigError, match="a part that is Mixture"):
        Mixture(name="mine", parts=((1.0, objective("cal-dpo")),))
