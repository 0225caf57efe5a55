"""Domains of every number and name in the four choices and of the presets' hyperparameters.

An overridden choice comes from a config or a search, so nothing about it is taken on trust: a value outside its domain
is refused here, before any formula could read it as something else. A new parameter is one more line.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Domain:
    """Real numbers between two bounds.

    Args:
        low: least value.
        high: greatest value.
        open_low: the least value itself is excluded.
        open_high: and the greatest.
        whole: whole numbers alone.
        why: what a value beyond them would mean.
    """

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    whole: bool = False
    why: str = ""

    def __contains__(self, value: object) -> bool:
        """Whether it is a finite number within the bounds; True and False are no numbers."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return False
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below and (not self.whole or value == int(value))

    def __str__(self) -> str:
        """`a number in (0, 0.5]: why`."""
        return self._range() + (f": {self.why}" if self.why else "")

    def _range(self) -> str:
        what = "a whole number" if self.whole else "a number"
        if self.low == -math.inf and self.high == math.inf:
            return f"{what}, finite"
        if self.high == math.inf:
            return f"{what} above {self.low:g}" if self.open_low else f"{what}, at least {self.low:g}"
        left, right = "(" if self.open_low else "[", ")" if self.open_high else "]"
        return f"{what} in {left}{self.low:g}, {self.high:g}{right}"


ANY = Domain()
POSITIVE = Domain(0, open_low=True)
NOT_NEGATIVE = Domain(0)
SHARE = Domain(0, 1)
BETA = Domain(0, open_low=True, why="it scales the implicit reward, and a negative one prefers the worse")
TEMPERATURE = Domain(0, open_low=True, why="with a negative one the worst response has the largest share")
MODULATED = Domain(0, 1, open_low=True, why="above 1 its exponential part grows without bound for wrong pairs")
LABEL = "beyond it the label says less than nothing"
SMOOTHED = Domain(0, 1, open_low=True, open_high=True, why="the logarithm of the worse side's share enters")
THRESHOLD = Domain(0, open_low=True, why="with 0 nothing trains at policy == reference, where every margin is 0")
ENTERS = Domain(0, open_low=True, why="with 0 the policy would not enter")

FIELDS: dict[str, dict[str, Domain]] = {
    "prior linear": {
        "a": Domain(0, open_low=True, why="with 0 the policy would not enter"),
        "b": NOT_NEGATIVE,
        "eta": SHARE,
        "rho": ANY,
        "h": ANY,
    },
    "prior token": {"kl": NOT_NEGATIVE, "tail": SHARE, "penalty": NOT_NEGATIVE},
    "prior transform": {"h": ANY},
    "contrast": {"offset": ANY, "offset_scale": NOT_NEGATIVE, "keep": Domain(0, whole=True)},
    "link": {},
    "objective": {"beta": BETA, "alpha": NOT_NEGATIVE, "tie_eps": NOT_NEGATIVE, "nll": NOT_NEGATIVE},
}
"""Of the numbers that every choice of a kind has."""

PARAMETERS: dict[str, dict[str, Domain]] = {
    "top-vs-bottom": {"top": Domain(1, whole=True), "bottom": Domain(1, whole=True)},
    "infonca": {"temperature": TEMPERATURE},
    "each-vs-rest": {"temperature": TEMPERATURE},
    "anchored-all": {"temperature": TEMPERATURE},
    "levels": {"levels": Domain(2, whole=True)},
    "anchored": {"chosen_weight": NOT_NEGATIVE, "rejected_weight": NOT_NEGATIVE},
    "labelled": {"desirable_weight": NOT_NEGATIVE, "undesirable_weight": NOT_NEGATIVE},
    "logistic": {"label_smoothing": Domain(0, 0.5, why=LABEL)},
    "robust": {"label_smoothing": Domain(0, 0.5, open_high=True, why=LABEL)},
    "exo": {
        "label_smoothing": Domain(
            0, 1, open_low=True, open_high=True, why="EXO's target is eps of the worse side, and its logarithm enters"
        )
    },
    "clipped-logistic": {"bound": POSITIVE},
    "squared": {"target_margin": ANY, "scale": POSITIVE},
    "hinge": {"threshold": THRESHOLD},
    "squared-hinge": {"threshold": THRESHOLD},
    "discopop": {"temperature": MODULATED},
    "alpha-divergence": {"order": Domain(0, 1, open_low=True)},
    "positive": {"penalty": NOT_NEGATIVE},
    "alpha": {"order": ANY},
}
"""Of the parameters of a contrast, link or transform by its kind; a kind that takes none is not named."""

HYPERPARAMETERS: dict[str, Domain] = {
    "beta": BETA,
    "alpha": NOT_NEGATIVE,
    "gamma": ANY,
    "power": Domain(1, 2, whole=True),
    "label_smoothing": Domain(0, 0.5, why=LABEL),
    "flip_rate": Domain(0, 0.5, open_high=True, why=LABEL),
    "smoothing": Domain(
        0, 1, open_low=True, open_high=True, why="EXO's target is eps of the worse side, and its logarithm enters"
    ),
    "tau": MODULATED,
    "offset_scale": NOT_NEGATIVE,
    "mixing": SHARE,
    "nll": NOT_NEGATIVE,
    "length_reward": ANY,
    "entropy_weight": POSITIVE,
    "kl_weight": NOT_NEGATIVE,
    "tail": SHARE,
    "sparsity": NOT_NEGATIVE,
    "preferred_penalty": NOT_NEGATIVE,
    "bound": POSITIVE,
    "order": ANY,
    "top": Domain(1, whole=True),
    "bottom": Domain(1, whole=True),
    "levels": Domain(2, whole=True),
    "keep": Domain(1, whole=True),
    "temperature": TEMPERATURE,
    "negative_weight": POSITIVE,
    "eos_weight": POSITIVE,
    "eos_budget": Domain(1, whole=True, why="tokens of a response"),
    "odds_weight": POSITIVE,
    "desirable_weight": NOT_NEGATIVE,
    "undesirable_weight": NOT_NEGATIVE,
    "tie_eps": NOT_NEGATIVE,
}
"""Of the presets' hyperparameters by name, which means the same in each; a test holds that all are here."""


def faults(where: str, choice: Any, parameters: Mapping[str, Any], kind: str) -> Iterator[tuple[str, str]]:
    """What is wrong with a choice, as (got, expected): names of a closed list, flags, numbers, in this order.

    Args:
        where: a key of `FIELDS`.
        choice: a dataclass of `raypo.objective.choices`.
        parameters: of its kind.
        kind: the name that `PARAMETERS` knows.
    """
    hints = get_type_hints(type(choice))
    for field in fields(choice):
        hint, value = hints[field.name], getattr(choice, field.name)
        if get_origin(hint) is Literal and (value not in get_args(hint) or isinstance(value, bool)):
            yield f"{where}: {field.name} = {value!r}", f"one of {', '.join(map(str, get_args(hint)))}"
        if hint is bool and not isinstance(value, bool):
            yield f"{where}: {field.name} = {value!r}", "true or false"
    own = [(name, domain, getattr(choice, name)) for name, domain in FIELDS[where].items()]
    known = PARAMETERS.get(kind, {})
    own += [(name, known[name], value) for name, value in parameters.items() if name in known]
    for name, domain, value in own:
        if value not in domain:
            yield f"{where}: {name} = {value!r}", str(domain)
