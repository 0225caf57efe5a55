"""What is read back from a run's folder, and what `raypo report` says of one that it cannot tell of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny import prompt_table, run_config

from raypo.config import RunConfig
from raypo.errors import DataError, IntegrityError
from raypo.online.folder import STAGES, RunFolder
from raypo.online.identity import RUN, TRAIN, open_folder
from raypo.online.summary import rewrite_report, write
from raypo.stages import tables
from raypo.training import checkpoint
from raypo.training.checkpoint import Checkpoint


@pytest.fixture
def config(tiny_model: Path, tmp_path: Path) -> RunConfig:
    return run_config(tiny_model, tmp_path)


@pytest.fixture
def folder(config: RunConfig) -> RunFolder:
    """Two finished rounds, and a third of which sampling is done."""
    made = RunFolder(config)
    open_folder(made, config, RUN)
    for version in range(3):
        tables.commit(made.evaluation(version), prompt_table("a"), "prompts", {"evaluation": {}})
        for stage in STAGES if version < 2 else STAGES[:1]:
            tables.commit(made.stage(version, stage), prompt_table("a"), "prompts", {"seconds": version})
    for version in (1, 2):
        Path(made.model(version)).mkdir(parents=True)
        state = Path(made.checkpoint(version)) / checkpoint.METADATA
        state.parent.mkdir()
        state.write_bytes(b"state")
        checkpoint.commit(made.root, Checkpoint(version, version / 3, version))
        tables.write_json(made.stage(version - 1, "trained.json"), {"round": version - 1})
    return made


def test_rounds_are_read_back_by_stage(folder: RunFolder) -> None:
    assert [list(one) for one in folder.stage_facts()] == [list(STAGES), list(STAGES), ["sampled"]]
    assert [one["round"] for one in folder.trained()] == [0, 1]


@pytest.mark.parametrize("lost", ["rounds/round-0000", "rounds/round-0001", "rounds/round-0001/scored"])
def test_lost_tables_of_a_finished_round_are_never_counted_as_none(folder: RunFolder, lost: str) -> None:
    """Neither by what reads them nor by the report, which would show figures over fewer rounds as the run's."""
    shutil.rmtree(folder.path(lost))
    for read in (folder.stage_facts, lambda: rewrite_report(folder.root)):
        with pytest.raises(
            IntegrityError, match=rf"round {int(lost[15:17])} of .* is finished, and its .*gone"
        ) as caught:
            read()
        assert caught.value.remedy == f"restore {folder.path(lost[:17])}"
    assert not Path(folder.path("summary.json")).exists()


def test_a_run_has_a_summary_only_when_it_has_its_page(folder: RunFolder, config: RunConfig) -> None:
    """A summary says that the run has ended, and nobody makes the page then; here its evaluations are empty."""
    with pytest.raises(KeyError):
        write(config, folder, {"seconds": {}})
    assert not Path(folder.path("summary.json")).exists()


def test_what_the_newest_round_said_may_be_still_to_come_and_that_of_an_older_one_not(folder: RunFolder) -> None:
    Path(folder.stage(1, "trained.json")).unlink()
    assert len(folder.trained()) == 1
    Path(folder.stage(0, "trained.json")).unlink()
    with pytest.raises(IntegrityError, match=r"its trained\.json is gone"):
        folder.trained()


def test_a_finished_round_counts_although_its_checkpoint_was_removed_later(folder: RunFolder) -> None:
    """The newest version alone is kept for sure."""
    shutil.rmtree(folder.checkpoint(1))
    shutil.rmtree(folder.path("rounds", "round-0000"))
    with pytest.raises(IntegrityError, match="round 0"):
        folder.stage_facts()


def test_a_page_of_an_offline_run_is_refused_with_where_its_figures_are(config: RunConfig) -> None:
    folder = RunFolder(config)
    open_folder(folder, config, TRAIN)
    with pytest.raises(DataError, match="a run of raypo train, which writes no page") as caught:
        rewrite_report(folder.root)
    assert "let it run on" in caught.value.remedy
    Path(folder.path("summary.json")).write_text(json.dumps({}))
    with pytest.raises(DataError) as caught:
        rewrite_report(folder.root)
    assert caught.value.remedy == f"read {folder.path('summary.json')}"
