"""Combinations of the four choices that mean nothing, each refused with the mathematical reason.

A new refusal is one more function in `REFUSALS`: from an objective to what was got and what would have a meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

from raypo.errors import ConfigError
from raypo.objective.choices import (
    ANCHORED,
    CONTRASTS,
    LINKS,
    SINGLE_SIDED,
    TRANSFORMS,
    Contrast,
    Dispersion,
    LinearPrior,
    Link,
    Prior,
    TokenPrior,
    TransformPrior,
)
from raypo.objective.domains import faults


class Objective(Protocol):
    """What a refusal looks at: `raypo.objective.composition.Objective`, which asks here while it is made."""

    @property
    def name(self) -> str: ...  # noqa: D102 - described there
    @property
    def prior(self) -> Prior: ...  # noqa: D102
    @property
    def dispersion(self) -> Dispersion: ...  # noqa: D102
    @property
    def contrast(self) -> Contrast: ...  # noqa: D102
    @property
    def link(self) -> Link: ...  # noqa: D102
    @property
    def beta(self) -> float: ...  # noqa: D102
    @property
    def alpha(self) -> float: ...  # noqa: D102
    @property
    def tie_eps(self) -> float: ...  # noqa: D102
    @property
    def nll(self) -> float: ...  # noqa: D102
    @property
    def anchor(self) -> Literal["zero", "running-mean", "mismatched-pairs"]: ...  # noqa: D102
    @property
    def confidence(self) -> Literal["none", "bounded", "plain"]: ...  # noqa: D102
    @property
    def reference(self) -> Literal["frozen", "moving"]: ...  # noqa: D102


LIKELIHOOD_LINKS = frozenset({"logistic", "robust", "clipped-logistic", "soft-exo"})
"""Links for which log(|P|/|N|) at policy == reference is the set likelihood and not a preference made of counting."""

Refusal = tuple[str, str] | None


def check(objective: Objective) -> None:
    """Refuse an objective without a meaning.

    Raises:
        ConfigError: with the reason.
    """
    for refuse in REFUSALS:
        if (found := refuse(objective)) is not None:
            raise ConfigError(f"{objective.name}: {found[0]}", found[1])


def _known(o: Objective) -> Refusal:
    """Names and parameters that exist, before anything is asked of them."""
    asked = [
        ("contrast", o.contrast.kind, o.contrast.parameters, CONTRASTS),
        ("link", o.link.kind, o.link.parameters, LINKS),
    ]
    if isinstance(o.prior, TransformPrior):
        asked.append(("transform", o.prior.transform, o.prior.parameters, TRANSFORMS))
    for what, name, given, known in asked:
        if name not in known:
            return f"{what} {name!r}", f"one of {', '.join(known)}"
        if set(given) != set(known[name]):
            return f"{what} {name!r} with {', '.join(given) or 'no parameter'}", (
                f"exactly {', '.join(known[name]) or 'no parameter'}"
            )
    return None


def _domains(o: Objective) -> Refusal:
    """Names of closed lists, and numbers, each in its domain."""
    asked: list[tuple[str, Any, Mapping[str, Any], str]]
    asked = [("contrast", o.contrast, o.contrast.parameters, o.contrast.kind)]
    asked += [("link", o.link, o.link.parameters, o.link.kind), ("objective", o, {}, "")]
    if isinstance(o.prior, TransformPrior):
        asked.append(("prior transform", o.prior, o.prior.parameters, o.prior.transform))
    else:
        asked.append((f"prior {o.prior.kind}", o.prior, {}, ""))
    return next((fault for one in asked for fault in faults(*one)), None)


def _psi_once(o: Objective) -> Refusal:
    if (o.dispersion == "link") == (o.link.kind == "phi"):
        return None
    return f"dispersion acts on {o.dispersion!r} with link {o.link.kind!r}", (
        "dispersion 'link' with link 'phi', or neither: psi must act in exactly one place, and only the "
        "Mallows-phi link has an argument for it (on the score and in the link it would act twice)"
    )


def _pools(o: Objective) -> Refusal:
    pooled = o.contrast.kind not in SINGLE_SIDED and o.contrast.pool == "logsumexp"
    if not pooled or o.link.kind in LIKELIHOOD_LINKS:
        return None
    return f"link {o.link.kind!r} on logsumexp pools", (
        "pool 'logmeanexp' or a pair contrast: at policy == reference the margin of unequal sides is "
        "log(|P|/|N|), a preference made of counting; only for the logistic link is that the set likelihood"
    )


def _chain(o: Objective) -> Refusal:
    c = o.contrast
    if c.kind != "plackett-luce":
        return None
    if c.deviation != "none" or c.pool != "logsumexp" or c.offset:
        got = "deviations, an offset or another pool"
    elif o.confidence != "none":
        got = "weights by confidence"
    else:
        got = next(iter(_role_dependent(o)), "")
    if not got:
        return None
    return f"{got} in the Plackett-Luce chain", (
        "none of them: the chain is a likelihood of the ranking, and what depends on the comparison undoes it"
    )


def _anchors(o: Objective) -> Refusal:
    if o.contrast.kind not in ANCHORED:
        return None
    if o.contrast.deviation != "none":
        return "deviations against an anchor", (
            "deviation 'none': a response that is compared with a constant is its comparison's mean, so its deviation "
            "is 0 whatever its reward"
        )
    if o.link.kind == "phi":
        return "the phi-link against an anchor", (
            "a contrast of responses: the Mallows probability is that of one response before another in a ranking, "
            "and a constant has no place in it"
        )
    return None


def _anchor_score(o: Objective) -> Refusal:
    if o.anchor == "zero":
        return None
    if o.contrast.kind not in ANCHORED:
        return f"an anchor's score with contrast {o.contrast.kind!r}", (
            "a contrast against an anchor: differences of responses cancel a constant"
        )
    if o.dispersion == "score":
        return "psi on the score against an anchor that moves", (
            "dispersion 'none': the anchor's score is one of all prompts, and psi would scale only one side"
        )
    if o.anchor == "mismatched-pairs" and o.prior != LinearPrior():
        return f"prior {o.prior} against mismatched pairs", (
            "the prior lp - lr: the anchor's score is a sequence's lp - lr, and both sides must be in its units"
        )
    return None


def _masks(o: Objective) -> Refusal:
    if not isinstance(o.prior, TokenPrior):
        return None
    if o.prior.penalty and o.prior.weights != "learned-mask":
        return f"a penalty on the size of {o.prior.weights!r} weights", (
            "weights 'learned-mask': the size of what nothing trains is a constant"
        )
    if o.prior.masks == "independent" and not (o.prior.weights == "learned-mask" and o.prior.kl):
        return "independent masks without a log-ratio and a KL that both have trained ones", (
            "weights 'learned-mask' and kl above 0: the second mask weighs the KL"
        )
    return None


def _importance(o: Objective) -> Refusal:
    if getattr(o.prior, "weights", "") != "importance" or o.contrast.kind == "best-vs-worst":
        return None
    return f"token weights by importance with contrast {o.contrast.kind!r}", (
        "contrast 'best-vs-worst': a response has one weight per token, which says that it is preferred or that it is "
        "not, and only the best and the worst are one of the two in every comparison (TIS-DPO, arXiv 2410.04350)"
    )


def _targets(o: Objective) -> Refusal:
    if (o.link.kind == "soft-exo") == (o.contrast.kind == "each-vs-rest"):
        return None
    return f"link {o.link.kind!r} with contrast {o.contrast.kind!r}", (
        "link 'soft-exo' with contrast 'each-vs-rest', or neither: the link is KL(softmax(u) || softmax(r/T)), term by "
        "term, and that contrast alone gives its terms and targets"
    )


SOFTMAXES = frozenset({"infonca", "each-vs-rest"})
"""Contrasts whose comparisons together are a softmax over the set."""


def _role_dependent(o: Objective) -> list[str]:
    """What makes a response's score depend on whether it is preferred."""
    found = {
        "a home advantage in the prior": getattr(o.prior, "h", 0.0),
        "a prior that differs by role": getattr(o.prior, "transform", "") == "positive",
        "a KL that is constant where preferred": getattr(o.prior, "detach_preferred_kl", False),
    }
    return [text for text, depends in found.items() if depends]


def _softmaxes(o: Objective) -> Refusal:
    c = o.contrast
    if c.kind not in SOFTMAXES:
        return None
    by_role = {
        "an offset": c.offset,
        f"pool {c.pool!r}": c.pool != "logsumexp",
        "deviations": c.deviation != "none",
        "weights by confidence": o.confidence != "none",
        f"link {o.link.kind!r}": c.kind == "infonca" and o.link.kind != "logistic",
        "label smoothing": c.kind == "infonca" and o.link.parameters.get("label_smoothing", 0.0),
    }
    by_role |= dict.fromkeys(_role_dependent(o), True)
    got = next((name for name, found in by_role.items() if found), None)
    if got is None:
        return None
    return f"{got} with contrast {c.kind!r}", (
        "none: the comparisons are the terms of one softmax over the set, in which a response has one score; otherwise "
        "their sum is no cross-entropy, and its least value is not at the target"
    )


def _without_effect(o: Objective) -> Refusal:
    """Numbers that would be read by nothing, or leave nothing to train."""
    c, prior = o.contrast, o.prior
    if c.deviation == "none" and (c.power != 1 or c.inside_beta):
        got = f"power = {c.power}" if c.power != 1 else "inside_beta"
        return f"{got} without deviations", "deviation 'abs' or 'signed', or neither of them: it would change nothing"
    if isinstance(prior, TokenPrior) and prior.tail != 1 and prior.weights != "length-desensitized":
        return f"tail = {prior.tail:g} with weights {prior.weights!r}", (
            "weights 'length-desensitized', or no tail: it would change nothing"
        )
    weights = [value for name, value in c.parameters.items() if name.endswith("_weight")]
    if weights and not any(weights):
        return f"contrast {c.kind!r} with all weights 0", "one above 0: no response would train"
    return None


def _reward_offset(o: Objective) -> Refusal:
    if o.contrast.reward_offset == "none" and o.contrast.offset_scale:
        return f"offset_scale = {o.contrast.offset_scale:g} without an offset by the reward gap", (
            "reward_offset 'linear' or 'log', or no offset_scale: it would change nothing"
        )
    if o.contrast.reward_offset == "none" or o.contrast.kind in SINGLE_SIDED - ANCHORED:
        return None
    return f"an offset by the reward gap with contrast {o.contrast.kind!r}", (
        "a pair contrast: the gap is that of two responses (ODPO, arXiv 2402.10571)"
    )


def _selection(o: Objective) -> Refusal:
    c = o.contrast
    if c.select == "none" and c.keep:
        return f"keep = {c.keep} without a selection", (
            "select 'bottom', 'coreset' or 'opt-select', or no keep: it would change nothing"
        )
    if c.select == "none" or (c.keep >= 1 and c.kind not in LONE_OR_PAIR):
        return None
    return f"select {c.select!r} with contrast {c.kind!r} and keep = {c.keep}", (
        "keep >= 1 and a contrast of more than two: the selection chooses which of the worse responses stand against "
        "the best (AMPO, arXiv 2502.18293)"
    )


LONE_OR_PAIR = ANCHORED | {"best-vs-worst"}


def _moving(o: Objective) -> Refusal:
    if o.reference == "frozen" or o.prior.needs_reference:
        return None
    return "a moving reference under a prior that reads none", "reference 'frozen', or a prior with reference log-probs"


def _undone_scale(o: Objective) -> Refusal:
    if o.prior.kind != "transform" or o.dispersion != "score" or o.contrast.kind not in ANCHORED:
        return None
    return "psi on a transformed score against an anchor", (
        "dispersion 'none': psi scales differences of scores; against a constant it moves the policy's optimum"
    )


REFUSALS: tuple[Callable[[Objective], Refusal], ...] = (
    _known,
    _domains,
    _psi_once,
    _pools,
    _chain,
    _anchors,
    _anchor_score,
    _masks,
    _targets,
    _softmaxes,
    _importance,
    _without_effect,
    _reward_offset,
    _selection,
    _moving,
    _undone_scale,
)
