"""raypo.bench.online: the arithmetic of a round's parts, from the files that a run leaves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tiny import prompt_table, run_config

from raypo.bench.online import rounds_of
from raypo.online.folder import STAGES, RunFolder
from raypo.online.identity import RUN, open_folder
from raypo.stages import tables


def test_what_passes_around_each_stage_is_told(tiny_model: Path, tmp_path: Path) -> None:
    """The second round, on the clock: told at 100, evaluated by 103.5 in 3 s, sampled by 110 in 6.25, scored by 111 in
    0.75, annotated by 113 in 1.5, told at 120 after 5 + 1 + 0.5: around them 0.5, 0.25, 0.25, 0.5 and 0.5, 2 of 20 s.
    """
    config = run_config(tiny_model, tmp_path)
    folder = RunFolder(config)
    open_folder(folder, config, RUN)
    seconds = {"evaluation": 3.0, "sampled": 6.25, "scored": 0.75, "annotated": 1.5}
    ends = {"evaluation": 103.5, "sampled": 110.0, "scored": 111.0, "annotated": 113.0}
    for number in range(2):
        for name in ("evaluation", *STAGES):
            place = folder.evaluation(number) if name == "evaluation" else folder.stage(number, name)
            tables.commit(place, prompt_table("a"), "prompts", {"seconds": seconds[name]})
            os.utime(Path(place) / tables.MANIFEST, (0, ends[name]))
        told = folder.stage(number, "trained.json")
        tables.write_json(told, {"round": number, "seconds": 5.0, "save_seconds": 1.0, "sync_seconds": 0.5})
        os.utime(told, (0, 100.0 + 20 * number))
    (found,) = rounds_of(folder)
    assert found == pytest.approx(
        {"sample": 6.25, "score": 0.75, "annotate": 1.5, "train": 5.0, "save": 1.0, "sync": 0.5, "evaluate": 3.0}
        | {"around evaluate": 0.5, "around sample": 0.25, "around score": 0.25, "around annotate": 0.5}
        | {"around train, save, sync": 0.5, "between stages, all of it": 2.0, "wall": 20.0}
    )
