"""What is read back from a run's folder, and what `raypo report` says of one that it cannot tell of."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny import annotated, prompt_table, run_config

from raypo.config import RunConfig
from raypo.errors import DataError, IntegrityError
from raypo.online.folder import STAGES, RunFolder
from raypo.online.identity import RUN, TRAIN, open_folder
from raypo.online.offline_page import offline_record, warnings_of
from raypo.online.record import INPUTS, doubted, write_inputs
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


def given_run(config: RunConfig) -> tuple[RunFolder, dict[str, Any]]:
    """The folder of a run on 6 given sets, one of them a tie, with a step of metrics; and its summary."""
    folder = RunFolder(config)
    open_folder(folder, config, TRAIN)
    table = annotated(6, responses=3, round_index=0)
    tables.commit(folder.path("train", "annotated"), table, "annotated", {"seconds": 2.0})
    write_inputs(folder.path("train", "inputs.json"), table, config)
    step = {"step": 1, "loss": 0.69, "rewards/accuracies": 0.5, "rewards/margins": 0.0, "grad_norm": 1.0}
    Path(folder.path("metrics.jsonl")).write_text(json.dumps(step) + "\n")
    summary = {
        "name": config.name, "preset": "w-mpo", "sets_in": 7, "dropped": {"empty": 1, "too_long": 0}, "steps": 1,
        "sets_trained": 5, "untrainable": {"ties": 1}, "loss": 0.69, "wall_seconds": 9.0, "model": "m", "seed": 0,
        "heldout_accuracy": {"mean": 0.6, "low": 0.45, "high": 0.75, "n": 9},
    }  # fmt: skip
    return folder, summary


def test_a_run_on_given_sets_has_a_page_once_it_has_ended(config: RunConfig) -> None:
    """One set was empty and one a tie; 0.5 is within the interval, so that nothing is claimed."""
    folder, summary = given_run(config)
    with pytest.raises(DataError, match="has not ended") as caught:
        rewrite_report(folder.root)
    assert caught.value.remedy == "let it run on"
    tables.write_json(folder.path("summary.json"), summary)
    assert rewrite_report(folder.root) == folder.path("report.html")
    page = Path(folder.path("report.html")).read_text()
    assert "not clearly otherwise than a coin: as the rewards do in 0.600 [0.450, 0.750] of them, over 9" in page
    assert "is not clear of 0.5, a coin</p>" in page
    assert "<tr><td>left out, set: empty</td><td>1</td></tr>" in page
    assert "too_long" not in page
    assert "<tr><td>left out, set: ties</td><td>1</td></tr>" in page
    assert "dispersion of training sets, mean" in page
    assert "max_response_tokens" in page
    Path(folder.path("summary.json")).write_text("torn")
    with pytest.raises(IntegrityError, match=r"summary\.json"):
        rewrite_report(folder.root)


def test_a_run_on_given_sets_without_held_out_ones_says_that_nothing_is_measured(config: RunConfig) -> None:
    folder, summary = given_run(config)
    nothing = {"mean": math.nan, "low": math.nan, "high": math.nan, "n": 0}
    record = offline_record(config, folder, summary | {"heldout_accuracy": nothing})
    assert record.headline[0].startswith("no set was held out")
    assert record.summary["warnings"][0].startswith("no set is held out: raise prompts.heldout_fraction")
    assert record.seconds == [{"annotate": 2.0}]


def test_the_doubts_of_an_inputs_json_are_warnings_of_either_kind_of_run(config: RunConfig) -> None:
    folder, summary = given_run(config)
    doubts = {"doubts": {"judge": ["rewards are skewed (+1.4)"]}}
    for place in (folder.path("train", "inputs.json"), folder.stage(0, INPUTS)):
        tables.write_json(place, doubts)
    assert warnings_of(summary, folder)[-1] == "reward 'judge': rewards are skewed (+1.4)"
    assert doubted(folder.stage(0, INPUTS)) == ["reward 'judge': rewards are skewed (+1.4)"]


def test_the_page_of_a_study_of_the_papers_is_said_where_it_is(tmp_path: Path) -> None:
    """Its figures are in the page alone, so it is not written again."""
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(DataError, match=r"no run\.json"):
        rewrite_report(tmp_path)
    (tmp_path / "page.html").write_text("a page")
    assert rewrite_report(tmp_path) == str(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == "a page"
