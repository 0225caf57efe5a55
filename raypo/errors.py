"""Every failure that a user can meet, as a type: what was got, what was expected, what to do.

    RaypoError
    |- UserError            the user can mend it: exit code 2
    |  |- ConfigError       a key, a value or a combination in the configuration
    |  |- DataError         prompts or offline sets: files, columns, rows
    |  |- ModelError        a model or tokenizer folder
    |  |- RewardError       a reward source, or rewards that cannot train anything
    |  |- OutputError       the place where results are written
    |  `- ResourceError     asked of the cluster more than is free
    `- RunError             the run broke: exit code 1
       |- EngineError       an engine failed or did not answer
       |  |- StaleEngine    an engine holds another weight version than the call names
       |  `- LostProcess    the process of an engine or scorer died; Ray starts another
       `- IntegrityError    a stored table or checkpoint is torn or is not what its manifest says: exit code 2, for who
                            has the storage can restore it

All survive pickling, because Ray carries them between processes. None says what looks like a secret:
a value of a config or the answer of a server can hold one, and can get into any of them.
"""

from __future__ import annotations

from raypo.masking import masked


class RaypoError(Exception):
    """A failure told in three parts, in which what looks like a secret is masked.

    Args:
        got: what was found, with the value.
        expected: what would have been right.
        remedy: what the user can do about it.
    """

    exit_code = 1

    def __init__(self, got: str, expected: str = "", remedy: str = "") -> None:
        parts = masked(got), masked(expected), masked(remedy)
        super().__init__(*parts)
        self.got, self.expected, self.remedy = parts

    def __str__(self) -> str:
        parts = [self.got]
        if self.expected:
            parts.append(f"expected: {self.expected}")
        if self.remedy:
            parts.append(f"what to do: {self.remedy}")
        return "\n  ".join(parts)


class UserError(RaypoError):
    """Something that the user can mend."""

    exit_code = 2


class ConfigError(UserError):
    """A key, a value or a combination in the configuration."""


class DataError(UserError):
    """Prompts or offline sets: a file, a column or a row."""


class ModelError(UserError):
    """A model or tokenizer folder."""


class RewardError(UserError):
    """A reward source, or rewards from which nothing can be learned."""


class OutputError(UserError):
    """The place where results are written."""


class ResourceError(UserError):
    """More was asked of the cluster than is free."""


class RunError(RaypoError):
    """The run broke for a reason that is not in the user's input."""


class EngineError(RunError):
    """An engine failed, or did not answer in time."""


class StaleEngine(EngineError):
    """An engine holds another weight version than the call names."""


class LostProcess(EngineError):
    """The process of an engine or scorer died; Ray starts another, and what it was asked can be asked again."""


class IntegrityError(RunError):
    """A stored table or checkpoint is torn, or is not what its manifest says, and cannot be made again."""

    exit_code = 2
