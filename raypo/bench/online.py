"""`raypo bench online`: where the time of a round goes, stage by stage, and what is left over between stages.

A whole run of a given config, in a folder of its own that is removed afterwards. A round's wall time is that between
two finished training rounds, read from the run's own records. What its stages do not account for is the loop's
overhead, told by the stage that it surrounds: the hand-over before it, and the commit of what it made behind it.
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
from raypo.online.summary import seconds_by_stage
from raypo.stages import tables

BETWEEN = "between stages, all of it"


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
    rows = [{"part": name, **spread([one[name] for one in rounds])} for name in rounds[0]]
    show(f"seconds of a round, over {len(rounds)} rounds", rows)
    found = {"environment": environment(config.training.threads), "rounds": rounds, "parts": rows}
    write(out, found)
    return found


def rounds_of(folder: RunFolder) -> list[dict[str, float]]:
    """Per round after the first: seconds by stage, what passes around each stage, the sum of that, and wall seconds.

    A round ends when its training is told; the evaluation of the version that it starts from belongs to it.
    """
    found = []
    for number in range(1, len(folder.trained())):
        evaluated = folder.evaluations()[number : number + 1]
        stages, trained = folder.stage_facts()[number : number + 1], folder.trained()[number : number + 1]
        began, around = _told(folder, number - 1), {}
        ends = {
            "evaluate": (_ended(folder.evaluation(number)), evaluated[0]["seconds"]),
            "sample": (_ended(folder.stage(number, "sampled")), stages[0]["sampled"]["seconds"]),
            "score": (_ended(folder.stage(number, "scored")), stages[0]["scored"]["seconds"]),
            "annotate": (_ended(folder.stage(number, "annotated")), stages[0]["annotated"]["seconds"]),
            "train, save, sync": (
                _told(folder, number),
                sum(trained[0][name] for name in ("seconds", "save_seconds", "sync_seconds")),
            ),
        }
        last = began
        for name, (end, seconds) in ends.items():
            around[f"around {name}"], last = end - last - seconds, end
        parts = seconds_by_stage(evaluated, stages, trained)
        found.append({**parts, **around, BETWEEN: sum(around.values()), "wall": last - began})
    return found


def _ended(stage: str) -> float:
    """When a stage's table was committed, seconds on the clock."""
    return Path(tables.join(stage, tables.MANIFEST)).stat().st_mtime


def _told(folder: RunFolder, number: int) -> float:
    """When a round's training was told."""
    return Path(folder.stage(number, "trained.json")).stat().st_mtime
