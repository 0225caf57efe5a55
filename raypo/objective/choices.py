"""The four choices that make an objective, as plain data. No torch here, so that a plan can read and check them.

    prior        log-ratio r of a response against what the policy is measured against
    dispersion   where psi(x) acts: "none", "score" (Mallows-theta) or "link" (Mallows-phi)
    contrast     which responses are compared with which
    link         from a margin to a loss

`prior`, `contrast` and `link` beside this module hold the functions that these values name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from raypo.errors import ConfigError

Dispersion = Literal["none", "score", "link"]


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
    needs: Literal["sums"] = "sums"
    terms: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The formula, without the terms that are zero."""
        difference = " - ".join(_times(weight, name) for weight, name in ((self.a, "lp"), (self.b, "lr")) if weight)
        text = f"({difference})/|y|" if self.eta else difference
        text += f" + {self.rho:g}|y|" if self.rho else ""
        return text + (f" - {self.h:g}[preferred]" if self.h else "")


def _times(weight: float, name: str) -> str:
    return name if weight == 1 else f"{weight:g} {name}"


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Which responses are compared, and W-MPO's deviations in the comparison.

    Args:
        kind: a name in `raypo.objective.contrast.BUILDERS`.
        pool: how a side's scores become one: logsumexp, or logmeanexp (log of the mean).
        deviation: W-MPO's weight of a response by its reward's deviation from the mean over the comparison's members.
        power: exponent of the deviation, 1 or 2.
        inside_beta: the deviation is multiplied by kappa beta as well (REFA's appendix form).
    """

    kind: str
    pool: Literal["logsumexp", "logmeanexp"] = "logsumexp"
    deviation: Literal["none", "abs", "signed"] = "none"
    power: Literal[1, 2] = 1
    inside_beta: bool = False


@dataclass(frozen=True, kw_only=True)
class Link:
    """A named link and its parameters.

    Args:
        kind: a name in `raypo.objective.link.LINKS`.
        parameters: keyword arguments of that function.
    """

    kind: str
    parameters: dict[str, float] = field(default_factory=dict)


SINGLE_SIDED = frozenset({"best-vs-worst", "pairs"})
"""Contrasts whose sides hold one response each: there pooling changes nothing."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A whole objective: loss = sum_c w_c link(pool_P u+ - pool_N u-; psi), u = kappa beta r + alpha dev.

    Args:
        name: how it is reported.
        prior: see `LinearPrior`.
        dispersion: where psi acts, in exactly one place.
        contrast: see `Contrast`.
        link: see `Link`.
        beta: inverse temperature of the implicit reward, > 0.
        alpha: weight of the deviations, >= 0; read only with a deviation.
        tie_eps: a set trains only when its rewards span more than this.

    Raises:
        ConfigError: a combination without a meaning, with the mathematical reason.
    """

    name: str
    prior: LinearPrior
    dispersion: Dispersion
    contrast: Contrast
    link: Link
    beta: float
    alpha: float = 0.0
    tie_eps: float = 0.0

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ConfigError(f"{self.name}: beta = {self.beta}", "beta > 0: it scales the implicit reward")
        if self.alpha < 0 or self.tie_eps < 0:
            raise ConfigError(f"{self.name}: alpha = {self.alpha}, tie_eps = {self.tie_eps}", "both at least 0")
        if (self.dispersion == "link") != (self.link.kind == "phi"):
            raise ConfigError(
                f"{self.name}: dispersion acts on {self.dispersion!r} with link {self.link.kind!r}",
                "dispersion 'link' with link 'phi', or neither: psi must act in exactly one place, and only the "
                "Mallows-phi link has an argument for it (on the score and in the link it would act twice)",
            )
        pools = self.contrast.kind not in SINGLE_SIDED and self.contrast.pool == "logsumexp"
        if pools and self.link.kind not in ("logistic", "robust"):
            raise ConfigError(
                f"{self.name}: link {self.link.kind!r} on logsumexp pools",
                "pool 'logmeanexp' or a pair contrast: at policy == reference the margin of unequal sides is "
                "log(|P|/|N|), a preference made of counting; only for the logistic link is that the set likelihood",
            )
        if self.contrast.kind == "plackett-luce" and (
            self.contrast.deviation != "none" or self.contrast.pool != "logsumexp"
        ):
            raise ConfigError(
                f"{self.name}: deviations or another pool in the Plackett-Luce chain",
                "neither: the chain is a likelihood of the ranking, and weights that depend on the comparison undo it",
            )

    @property
    def needs(self) -> str:
        """What the prior needs beyond the policy: per-response "sums"."""
        return self.prior.needs

    @property
    def needs_reference(self) -> bool:
        """Whether reference log-probs enter the loss."""
        return self.prior.b != 0

    @property
    def needs_psi(self) -> bool:
        """Whether psi must be given (the phi link); on the score a missing psi is 1."""
        return self.dispersion == "link"

    @property
    def needs_scalar_rewards(self) -> bool:
        """Whether the size of reward differences matters, so that ordinal 1/0 rewards are refused."""
        return self.contrast.deviation != "none"
