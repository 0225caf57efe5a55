"""raypo.online.coordinator: what it answers when train workers ask a second time; what a run warns of."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from tiny import prompt_table, run_config

from raypo.online import committed
from raypo.online.coordinator import Coordinator
from raypo.online.folder import RunFolder
from raypo.online.summary import resent, unmoved
from raypo.stages import tables
from raypo.training import checkpoint
from raypo.training.checkpoint import Checkpoint
from raypo.training.rounds import Stop


class Engines:
    """One engine that holds whatever it is asked to."""

    def versions(self) -> list[int]:
        """Held before."""
        return [0]

    def bring_up(self, folder: str, version: int) -> int:
        """Starts nothing."""
        return 0


def evaluated(folder: RunFolder, version: int) -> None:
    """Commit a version's held-out rows, as an evaluation of it does."""
    mean = {"mean": 0.5, "low": 0.4, "high": 0.6}
    figures = {"reward": mean, "kl_per_response": mean}
    source = committed.drawn_from(folder, version)
    facts = {"version": version, "evaluation": figures, "seconds": 1.0, "source": source}
    tables.commit(folder.evaluation(version), prompt_table("a"), "prompts", facts)


def test_a_moving_reference_that_stood_still_is_told(tiny_model: Path, tmp_path: Path) -> None:
    """9 steps, a move every 10th: none. Every 9th: one. A preset with a fixed reference has none to move."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(f'{{"step": {step}}}\n' for step in range(1, 10)))

    def warned(every: int, preset: str) -> list[str]:
        training = {"reference_steps": every}
        config = run_config(tiny_model, tmp_path, objective={"preset": preset}, training=training)
        return unmoved(config, RunFolder(config))

    assert len(warned(10, "tr-dpo")) == 1
    assert "reference_steps = 10, and the run had 9 optimizer steps" in warned(10, "tr-dpo")[0]
    assert warned(9, "tr-dpo") == warned(10, "dpo") == []


def test_weights_that_did_not_reach_an_engine_are_told(tiny_model: Path, tmp_path: Path) -> None:
    """Rounds 1 and 3 of three."""
    folder = RunFolder(run_config(tiny_model, tmp_path))
    for index, failed in enumerate([True, False, True]):
        tables.write_json(folder.stage(index, "trained.json"), {"round": index, "sync_failed": failed})
    assert resent(folder) == [
        "an engine failed while the weights of round 1, 3 came to it; it was brought up from their folder"
    ]
    tables.write_json(folder.stage(0, "trained.json"), {"round": 0})
    tables.write_json(folder.stage(2, "trained.json"), {"round": 2, "sync_failed": False})
    assert resent(folder) == []


def test_a_round_whose_worker_died_between_checkpoint_and_report_is_told_by_the_coordinator(
    tiny_model: Path, tmp_path: Path
) -> None:
    """The worker asked for round 0 and left version 1; the group starts again, and asks what follows on it.

    The coordinator itself lived on, so nothing else would tell; the summary refuses a round of which nothing is told.
    """
    config = run_config(tiny_model, tmp_path, online={"rounds": 1})
    folder, coordinator = RunFolder(config), Coordinator(config, SimpleNamespace(engines=Engines()))
    tables.commit(folder.path("prompts"), prompt_table("a"), "prompts")
    evaluated(folder, 0)
    coordinator._answers = {0: Stop("stands for the round that the worker was given")}
    Path(folder.model(1)).mkdir(parents=True)
    state = Path(folder.checkpoint(1)) / checkpoint.METADATA
    state.parent.mkdir()
    state.write_bytes(b"state")
    checkpoint.commit(folder.root, Checkpoint(1, 1.0, 4, facts={"seconds": 2.5, "changed_fraction": 0.5}))
    evaluated(folder, 1)
    assert folder.trained() == []

    answer = coordinator.next(1)
    assert coordinator.error() is None
    assert isinstance(answer, Stop)
    told = {"round": 0, "seconds": 2.5, "changed_fraction": 0.5, "save_seconds": 0.0, "sync_seconds": 0.0}
    assert folder.trained() == [told]
