"""The four choices that make an objective, as plain data. No torch here, so that a plan can read and check them.

    prior        log-ratio r of a response against what the policy is measured against
    dispersion   where psi(x) acts: "none", "score" (Mallows-theta) or "link" (Mallows-phi)
    contrast     which responses are compared with which
    link         from a margin to a loss

`prior`, `contrast` and `link` beside this module hold the functions that these values name; `domains` holds what each
number and name may be, `refusals` which combinations mean nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

Dispersion = Literal["none", "score", "link"]

Needs = Literal["sums", "token-logps", "reference-logits", "reference-hidden-states"]
"""What a prior needs beside the policy, from the cheapest: sums per response, log-probs per token (both are annotated
once and kept), or a live reference, sharded like the policy, for its logits or its hidden states."""

NEEDS: tuple[Needs, ...] = ("sums", "token-logps", "reference-logits", "reference-hidden-states")


@dataclass(frozen=True, kw_only=True)
class LinearPrior:
    """r = (a lp - b lr) / |y|^eta + rho |y| - h [preferred]; MI-DPO (arXiv 2501.01544), kernel definition.

    Args:
        a: weight of the policy's log-prob.
        b: weight of the reference's; 0: the objective needs no reference.
        eta: 1 divides by the response's length, 0 does not.
        rho: reward per token of length, in log-ratio units.
        h: home advantage that a preferred response must overcome, in log-ratio units (gamma / beta).
    """

    a: float = 1.0
    b: float = 1.0
    eta: float = 0.0
    rho: float = 0.0
    h: float = 0.0
    kind: ClassVar[str] = "linear"
    needs: ClassVar[Needs] = "sums"
    terms: ClassVar[tuple[str, ...]] = ()

    @property
    def needs_reference(self) -> bool:
        """Whether reference log-probs enter."""
        return self.b != 0

    def __str__(self) -> str:
        """The formula, without the terms that are zero."""
        difference = " - ".join(_times(weight, name) for weight, name in ((self.a, "lp"), (self.b, "lr")) if weight)
        both = self.a and self.b
        size = "|y|" if self.eta == 1 else f"|y|^{self.eta:g}"
        text = (f"({difference})/{size}" if both else f"{difference}/{size}") if self.eta else difference
        text += f" + {self.rho:g}|y|" if self.rho else ""
        return text + (f" - {self.h:g}[preferred]" if self.h else "")


def _times(weight: float, name: str) -> str:
    return name if weight == 1 else f"{weight:g} {name}"


WEIGHTS_NEED: dict[str, Needs] = {
    "none": "sums",
    "length-desensitized": "token-logps",
    "importance": "token-logps",
    "activation-mask": "reference-hidden-states",
    "learned-mask": "reference-hidden-states",
}


@dataclass(frozen=True, kw_only=True)
class TokenPrior:
    """r = sum_t m_t (lp_t - lr_t) + kl sum_t d_t KL(reference_t || policy_t).

    The sums arrive as `terms`: "weighted_log_ratios" when there are weights, "forward_kl" when kl is not 0, and
    "mask_sizes" when there is a penalty; `raypo.objective.tokens` makes them.

    Args:
        weights: what m_t is: 1; LD-DPO's tail weight (arXiv 2409.06411); TIS-DPO's importance (2410.04350), by
            two contrastive models; SparsePO's masks of the reference's activations, or trained over them (2410.05102).
        kl: weight of the forward KL over the vocabulary: TDPO (2404.11999), SparsePO.
        detach_preferred_kl: the KL of a preferred response is a constant: TDPO2.
        tail: LD-DPO's weight of tokens beyond the shortest response of the set, in [0, 1].
        masks: of trained masks: one for both sums, d_t = m_t ("common"), or one each ("independent").
        penalty: weight of the masks' sizes, the mean of |m| + |d| over the response's tokens.
    """

    weights: Literal["none", "length-desensitized", "importance", "activation-mask", "learned-mask"] = "none"
    kl: float = 0.0
    detach_preferred_kl: bool = False
    tail: float = 1.0
    masks: Literal["common", "independent"] = "common"
    penalty: float = 0.0
    kind: ClassVar[str] = "token"
    needs_reference: ClassVar[bool] = True

    @property
    def needs(self) -> Needs:
        """The dearest of what the weights and the KL need."""
        return max("reference-logits" if self.kl else "sums", WEIGHTS_NEED[self.weights], key=NEEDS.index)

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the [B, K] terms that `set_loss` must be given."""
        return (
            *(("weighted_log_ratios",) if self.weights != "none" else ()),
            *(("forward_kl",) if self.kl else ()),
            *(("mask_sizes",) if self.penalty else ()),
        )

    def __str__(self) -> str:
        """The formula, without the terms that are zero."""
        text = "lp - lr" if self.weights == "none" else f"sum m(lp_t - lr_t), m: {self.weights}"
        if self.kl:
            text += f" + {_times(self.kl, 'KL')}" + (", constant where preferred" if self.detach_preferred_kl else "")
        return text


@dataclass(frozen=True, kw_only=True)
class TransformPrior:
    """r = f(lp - lr), or f(lp / |y|), by a named f of `raypo.objective.prior.TRANSFORMS`.

    Args:
        transform: its name.
        parameters: its keyword arguments.
        h: home advantage of a preferred response, in units of r.
    """

    transform: str
    parameters: Mapping[str, float] = field(default_factory=dict)
    h: float = 0.0
    kind: ClassVar[str] = "transform"
    needs: ClassVar[Needs] = "sums"
    terms: ClassVar[tuple[str, ...]] = ()

    @property
    def needs_reference(self) -> bool:
        """False for the transforms of the policy's mean log-prob alone."""
        return self.transform not in MEAN_LOGP_TRANSFORMS

    def __str__(self) -> str:
        """The transform's name and argument."""
        inner = "lp - lr" if self.needs_reference else "lp/|y|"
        told = "".join(f", {value:g}" for value in self.parameters.values())
        return f"{self.transform}({inner}{told})" + (f" - {self.h:g}[preferred]" if self.h else "")


MEAN_LOGP_TRANSFORMS = frozenset({"alpha", "odds"})

Prior = LinearPrior | TokenPrior | TransformPrior


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Which responses are compared, and W-MPO's deviations in the comparison.

    Args:
        kind: a name in `raypo.objective.contrast.BUILDERS`.
        parameters: keyword arguments of that builder.
        pool: how a side's scores become one: logsumexp, or logmeanexp (log of the mean).
        deviation: W-MPO's weight of a response by its reward's deviation from the mean over the comparison's members.
        power: exponent of the deviation, 1 or 2.
        inside_beta: the deviation is multiplied by kappa beta as well (REFA's appendix form).
        offset: constant that every margin must overcome, in score units (REFA's log gamma).
        reward_offset: ODPO's offset by the reward gap of a pair: `offset_scale` x gap, or x ln(1 + gap).
        offset_scale: see `reward_offset`.
        select: AMPO's choice of the worse responses that stand against the best one (arXiv 2502.18293).
        keep: how many of them.
    """

    kind: str
    parameters: Mapping[str, float] = field(default_factory=dict)
    pool: Literal["logsumexp", "logmeanexp"] = "logsumexp"
    deviation: Literal["none", "abs", "signed"] = "none"
    power: Literal[1, 2] = 1
    inside_beta: bool = False
    offset: float = 0.0
    reward_offset: Literal["none", "linear", "log"] = "none"
    offset_scale: float = 0.0
    select: Literal["none", "bottom", "coreset", "opt-select"] = "none"
    keep: int = 0

    @property
    def lone(self) -> bool:
        """Whether one response alone can train."""
        return self.kind in LONE

    def __str__(self) -> str:
        """The kind and what differs from the plain one."""
        told = [f"{name} {value:g}" for name, value in self.parameters.items()]
        told += [f"{self.deviation} deviations"] if self.deviation != "none" else []
        told += ["power 2"] if self.power == 2 else []
        told += ["inside beta"] if self.inside_beta else []
        told += [self.pool] if self.pool != "logsumexp" else []
        told += ["offset"] if self.offset or self.reward_offset != "none" else []
        told += [f"{self.select} of {self.keep}"] if self.select != "none" else []
        return self.kind + (f" ({', '.join(told)})" if told else "")


@dataclass(frozen=True, kw_only=True)
class Link:
    """A named link and its parameters.

    Args:
        kind: a name in `raypo.objective.link.LINKS`.
        parameters: keyword arguments of that function.
    """

    kind: str
    parameters: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        """The kind and its parameters that are not 0."""
        told = [f"{name} {value:g}" for name, value in self.parameters.items() if value]
        return self.kind + (f" ({', '.join(told)})" if told else "")


CONTRASTS: dict[str, tuple[str, ...]] = {
    "best-vs-worst": (),
    "all-pairs": (),
    "chosen-by-rejected": (),
    "lambda-pairs": (),
    "above-mean": (),
    "top-vs-bottom": ("top", "bottom"),
    "one-vs-rest": (),
    "infonca": ("temperature",),
    "each-vs-rest": ("temperature",),
    "levels": ("levels",),
    "plackett-luce": (),
    "anchored": ("chosen_weight", "rejected_weight"),
    "anchored-all": ("temperature",),
    "anchor-chosen": (),
    "labelled": ("desirable_weight", "undesirable_weight"),
}
"""Kinds of contrast and the parameters that each takes; a test holds this to `raypo.objective.contrast.BUILDERS`."""

LINKS: dict[str, tuple[str, ...]] = {
    "logistic": ("label_smoothing",),
    "clipped-logistic": ("bound",),
    "robust": ("label_smoothing",),
    "squared": ("target_margin", "scale"),
    "hinge": ("threshold",),
    "squared-hinge": ("threshold",),
    "sigmoid": (),
    "cauchy": (),
    "exo": ("label_smoothing",),
    "soft-exo": (),
    "discopop": ("temperature",),
    "phi": (),
}
"""Links and the parameters that each takes; a test holds this to `raypo.objective.link.LINKS`."""

TRANSFORMS: dict[str, tuple[str, ...]] = {
    "reverse-kl": (),
    "forward-kl": (),
    "jensen-shannon": (),
    "alpha-divergence": ("order",),
    "chi": (),
    "positive": ("penalty",),
    "alpha": ("order",),
    "odds": (),
}
"""Transforms of a `TransformPrior` and their parameters; a test holds this to `raypo.objective.prior.TRANSFORMS`."""

SINGLE_SIDED = frozenset(
    {"best-vs-worst", "all-pairs", "chosen-by-rejected", "lambda-pairs", "anchored", "anchored-all", "anchor-chosen"}
    | {"labelled"}
)
"""Contrasts whose sides hold one response each: there pooling changes nothing."""

ANCHORED = frozenset({"anchored", "anchored-all", "anchor-chosen", "labelled"})
"""Contrasts that hold responses against a given score."""

LONE = frozenset({"labelled"})
"""Contrasts from which one response alone can train."""
