"""`raypo bench online`: where the time of a round goes, stage by stage, and what is left over between stages.

A whole run of a given config, in a folder of its own that is removed afterwards. A round's wall time is that between
two finished training rounds, read from the run's own records; what its stages do not account for is the loop's
overhead.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from raypo.bench.measure import environment, show, spread, write
from raypo.config import RunConfig
from raypo.errors import ConfigError
from raypo.online.folder import RunFolder
from raypo.online.run import run
from raypo.online.summary import STAGES, seconds_by_stage


def bench_online(config: RunConfig, out: Path) -> dict[str, Any]:
    """Run, print the time of a round by stage, write JSON; returns what was written.

    Args:
        config: of a run of at least two rounds: the first is not counted, as actors start in it.
        out: where the JSON goes.

    Raises:
        ConfigError: fewer rounds.
        UserError: the config cannot be run.
    """
    if config.online.rounds < 2:
        raise ConfigError(f"online.rounds={config.online.rounds}", "2 or more: the first round is not counted")
    with TemporaryDirectory() as place:
        measured = config.model_copy(update={"output": place})
        run(measured)
        rounds = rounds_of(RunFolder(measured))
    parts = [*STAGES, "between stages", "wall"]
    rows = [{"part": name, **spread([one[name] for one in rounds])} for name in parts]
    show(f"seconds of a round, over {len(rounds)} rounds", rows)
    found = {"environment": environment(config.training.threads), "rounds": rounds, "parts": rows}
    write(out, found)
    return found


def rounds_of(folder: RunFolder) -> list[dict[str, float]]:
    """Per round after the first: seconds by stage, wall seconds, and the difference.

    A round ends when its training is told; the evaluation of the version that it starts from belongs to it.
    """
    ends = [Path(folder.stage(i, "trained.json")).stat().st_mtime for i in range(len(folder.trained()))]
    found = []
    for number in range(1, len(ends)):
        parts = seconds_by_stage(
            folder.evaluations()[number : number + 1],
            folder.stage_facts()[number : number + 1],
            folder.trained()[number : number + 1],
        )
        wall = ends[number] - ends[number - 1]
        found.append({**parts, "between stages": wall - sum(parts.values()), "wall": wall})
    return found
