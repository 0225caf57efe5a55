"""What the tests share: tiny models made by code, and one Ray for the session."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")

import math
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hf_folders import make_model
from hypothesis import settings

# no test is timed: a first example that loads a library, on a machine with other work, is not wrong
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long chaos may take: a machine that is slow today shows fewer of its tests, and says which."""
    told = "chaos tests that would begin later than this are skipped, and told"
    parser.addoption("--chaos-minutes", type=float, default=math.inf, help=told)


BEGAN = time.monotonic()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture: those of chaos are whole runs."""
    late = time.monotonic() - BEGAN > 60 * item.config.getoption("--chaos-minutes")
    if late and item.get_closest_marker("chaos"):
        pytest.skip(f"NOT RUN, --chaos-minutes are over: {item.nodeid}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Fast tests first: what fails fast is seen fast. Chaos alone, when it is asked for."""
    if "chaos" not in config.option.markexpr:
        chaos = [item for item in items if item.get_closest_marker("chaos")]
        items[:] = [item for item in items if item not in chaos]
        config.hook.pytest_deselected(items=chaos)
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama whose head is its own."""
    return make_model(tmp_path_factory.mktemp("models") / "untied", tied=False)


@pytest.fixture(scope="session")
def tiny_tied_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama whose head is its embedding."""
    return make_model(tmp_path_factory.mktemp("models") / "tied", tied=True)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One Ray for the session, with CPUs enough for Data beside Train."""
    import logging

    import ray

    from raypo.stages.cluster import start_local

    start_local(
        {
            "address": "local",
            "num_cpus": 8,
            "include_dashboard": False,
            "logging_level": logging.ERROR,
            "log_to_driver": False,
            "runtime_env": {
                "env_vars": {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": os.getcwd()}
            },
        }
    )
    yield
    ray.shutdown()
