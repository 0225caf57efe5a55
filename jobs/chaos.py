"""Kill a run at random and compare it with the run that was never stopped: `python jobs/chaos.py CONFIG [options]`.

The config is run three times under names of their own: twice without a kill, which is the noise floor, and once through
a seeded plan of kills of the driver (SIGKILL and SIGTERM), of train workers, engines and scorers. Exits with 1 if rows
are lost or repeated, processes are left or no kill of the plan hit; and if weights differ where the noise floor says
that they are repeatable.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from raypo import config
from raypo.bench import chaos
from raypo.cli.arguments import local_path
from raypo.errors import ConfigError, OutputError, RaypoError
from raypo.stages import tables


def main(arguments: list[str]) -> int:
    """Run, kill, compare, print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", help="key=value")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the plan of kills")
    parser.add_argument("--hours", type=float, default=12.0, help="longest time for each of the three runs")
    parser.add_argument("--out", type=local_path, default=Path("chaos.json"))
    given = parser.parse_args(arguments)
    settings = config.load(given.config, given.overrides)
    console = Console()
    if os.environ.get("RAY_ADDRESS"):
        raise ConfigError(
            "RAY_ADDRESS is set", "a Ray of the run's own, whose processes are found and killed", "unset RAY_ADDRESS"
        )
    runs = {kind: Path(settings.output) / f"{settings.name}-{kind}" for kind in ("whole", "again", "killed")}
    if there := [str(place) for place in runs.values() if place.exists()]:
        raise OutputError(
            f"{', '.join(there)} exist already: kills would hit runs that are finished",
            "three names that are free",
            "choose another name=, or remove them",
        )
    write(given.out, {"runs": [str(place) for place in runs.values()]})  # before the hours that it tells of
    plan = chaos.random_plan(given.kills, settings.online.rounds, given.seed)
    records = {}
    for kind, place in runs.items():
        command = [sys.executable, "-m", "raypo.cli", "run", str(given.config), *given.overrides, f"name={place.name}"]
        kills = plan if kind == "killed" else []
        console.print(f"{kind}: {place}, {len(kills)} kills", highlight=False, soft_wrap=True)
        records[kind] = chaos.endure(command, place, kills, cwd=Path.cwd(), timeout_s=given.hours * 3600)
        console.print(f"{kind}: ended", highlight=False)
    floor, found = chaos.compare(runs["whole"], runs["again"]), chaos.compare(runs["whole"], runs["killed"])
    record = records["killed"]
    told: dict[str, Any] = {
        "noise floor: weights equal": floor["weights_equal"],
        "noise floor: tables that differ": len(floor["differ"]),
        "kills": len(record.kills),
        "kills that found nobody": len(record.missed),
        "starts of the driver": len(record.exits),
        "rows lost": found["rows_lost"],
        "rows repeated": found["rows_repeated"],
        "steps lost": found["steps_lost"],
        "steps repeated": found["steps_repeated"],
        "committed tables replaced": len(record.rewritten),
        "processes left": len(record.orphans),
        "tables that differ": len(found["differ"]),
        "weights equal": found["weights_equal"],
    }
    for name, value in told.items():
        console.print(f"{name:32} {value}", highlight=False)
    write(given.out, told | {"plan": [vars(kill) for kill in record.kills]})
    counts = ("rows lost", "rows repeated", "steps lost", "steps repeated", "processes left")
    repeatable = floor["weights_equal"] and not floor["differ"]
    broken = repeatable and not (found["weights_equal"] and not found["differ"])
    nothing = given.kills > 0 and not record.kills
    return int(any(told[name] for name in counts) or broken or nothing)


def write(out: Path, tree: dict[str, Any]) -> None:
    """Write what is told.

    Raises:
        OutputError: it cannot be written there.
    """
    try:
        tables.write_json(str(out), tree)
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error}", "a place for the figures", "choose another --out") from error


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except RaypoError as error:
        Console(stderr=True).print(f"raypo: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
