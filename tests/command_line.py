"""The command line, called in this process."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

import pytest

from raypo.cli import main

Command = Callable[..., tuple[int, str, str]]


def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """`raypo ARGUMENTS`: exit code, standard output and standard error; the handler of SIGTERM is put back."""
    monkeypatch.setattr(sys, "argv", ["raypo", *arguments])
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            main()
    finally:
        signal.signal(signal.SIGTERM, before)
    told = capsys.readouterr()
    return int(ended.value.code or 0), told.out, told.err
