"""What can be minimized, as plain data: the four choices together, what they do not hold, and weighted sums.

    Objective   the four choices and their scales
    Outside     a loss over a whole batch, or with a temperature per pair
    Mixture     a weighted sum of them

All three answer the same questions: what they need, and what a set needs to train. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from raypo.errors import ConfigError
from raypo.objective.choices import NEEDS, Contrast, Dispersion, Link, Needs, Prior, TokenPrior
from raypo.objective.domains import POSITIVE
from raypo.objective.refusals import check
from raypo.objective.sums import check_parts


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A whole objective: loss = sum_c w_c link(pool_P u+ - pool_N u-; psi), u = kappa beta r + alpha dev.

    Args:
        name: how it is reported.
        prior: see `LinearPrior`, `TokenPrior`, `TransformPrior`.
        dispersion: where psi acts, in exactly one place.
        contrast: see `Contrast`.
        link: see `Link`.
        beta: inverse temperature of the implicit reward, > 0.
        alpha: weight of the deviations, >= 0; read only with a deviation.
        tie_eps: a set trains only when its rewards span more than this.
        nll: weight of the preferred responses' negative log-prob per token (CPO, RPO, SLiC-HF), over response tokens.
        anchor: the anchor's score, given as the term "anchor" unless it is "zero": a "running-mean" of implicit
            rewards (BCO), or the divergence on "mismatched-pairs" of prompt and response (KTO).
        confidence: comparisons are weighted by the product of WPO's detached weights of their members, the term
            "response_weights"; "bounded": at most 1 each.
        reference: what the live reference does while the policy trains: "frozen", or "moving", which makes it the
            policy's moving average (TR-DPO; the learned prior of MI-DPO).

    Raises:
        ConfigError: a combination without a meaning, with the mathematical reason.
    """

    name: str
    prior: Prior
    dispersion: Dispersion
    contrast: Contrast
    link: Link
    beta: float
    alpha: float = 0.0
    tie_eps: float = 0.0
    nll: float = 0.0
    anchor: Literal["zero", "running-mean", "mismatched-pairs"] = "zero"
    confidence: Literal["none", "bounded", "plain"] = "none"
    reference: Literal["frozen", "moving"] = "frozen"

    def __post_init__(self) -> None:
        check(self)

    @property
    def needs(self) -> Needs:
        """What the objective needs beside the policy; see `Needs`."""
        live = self.reference == "moving" or self.anchor == "mismatched-pairs"
        states = self.contrast.select in ("coreset", "opt-select")
        own: Needs = "reference-hidden-states" if states else "reference-logits" if live else "sums"
        return max(own, self.prior.needs, key=NEEDS.index)

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms that `set_loss` must be given."""
        return (
            *self.prior.terms,
            *(("anchor",) if self.anchor != "zero" else ()),
            *(("response_weights",) if self.confidence != "none" else ()),
            *(("embeddings",) if self.contrast.select in ("coreset", "opt-select") else ()),
        )

    @property
    def needs_reference(self) -> bool:
        """Whether reference log-probs enter the loss."""
        return self.prior.needs_reference

    @property
    def needs_psi(self) -> bool:
        """Whether psi must be given (the phi link); on the score a missing psi is 1."""
        return self.dispersion == "link"

    @property
    def needs_scalar_rewards(self) -> bool:
        """Whether the size of reward differences matters, so that ordinal 1/0 rewards are refused."""
        return self.contrast.deviation != "none" or self.contrast.reward_offset != "none"

    @property
    def measures_live(self) -> bool:
        """Whether the loss is measured against a live reference; embeddings only choose responses."""
        live = self.reference == "moving" or self.anchor == "mismatched-pairs"
        return live or self.prior.needs.startswith("reference-")

    @property
    def weighs_by_importance(self) -> bool:
        """Whether tokens are weighted by two contrastive models."""
        return isinstance(self.prior, TokenPrior) and self.prior.weights == "importance"

    @property
    def needs_labels(self) -> bool:
        """Whether rewards are labels, 1 and 0 alone; one response is then enough to train."""
        return self.contrast.lone

    @property
    def couples_sets(self) -> bool:
        """Whether the loss of a set depends on the other sets of the step."""
        return False

    @property
    def parts(self) -> tuple[tuple[float, Objective], ...]:
        """Itself: a sum of one."""
        return ((1.0, self),)


@dataclass(frozen=True, kw_only=True)
class Outside:
    """A loss that the four choices do not hold, by a name in `raypo.objective.outside.LOSSES`.

    Args:
        name: how it is reported.
        loss: the function's name.
        parameters: its keyword arguments.
        beta: inverse temperature of the implicit reward, > 0.
        tie_eps: a set trains only when its rewards span more than this.
        needs_reference: whether reference log-probs enter.
        needs_scalar_rewards: whether ordinal rewards are refused.
        couples_sets: whether the loss of a set depends on the other sets of the step (AOT sorts over them).
        terms: names of the terms that it must be given.
    """

    name: str
    loss: str
    parameters: Mapping[str, float] = field(default_factory=dict)
    beta: float = 1.0
    tie_eps: float = 0.0
    needs_reference: bool = True
    needs_scalar_rewards: bool = False
    couples_sets: bool = False
    terms: tuple[str, ...] = ()
    needs: ClassVar[Needs] = "sums"
    dispersion: ClassVar[Dispersion] = "none"
    needs_psi: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = False
    weighs_by_importance: ClassVar[bool] = False
    measures_live: ClassVar[bool] = False
    reference: ClassVar[Literal["frozen", "moving"]] = "frozen"

    def __post_init__(self) -> None:
        if not self.beta > 0 or self.tie_eps < 0:
            raise ConfigError(f"{self.name}: beta = {self.beta}, tie_eps = {self.tie_eps}", "beta > 0, tie_eps >= 0")

    @property
    def parts(self) -> tuple[tuple[float, Outside], ...]:
        """Itself: a sum of one."""
        return ((1.0, self),)


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """A weighted sum of objectives over the same sets: Cal-DPO, ORPO, Mixed Preference Optimization.

    A set trains when every part can use it, so that no part's weight depends on the data.

    Args:
        name: how it is reported.
        parts: (weight, objective) pairs, weights > 0; the first gives the metrics.

    Raises:
        ConfigError: no part, a mixture as a part, a weight that is not above 0, or parts that ask for two different
            things where a run has one (with the reason).
    """

    name: str
    parts: tuple[tuple[float, Objective | Outside], ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ConfigError(f"{self.name}: a mixture of nothing", "at least one (weight, objective)")
        for weight, part in self.parts:
            if not isinstance(part, Objective | Outside):
                raise ConfigError(
                    f"{self.name}: a part that is {type(part).__name__}",
                    "Objective or Outside: give the inner mixture's parts, each with the product of its weights",
                )
            if weight not in POSITIVE:
                raise ConfigError(
                    f"{self.name}: weight {weight!r} of {part.name}",
                    "a number above 0: a negative one would train away from the part, and 0 not at all",
                )
        check_parts(self.name, [part for _, part in self.parts])

    @property
    def first(self) -> Objective | Outside:
        """The part whose metrics are reported."""
        return self.parts[0][1]

    @property
    def beta(self) -> float:
        """The first part's."""
        return self.first.beta

    @property
    def tie_eps(self) -> float:
        """The largest of the parts'."""
        return max(part.tie_eps for _, part in self.parts)

    @property
    def dispersion(self) -> Dispersion:
        """Where psi acts in the parts; none when in none of them."""
        return next((part.dispersion for _, part in self.parts if part.dispersion != "none"), "none")

    @property
    def needs(self) -> Needs:
        """The dearest of the parts' needs."""
        return max((part.needs for _, part in self.parts), key=NEEDS.index)

    @property
    def terms(self) -> tuple[str, ...]:
        """The parts' terms, each once."""
        return tuple(dict.fromkeys(term for _, part in self.parts for term in part.terms))

    @property
    def needs_reference(self) -> bool:
        """Whether any part does."""
        return any(part.needs_reference for _, part in self.parts)

    @property
    def needs_psi(self) -> bool:
        """Whether any part does."""
        return any(part.needs_psi for _, part in self.parts)

    @property
    def needs_scalar_rewards(self) -> bool:
        """Whether any part does."""
        return any(part.needs_scalar_rewards for _, part in self.parts)

    @property
    def measures_live(self) -> bool:
        """Whether any part is."""
        return any(part.measures_live for _, part in self.parts)

    @property
    def weighs_by_importance(self) -> bool:
        """Whether any part does."""
        return any(part.weighs_by_importance for _, part in self.parts)

    @property
    def needs_labels(self) -> bool:
        """Whether any part does."""
        return any(part.needs_labels for _, part in self.parts)

    @property
    def couples_sets(self) -> bool:
        """Whether any part does."""
        return any(part.couples_sets for _, part in self.parts)

    @property
    def reference(self) -> Literal["frozen", "moving"]:
        """Moving when any part's is."""
        return "moving" if any(part.reference == "moving" for _, part in self.parts) else "frozen"


AnyObjective = Objective | Outside | Mixture
