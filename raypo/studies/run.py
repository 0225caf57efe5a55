"""`raypo study NAME`: find a study, run it, write what it found, and tell it."""

from __future__ import annotations

import importlib
import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from raypo.bench.measure import environment
from raypo.errors import ConfigError, RaypoError
from raypo.studies import overview
from raypo.studies.catalogue import entry
from raypo.studies.result import Result, Setting
from raypo.studies.sentences import lies
from raypo.studies.write import figure, prepare, told, write

COLUMNS = ("condition", "measure", "n", "seeds", "effect", "low", "high", "p", "power", "detectable", "verdict")

VERDICTS = {name: text if name == "undecided" else f"the claim {text}" for name, text in overview.VERDICTS.items()}


def study(
    name: str, *, quick: bool, seed: int, out: Path | None, options: Sequence[str], most: int | None = None
) -> Result:
    """Run a study and write it.

    Args:
        name: in the catalogue.
        quick: see `Setting`.
        seed: see `Setting`.
        out: folder; None: `study-NAME`.
        options: KEY=VALUE of the study.
        most: see `Setting`.

    Raises:
        ConfigError: an unknown study or option, or a folder of another study.
        OutputError: the folder cannot be written.
    """
    about, place = entry(name), out or Path(f"study-{name}")
    setting = Setting(quick=quick, seed=seed, options=parsed(name, about.takes, options), most=most, place=place)
    flags = ["--quick"] * quick + (["--most", str(most)] if most is not None else []) + ["--seed", str(seed)]
    made, began = prepare(place, name), time.perf_counter()
    try:
        result: Result = importlib.import_module(f"raypo.studies.{name}").run(setting)
    except RaypoError:
        with suppress(OSError):  # a folder that the study put something into stays
            for one in made:
                one.rmdir()
        raise
    how = {
        "command": command([name, *flags, *options]),
        "shown": command([name, *flags, *map(named, options)]),
        "environment": environment(torch.get_num_threads()),
        "seconds": round(time.perf_counter() - began, 1),
        "seed": seed,
        "quick": quick,
    }
    write(place, told(name, about, result, how), result)
    return result


def command(words: Sequence[str]) -> str:
    """As it is typed in a shell."""
    return shlex.join(["raypo", "study", *words])


def named(option: str) -> str:
    """KEY=PATH as KEY=NAME, where there is something at the path: for readers who have it elsewhere."""
    key, _, value = option.partition("=")
    return f"{key}={key.upper().replace('.', '_')}" if value and Path(value).exists() else option


def parsed(name: str, takes: Mapping[str, str], options: Sequence[str]) -> dict[str, str]:
    """Options as a mapping; a study that takes `config` hands all others on to it.

    Raises:
        ConfigError: not KEY=VALUE, or a key that the study does not take.
    """
    found = {}
    for text in options:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise ConfigError(f"study option {text!r}", "KEY=VALUE")
        if key not in takes and "config" not in takes:
            expected = f"one of {', '.join(takes)}" if takes else "none: it takes no options"
            raise ConfigError(f"study {name} has no option {key!r}", expected)
        found[key] = value
    return found


def shown(result: Result) -> list[list[str]]:
    """The table's cells, a row each, by COLUMNS; the last says what a row's three tests and its interval tell."""
    return [
        [
            *(figure(None if cell != cell else cell) if isinstance(cell, float) else str(cell) for cell in cells),
            lies(row),
        ]
        for row, cells in (
            (row, [told[name] for name in COLUMNS[:-1]]) for row, told in zip(result.rows, result.table(), strict=True)
        )
    ]
