"""What is optimized: prior, contrast and link composed by one kernel; presets are rows of one table.

    from raypo.objective import preset, set_loss
    out = set_loss(preset("w-mpo", beta=0.1, alpha=1.0), policy_logps=..., reference_logps=..., lengths=...,
                   rewards=..., mask=..., psi=..., terms=...)

Pure functions of tensors belong here. Nothing here knows a config, a device, a tokenizer or Ray. `choices`,
`composition`, `refusals` and `presets` are plain data and import no torch; the functions are loaded when first asked
for.

    choices      the four choices as values             composition   an objective, a loss outside, a weighted sum
    presets      named objectives: one table            refusals      combinations that mean nothing, and why
    prior        log-ratios        tokens     token-level terms of the priors that weigh tokens
    contrast     comparisons       encoding   pairs, sets and the chain     subset   AMPO's selections
    link         losses of margins
    outside      what the four choices do not hold
    kernel       `set_loss`, which composes them         inputs        its tensors, checked and cleaned
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raypo.objective.choices import Contrast, LinearPrior, Link, TokenPrior, TransformPrior
from raypo.objective.composition import AnyObjective, Mixture, Objective, Outside
from raypo.objective.presets import preset

if TYPE_CHECKING:
    from raypo.objective.kernel import SetLoss, set_loss

__all__ = [
    "AnyObjective",
    "Contrast",
    "LinearPrior",
    "Link",
    "Mixture",
    "Objective",
    "Outside",
    "SetLoss",
    "TokenPrior",
    "TransformPrior",
    "preset",
    "set_loss",
]


def __getattr__(name: str) -> Any:
    if name in ("SetLoss", "set_loss"):
        from raypo.objective import kernel

        return getattr(kernel, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
