"""A Python function as a reward source, and the checks that every source's answers pass."""

from __future__ import annotations

import importlib
import logging
import math
from collections.abc import Callable
from functools import reduce
from typing import Any

from raypo.config import FunctionReward
from raypo.errors import RewardError

logger = logging.getLogger(__name__)

Values = list[float | None]


class RewardFunction:
    """A Python function `f(prompts, responses, metadata) -> one number per response`.

    A function that raises is asked again for each response alone, so that only those that make it raise are lost.
    Values None, NaN and infinite mean that a response could not be scored.

    Args:
        config: name and dotted path, `package.module:function`.

    Raises:
        RewardError: the path leads to nothing that can be called.
    """

    def __init__(self, config: FunctionReward) -> None:
        self._name, self._path = config.name, config.path
        self._function = import_function(config.path)
        self.first_failure: str | None = None

    def __call__(self, prompts: list[str], responses: list[str], metadata: list[dict[str, Any]]) -> Values:
        """One value per response; None where the function raised or gave no finite number.

        Raises:
            RewardError: the function answers in a wrong shape, or raises on every response to several prompts.
        """
        try:
            answer = self._function(prompts, responses, metadata)
        except Exception as error:  # noqa: BLE001 - a user's function may raise anything
            self._remember(error)
            if len(responses) == 1:
                return [None]
            return self._one_by_one(prompts, responses, metadata)
        return checked_values(answer, len(responses), f"reward {self._name!r} ({self._path})")

    def _one_by_one(self, prompts: list[str], responses: list[str], metadata: list[dict[str, Any]]) -> Values:
        values: Values = []
        raised = 0
        for row in zip(prompts, responses, metadata, strict=True):
            try:
                answer = self._function(*([item] for item in row))
            except Exception as error:  # noqa: BLE001 - as above
                self._remember(error)
                values.append(None)
                raised += 1
            else:
                values += checked_values(answer, 1, f"reward {self._name!r} ({self._path})")
        # one prompt may be at fault itself; several are not
        if raised == len(responses) and len(set(prompts)) > 1:
            raise RewardError(
                f"reward {self._name!r} ({self._path}) raised on every one of {raised} responses; "
                f"the first time: {self.first_failure}",
                "a function that scores responses",
                "call it by hand on one prompt and response, and mend it",
            )
        logger.warning(
            "reward %r raised on %d of %d responses: %s", self._name, raised, len(values), self.first_failure
        )
        return values

    def _remember(self, error: Exception) -> None:
        self.first_failure = self.first_failure or f"{type(error).__name__}: {error}"


def import_function(path: str) -> Callable[..., Any]:
    """What a dotted path leads to.

    Args:
        path: `package.module:function`; attributes of attributes are followed.

    Raises:
        RewardError: not such a path, not importable, not there, or not callable.
    """
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise RewardError(f"reward path {path!r}", "package.module:function", "write e.g. my_rewards:politeness")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # importing runs the user's code, which may raise anything
        raise RewardError(
            f"reward {path!r}: importing {module_name!r} raised {type(error).__name__}: {error}",
            "a module that can be imported where the run starts",
            "run from its folder, or put that folder on PYTHONPATH",
        ) from error
    try:
        function = reduce(getattr, attribute.split("."), module)
    except AttributeError as error:
        own = (name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__)
        public = ", ".join(name for name in own if not name.startswith("_"))
        raise RewardError(f"reward {path!r}: {error}", f"one of: {public or 'nothing'}", "check the name") from error
    if not callable(function):
        raise RewardError(f"reward {path!r} is {type(function).__name__}", "something callable", "name a function")
    found: Callable[..., Any] = function
    return found


def checked_values(answer: Any, expected: int, who: str) -> Values:
    """An answer as floats, with None where it is None, NaN or infinite.

    Raises:
        RewardError: not a sequence, not as many as expected, or something in it is no number.
    """
    try:
        values = list(answer)
    except TypeError as error:
        raise RewardError(
            f"{who} gave {type(answer).__name__}", f"a list of {expected} numbers", "give one number per response"
        ) from error
    if len(values) != expected:
        raise RewardError(
            f"{who} gave {len(values)} values for {expected} responses",
            f"{expected} numbers, in the order of the responses",
            "give one number per response, None where there is none",
        )
    return [_as_float(value, who) for value in values]


def _as_float(value: Any, who: str) -> float | None:
    if value is None:
        return None
    try:
        number = math.nan if isinstance(value, (str, bytes)) else float(value)
        good = not isinstance(value, (str, bytes))
    except (TypeError, ValueError, RuntimeError):
        number, good = math.nan, False
    if not good:
        raise RewardError(
            f"{who} gave {type(value).__name__} {value!r:.60} as a reward", "a number", "give numbers, None for none"
        )
    return number if math.isfinite(number) else None
