"""A preset with some of its four choices replaced: what a config, or a search over it, names.

    prior: {kind: token, kl: 0.5}      contrast: chosen-by-rejected      link: phi      dispersion: link

A choice is a name, or a mapping with `kind` and the choice's parameters. What is not given stays the preset's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from raypo.errors import ConfigError
from raypo.objective.choices import (
    CONTRASTS,
    LINKS,
    TRANSFORMS,
    Contrast,
    LinearPrior,
    Link,
    Prior,
    TokenPrior,
    TransformPrior,
)
from raypo.objective.composition import AnyObjective, Objective

Choice = str | Mapping[str, Any]

CHOICES = ("prior", "dispersion", "contrast", "link")


def override(objective: AnyObjective, choices: Mapping[str, Choice]) -> AnyObjective:
    """An objective with the given choices in place of its own.

    Args:
        objective: of a preset.
        choices: some of `CHOICES`.

    Raises:
        ConfigError: the preset is not made of the four choices, a choice has no such name or parameter, or what comes
            out means nothing (with the mathematical reason).
    """
    if not choices:
        return objective
    if not isinstance(objective, Objective):
        raise ConfigError(
            f"objective.{next(iter(choices))} over preset {objective.name!r}",
            "a preset of the four choices: this one is a loss of its own or a sum of several",
        )
    made: dict[str, Any] = {}
    for name, choice in choices.items():
        given = {"kind": choice} if isinstance(choice, str) else dict(choice)
        kind = given.pop("kind", None)
        if not isinstance(kind, str):
            raise ConfigError(f"objective.{name} = {choice!r}", "a name, or a mapping with `kind`")
        made[name] = kind if name == "dispersion" else MAKERS[name](kind, given)
    if "contrast" in made and made["contrast"].deviation != "none" and not objective.alpha:
        raise ConfigError(
            f"objective.contrast with deviation {made['contrast'].deviation!r} over {objective.name!r} with alpha = 0",
            "alpha > 0: with 0 no response weighs more than another, and the contrast is the one without deviations",
            "start from preset w-mpo, which takes objective.alpha",
        )
    # checked before it is told: a text of what has no meaning has none either
    whole = dataclasses.replace(objective, **made)
    changed = ", ".join(f"{name} {made[name]}" for name in made)
    return dataclasses.replace(whole, name=f"{objective.name} with {changed}")


def _prior(kind: str, given: dict[str, Any]) -> Prior:
    if kind in TRANSFORMS:
        rest = {"h": given.pop("h")} if "h" in given else {}
        return TransformPrior(transform=kind, parameters=given, **rest)
    classes: dict[str, type] = {"linear": LinearPrior, "token": TokenPrior}
    if kind not in classes:
        raise ConfigError(f"objective.prior {kind!r}", f"one of {', '.join([*classes, *TRANSFORMS])}")
    prior: Prior = _made("prior", classes[kind], given)
    return prior


def _contrast(kind: str, given: dict[str, Any]) -> Contrast:
    parameters = {key: given.pop(key) for key in CONTRASTS.get(kind, ()) if key in given}
    contrast: Contrast = _made("contrast", Contrast, given | {"kind": kind, "parameters": parameters})
    return contrast


def _link(kind: str, given: dict[str, Any]) -> Link:
    plain = {"logistic": {"label_smoothing": 0.0}}
    return Link(kind=kind, parameters=plain.get(kind, {}) | given if kind in LINKS else given)


def _made(name: str, kind: type, given: dict[str, Any]) -> Any:
    known = [field.name for field in dataclasses.fields(kind)]
    if unknown := [key for key in given if key not in known]:
        raise ConfigError(f"objective.{name}.{unknown[0]}", f"one of {', '.join(known)}")
    return kind(**given)


MAKERS: dict[str, Any] = {"prior": _prior, "contrast": _contrast, "link": _link}
