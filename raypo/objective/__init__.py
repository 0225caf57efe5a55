"""What is optimized: prior, contrast and link composed by one kernel; presets are rows of one table.

    from raypo.objective import preset, set_loss
    out = set_loss(preset("w-mpo", beta=0.1, alpha=1.0), policy_logps=..., reference_logps=..., lengths=...,
    rewards=...,
                   mask=..., psi=...)

Pure functions of tensors belong here. Nothing here knows a config, a device, a tokenizer or Ray. `choices` and
`presets` are plain data and import no torch; the functions are loaded when first asked for.

    choices    the four choices as values, and the combinations that mean nothing
    presets    named objectives: one table
    prior      log-ratios       contrast   comparisons      link   losses of margins
    kernel     `set_loss`, which composes them
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raypo.objective.choices import Contrast, LinearPrior, Link, Objective
from raypo.objective.presets import preset

if TYPE_CHECKING:
    from raypo.objective.kernel import SetLoss, set_loss

__all__ = ["Contrast", "LinearPrior", "Link", "Objective", "SetLoss", "preset", "set_loss"]


def __getattr__(name: str) -> Any:
    if name in ("SetLoss", "set_loss"):
        from raypo.objective import kernel

        return getattr(kernel, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
