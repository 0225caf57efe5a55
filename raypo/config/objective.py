"""The objective in a config: a preset, its hyperparameters, and choices in place of its own."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict

from raypo.config.section import Section

HYPERPARAMETER_DEFAULTS: dict[str, float] = {
    "beta": 0.1,
    "alpha": 1.0,
    "gamma": 0.05,  # half of beta, as SimPO's
    "power": 1.0,
    "label_smoothing": 0.0,
    "flip_rate": 0.1,
    "smoothing": 1e-3,
    "tau": 0.05,
    "offset_scale": 1.0,
    "mixing": 0.25,
    "nll": 1.0,
    "length_reward": 0.001,
    "entropy_weight": 0.95,
    "kl_weight": 0.5,
    "tail": 0.5,
    "sparsity": 1e-3,
    "preferred_penalty": 50.0,
    "bound": 10.0,
    "order": 0.5,
    "top": 2.0,
    "bottom": 2.0,
    "levels": 3.0,
    "keep": 3.0,
    "temperature": 1.0,
    "negative_weight": 2.0,
    "eos_weight": 1e-5,
    "eos_budget": 256.0,  # tokens
    "odds_weight": 0.1,
    "desirable_weight": 1.0,
    "undesirable_weight": 1.0,
    "tie_eps": 0.0,
}
"""For the hyperparameters that a preset takes and `objective` does not give; from the papers' or TRL's own defaults
where they name one (`raypo presets` names the source of each row)."""


class ObjectiveConfig(Section):
    """The loss: a preset, its hyperparameters as further keys (`beta`, ...), and choices in place of the preset's."""

    model_config = ConfigDict(extra="allow")

    preset: str = "w-mpo"
    """A row of `raypo presets`."""
    prior: str | dict[str, float | str | bool] | None = None
    """In place of the preset's prior: `linear`, `token` or a transform, or a mapping of `kind` and its numbers."""
    dispersion: Literal["none", "score", "link"] | None = None
    """In place of the preset's: where psi acts."""
    contrast: str | dict[str, float | str | bool] | None = None
    """In place of the preset's contrast: a kind, or a mapping of `kind` and its parameters."""
    link: str | dict[str, float | str | bool] | None = None
    """In place of the preset's link: a kind, or a mapping of `kind` and its parameters."""

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The keys beside `preset`, as given."""
        return dict(self.model_extra or {})
