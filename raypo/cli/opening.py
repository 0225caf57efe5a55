"""What a command says before it imports torch, transformers and Ray, which takes fifteen seconds on two slow cores.

On standard error, so that standard output holds what a command found and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.markup import escape

from raypo.online.progress import console_of_choice


@contextmanager
def opening(command: str, subject: object = "") -> Iterator[None]:
    """Say at once what begins; on a terminal something moves until what is imported inside is there.

    Args:
        command: as it was typed, e.g. `bench train`.
        subject: what it is about: a file, a folder, a study's name.
    """
    console = console_of_choice(stderr=True)
    told = f"{f'raypo {command} {subject}'.rstrip()}: loading"
    if console.is_terminal and console.file.isatty():  # FORCE_COLOR makes a terminal of a file
        with console.status(escape(told)):
            yield
    else:
        console.print(told, highlight=False, markup=False, soft_wrap=True)
        yield
