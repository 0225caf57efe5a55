"""raypo's objectives against TRL 1.16's own losses, per example, values and gradients to 1e-6.

    uv run --extra cpu --group parity pytest -m trl

Without the dependency group these modules are skipped. Compared here: for the pairs of TRL's own dataset and collator,
each alone and, where a batch is the mean over its pairs, all together, the loss that TRL's own trainer computes and its
derivative by each token's log-prob, or each logit, in float64, against `set_loss` at the same numbers. Whole steps
are in `test_trl_steps`. Where the two differ on purpose, a row of `DIFFERENT` says why and what makes them equal.

TRL 1.16 has no BCO trainer: `bco-pair` is what the two share, `bco` needs a running mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from compare import Labelled, Logits, Pairs
from torch import Tensor

from raypo.objective import AnyObjective, Link, preset

pytest.importorskip("trl", minversion="1.16", reason="TRL is not here: the dependency group parity brings it")
pytestmark = pytest.mark.trl

BETA = 0.3
ALL = [0, 1, 2, 3]


def objective(name: str, **hyper: float) -> Any:
    return preset(name, **({"beta": BETA} | hyper))


def ids(case: Any) -> str:
    told = " ".join(f"{key}={value}" for key, value in case.trl.items()) or "default"
    return f"{told} is {case.name}"


@dataclass(frozen=True)
class Case:
    """One row: TRL's config and a preset with its hyperparameters."""

    trl: dict[str, Any]
    name: str
    hyper: dict[str, float] = field(default_factory=dict)
    policy: dict[str, Any] = field(default_factory=dict)
    alone: bool = False  # TRL's value for a batch is no mean over its pairs: its likelihood is a mean over tokens

    @property
    def objective(self) -> AnyObjective:
        return objective(self.name, **self.hyper)


MIXED = {"loss_type": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]}
ALPHA = {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.4}

DPO = [
    Case({"loss_type": "sigmoid"}, "dpo", {"label_smoothing": 0.0}),
    Case({"loss_type": "robust", "label_smoothing": 0.2}, "robust", {"flip_rate": 0.2}),
    Case({"loss_type": "hinge"}, "hinge"),
    Case({"loss_type": "ipo"}, "ipo-mean"),  # and `ipo` is a row of DIFFERENT
    Case({"loss_type": "exo_pair", "label_smoothing": 1e-3}, "exo", {"smoothing": 1e-3}),
    # hard labels: at this temperature the best has all the weight
    Case({"loss_type": "nca_pair"}, "nca", {"temperature": 0.01}),
    Case({"loss_type": "bco_pair"}, "bco-pair"),
    Case({"loss_type": "sppo_hard"}, "sppo-hard"),
    # numbers at which policy and reference rank the pairs' gaps differently: else paired AOT is DPO
    Case({"loss_type": "aot"}, "aot", {"label_smoothing": 0.0}, policy={"seed": 3}),
    Case({"loss_type": "aot", "label_smoothing": 0.2}, "aot", {"label_smoothing": 0.2}, policy={"seed": 3}),
    Case({"loss_type": "aot_unpaired"}, "aot-unpaired", {"label_smoothing": 0.0}),
    Case({"loss_type": "aot_unpaired", "label_smoothing": 0.2}, "aot-unpaired", {"label_smoothing": 0.2}),
    Case({"loss_type": "apo_zero"}, "apo-zero"),
    Case({"loss_type": "apo_down"}, "apo-down"),
    Case({"loss_type": "discopop"}, "discopop", {"tau": 0.05}),
    Case({"loss_type": "discopop", "discopop_tau": 0.6}, "discopop", {"tau": 0.6}),
    Case({"loss_type": "sigmoid_norm"}, "ln-dpo"),
    Case({"loss_type": "sft"}, "sft", alone=True),
    Case({"f_divergence_type": "forward_kl"}, "f-dpo-forward-kl"),
    Case({"f_divergence_type": "js_divergence"}, "f-dpo-js"),
    Case(ALPHA, "f-dpo-alpha", {"order": 0.4}, {"dtype": torch.float32}),  # TRL takes no float64 there
    Case({"ld_alpha": 0.5}, "ld-dpo", {"tail": 0.5}),
    Case({"ld_alpha": 0.0}, "ld-dpo", {"tail": 0.0}),
    Case({"use_weighting": True}, "wpo"),  # weights below 1; above is a row of DIFFERENT
    Case({"use_weighting": True}, "wpo-plain"),
    Case({"use_weighting": True}, "wpo-plain", policy={"log_square_sum": -2.5}),
    Case(MIXED, "mixed-po", alone=True),
    Case({"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.7]}, "rpo", {"nll": 0.7}, alone=True),
]


@pytest.mark.parametrize("case", DPO, ids=ids)
def test_a_preset_is_trls_dpo_loss(case: Case, made: Any) -> None:
    for rows in [[0], [1], [2], [3], *([] if case.alone else [ALL])]:
        found = Pairs.of(made("dpo", beta=BETA, **case.trl), rows, **case.policy)
        losses, logps = found.loss(case.objective)
        found.is_(losses.mean(), logps)
    plain, _ = found.loss(objective("dpo", label_smoothing=0.0))
    assert case.name == "dpo" or abs(plain.mean().item() - found.value) > 1e-3  # no row that DPO itself would pass


def token_mean(found: Pairs) -> tuple[Tensor, Tensor]:
    losses, logps = found.loss(objective("sft"))
    lengths = found.lengths[: len(losses)]
    return (losses * lengths).sum() / lengths.sum(), logps


def unbounded_weights(found: Pairs) -> tuple[Tensor, Tensor]:
    losses, logps = found.loss(objective("dpo", label_smoothing=0.0))
    adjusted = (logps.detach() - found.policy.log_square_sum) * found.policy.mask
    chosen, rejected = (adjusted.sum(1) / found.lengths).exp().chunk(2)
    return (chosen * rejected * losses).mean(), logps


def mean_loss(name: str, **hyper: float) -> Callable[[Pairs], tuple[Tensor, Tensor]]:
    def compute(found: Pairs) -> tuple[Tensor, Tensor]:
        losses, logps = found.loss(objective(name, **hyper))
        return losses.mean(), logps

    return compute


@dataclass(frozen=True)
class Difference:
    """A row where TRL's loss is not the preset, why, and what it is instead."""

    trl: dict[str, Any]
    name: str
    why: str
    instead: Callable[[Pairs], tuple[Tensor, Tensor]]
    hyper: dict[str, float] = field(default_factory=dict)
    policy: dict[str, Any] = field(default_factory=dict)


DIFFERENT = [
    Difference(
        {"loss_type": "ipo"},
        "ipo",
        "the paper's Eq. 17 has summed log-probs; TRL divides each response's by its tokens, which is ipo-mean",
        mean_loss("ipo-mean"),
    ),
    Difference(
        {"loss_type": "sft"},
        "sft",
        "TRL's likelihood is a mean over the batch's tokens; here every prompt weighs the same",
        token_mean,
    ),
    Difference(
        {"use_weighting": True},
        "wpo",
        "the paper's code bounds weights at 1; TRL does not",
        unbounded_weights,
        policy={"log_square_sum": -2.5},
    ),
    Difference(
        {"loss_type": "sigmoid", "label_smoothing": 0.1},
        "dpo",
        "TRL reads label_smoothing for robust, exo_pair and AOT alone; here dpo with it is conservative DPO",
        mean_loss("dpo", label_smoothing=0.0),
        {"label_smoothing": 0.1},
    ),
]


@pytest.mark.parametrize("row", DIFFERENT, ids=lambda row: f"{row.name}: {row.why}")
def test_a_difference_is_the_one_that_is_named(row: Difference, made: Any) -> None:
    found = Pairs.of(made("dpo", beta=BETA, **row.trl), ALL, **row.policy)
    losses, _ = found.loss(objective(row.name, **row.hyper))
    assert abs(losses.mean().item() - found.value) > 1e-3
    found.is_(*row.instead(found))


def test_summed_ipo_is_the_mean_form_rescaled_where_lengths_are_equal(made: Any) -> None:
    """(D/n - 1/(2b))^2 = (D - 1/(2b/n))^2 / n^2: the sum's beta is the mean's over n. Pair 2: 2 tokens and EOS each."""
    found = Pairs.of(made("dpo", beta=BETA, loss_type="ipo"), [2])
    assert found.lengths.tolist() == [3, 3]
    losses, logps = found.loss(objective("ipo", beta=BETA / 3))
    found.is_(losses.mean() / 9, logps)


SMOOTHED = replace(objective("cpo", nll=0.8), link=Link(kind="logistic", parameters={"label_smoothing": 0.1}))

CPO = [
    ("cpo", {"cpo_alpha": 0.8}, objective("cpo", nll=0.8)),
    ("cpo, smoothed labels", {"cpo_alpha": 0.8, "label_smoothing": 0.1}, SMOOTHED),
    ("slic-hf", {"loss_type": "hinge", "cpo_alpha": 0.5}, objective("slic-hf", nll=0.5)),
    ("mallows-ipo, psi 1", {"loss_type": "ipo", "cpo_alpha": 0.0}, objective("mallows-ipo")),
    ("simpo", {"loss_type": "simpo", "cpo_alpha": 0.0, "simpo_gamma": 0.4}, objective("simpo", gamma=0.4)),
    (
        "simpo with a likelihood term",
        {"loss_type": "simpo", "cpo_alpha": 0.7, "simpo_gamma": 0.4},
        replace(objective("simpo", gamma=0.4), nll=0.7),
    ),
    (
        "alphapo",
        {"loss_type": "alphapo", "alpha": 0.25, "simpo_gamma": 0.4},
        objective("alphapo", order=0.25, gamma=0.4),
    ),
    (
        "alphapo, order below 0",
        {"loss_type": "alphapo", "alpha": -0.25, "simpo_gamma": 0.4},
        objective("alphapo", order=-0.25, gamma=0.4),
    ),
]


@pytest.mark.parametrize(("config", "chosen"), [row[1:] for row in CPO], ids=[row[0] for row in CPO])
def test_a_preset_is_trls_cpo_loss(config: dict[str, Any], chosen: Any, made: Any) -> None:
    for rows in [[0], [1], [2], [3], *([] if chosen.nll else [ALL])]:
        found = Logits.of(made("cpo", beta=BETA, **config), rows)
        losses, logits = found.loss(chosen)
        found.is_(losses.mean(), logits)


def test_orpos_odds_are_trls_and_its_likelihood_is_over_the_response_alone(made: Any) -> None:
    """TRL's likelihood, as the authors' code, is over prompt and response: the odds part is what the two share.

    TRL computes it in fp32. Its beta weighs the odds: `odds_weight` here, where beta scales the log-odds.
    """
    chosen = objective("orpo", beta=1.0, odds_weight=BETA)
    for row in ALL:
        found = Logits.of(made("orpo", beta=BETA), [row])
        losses, logits = found.loss(chosen)
        assert abs(losses.item() - found.value) > 1e-3
        odds, logits = found.loss(chosen.parts[0][1])
        present = found.ids[0, 1:] != 0
        likelihood = found.token_logps(logits)[0, present].mean()
        found.is_(BETA * odds.mean() - likelihood, logits)


@pytest.mark.parametrize(("policy", "reference", "positive"), [(1, 2, True), (2, 1, False)])
def test_kto_is_trls_at_a_positive_and_at_a_bounded_divergence(
    policy: int, reference: int, positive: bool, made: Any
) -> None:
    weights = {"desirable_weight": 1.2, "undesirable_weight": 0.7}
    trainer, chosen = made("kto", beta=BETA, **weights), objective("kto", **weights)
    for rows in [[0], [1], [2], [3], ALL]:
        found = Labelled.of(trainer, rows, policy=policy, reference=reference)
        anchor = found.anchor(BETA)
        found.is_(chosen, anchor)
    assert (anchor.item() > 0) == positive


def test_kto_without_a_divergence_is_trls_apo_zero_unpaired(made: Any) -> None:
    weights = {"desirable_weight": 1.2, "undesirable_weight": 0.7}
    trainer = made("kto", beta=BETA, loss_type="apo_zero_unpaired", **weights)
    for rows in [[0], [1], [2], [3], ALL]:
        Labelled.of(trainer, rows, policy=1, reference=2).is_(objective("kto", **weights), torch.zeros(()))
