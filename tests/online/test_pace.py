"""A run that is held back: rounds begin when they are allowed, and never after a stop."""

from __future__ import annotations

import threading

from raypo.online.pace import Brake, Pace


def test_a_run_that_nobody_paces_is_never_held_back() -> None:
    assert Brake(on=False).wait(7) == ""


def test_a_round_waits_until_its_version_is_allowed() -> None:
    """The round after version 1 makes version 2: allowing 1 is not enough."""
    brake, answers = Brake(on=True), list[str]()
    thread = threading.Thread(target=lambda: answers.append(brake.wait(1)))
    thread.start()
    brake.set(Pace(allowed=1))
    thread.join(timeout=0.2)
    assert thread.is_alive()
    brake.set(Pace(allowed=2))
    thread.join(timeout=10)
    assert answers == [""]


def test_a_stop_lets_the_waiting_round_go_with_its_reason() -> None:
    brake, answers = Brake(on=True), list[str]()
    thread = threading.Thread(target=lambda: answers.append(brake.wait(0)))
    thread.start()
    brake.set(Pace(stopped="enough"))
    thread.join(timeout=10)
    assert answers == ["enough"]
