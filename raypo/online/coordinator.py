"""One round, as a state machine over committed tables: evaluate, decide, sample, score, annotate.

The coordinator is an actor of no CPUs on the driver's node. It holds no state that storage does not have: each step
first looks for its manifest, so a call is idempotent, and a coordinator or driver that comes back goes on behind the
last committed step. Every rank of the train function blocks in `next`, never in a collective.
"""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raypo.config import RunConfig
from raypo.errors import EngineError, LostProcess, RaypoError, RewardError, RunError
from raypo.evaluation.diagnostics import evaluate
from raypo.online import committed
from raypo.online.committed import Committed
from raypo.online.decisions import stop_reason
from raypo.online.events import Events
from raypo.online.folder import RunFolder
from raypo.online.identity import copied
from raypo.online.metrics import Metrics
from raypo.online.pace import Brake, Pace
from raypo.online.record import INPUTS, write_inputs
from raypo.stages import heldout, tables, verbs
from raypo.stages.actors import Actors
from raypo.training.rounds import RoundTask, Stop

logger = logging.getLogger(__name__)

ATTEMPTS = 3  # of one stage, when an engine dies under it


class Coordinator:
    """Answers the train workers' one question: what comes after version v?

    Args:
        config: of the run.
        actors: engines, reference scorers and reward models.
        policy_timeout_s: longest wait for a source policy that is still being written, seconds.
        paced: whether a round waits for `pace` to allow it.
    """

    def __init__(
        self, config: RunConfig, actors: Actors, policy_timeout_s: float = 0.0, *, paced: bool = False
    ) -> None:
        self._config, self._actors, self._folder = config, actors, RunFolder(config)
        self._policy_timeout_s, self._metrics = policy_timeout_s, Metrics(config.name)
        self._brake = Brake(on=paced)
        self._lock = threading.Lock()  # both ranks ask; the second finds the first one's tables
        self._events = Events(self._metrics)
        self._events.gauge = {"stage": "actors start"}
        self._failure: str | None = None
        self._error: RaypoError | None = None
        self._work_began = math.inf
        self._answers: dict[int, RoundTask | Stop] = {}  # of the newest version; another rank asks the same

    def ready(self) -> None:
        """Block until the source policy can be read.

        Raises:
            RunError: it was not written in time, or whoever writes it failed.
        """
        path, deadline = Path(self._config.policy.path), time.monotonic() + self._policy_timeout_s
        while self._policy_timeout_s and not (path / "config.json").exists():
            if self._failure is not None:
                raise RunError(self._failure)
            if time.monotonic() > deadline:
                raise RunError(f"{path} was not written within {self._policy_timeout_s:g} s", "a policy folder")
            time.sleep(0.1)

    def fail(self, message: str) -> None:
        """Let everyone who waits for the policy know that it will not come."""
        self._failure = message

    def pace(self, pace: Pace) -> None:
        """How far the run is let go from now on."""
        self._brake.set(pace)

    def next(self, version: int) -> RoundTask | Stop:
        """Evaluate a version, and then either stop or hand out the round that starts from it.

        Args:
            version: newest durable weight version.

        A stage that fails ends the run; what was committed before stays, and `error` tells why.
        """
        with self._lock:
            if self._error is not None:
                return Stop("failed")
            if version not in self._answers:
                try:
                    self.ready()
                    self._answers = {version: self._after(version)}
                    self._events.gauge = {"stage": "train workers"}  # which start, or take the round
                except RaypoError as error:
                    # told by the driver: raised here it would only make Ray Train restart the workers and ask again
                    self._error = error
                    return Stop("failed")
                except Exception as error:
                    logger.exception("a stage of the round after version %d raised", version)
                    self._error = RunError(
                        f"a stage of the round after version {version} raised {type(error).__name__}: {error}",
                        "a stage that ends or says what is wrong",
                        "see the traceback in the log; the same command continues after the last finished stage",
                    )
                    return Stop("failed")
            return self._answers[version]

    def error(self) -> RaypoError | None:
        """Why the run failed, if it did."""
        return self._error

    def _after(self, version: int) -> RoundTask | Stop:
        if not self._answers:
            self._mend(version)
        elif version:  # its train worker, or that one's node, may have died between the checkpoint and its report
            committed.mend_trained(self._folder, version - 1)
        self._bring_up(version)
        self._evaluate(version)
        if reason := stop_reason(self._folder.history(version), self._config.online) or self._brake.wait(version):
            tables.write_json(self._folder.path("stop.json"), {"reason": reason, "version": version})
            self._events.note("stop", reason, version=version)
            return Stop(reason)
        return self._round(version)

    def _mend(self, version: int) -> None:
        """Make again what storage lost of older versions and rounds: the stop rule and the summary need them all."""
        folder = self._folder
        for older in range(version):
            if tables.whole(folder.evaluation(older)) is None:
                self._bring_up(older)
                self._evaluate(older)
            if self._config.online.data == "accumulate" and tables.whole(folder.stage(older, "annotated")) is None:
                self._bring_up(older)
                self._round(older)
            committed.mend_trained(folder, older)

    def note(self, gauge: dict[str, Any]) -> None:
        """The trainer's present state, for the terminal."""
        self._events.gauge = gauge
        self._metrics.training(gauge)

    def trained(self, fields: dict[str, Any]) -> None:
        """A training round is over and durable; the engines have it, or are brought up with it."""
        tables.write_json(self._folder.stage(fields["round"], "trained.json"), fields)
        self._metrics.set("raypo_sync_seconds", fields["sync_seconds"])
        self._events.note("train", fields.pop("text"), **fields)

    def status(self, since: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Events from a number on, and what is under way now."""
        return self._events.since(since), self._events.gauge

    def started(self) -> tuple[int, float]:
        """Engine starts in the engines' present processes, and the time on the clock when work began."""
        return self._actors.engines.starts(), self._work_began

    def _bring_up(self, version: int) -> None:
        self._events.gauge = {"stage": "engines start"}
        began = time.monotonic()
        self._metrics.engines(version, self._actors.engines.versions())
        for attempt in range(1, ATTEMPTS + 1):
            try:
                started = self._actors.engines.bring_up(self._folder.model(version), version)
                break
            except LostProcess as error:
                if attempt == ATTEMPTS:
                    raise
                self._events.note("retry", f"attempt {attempt} to start engines failed: {error.got}", version=version)
        self._metrics.engines(version, [version])
        if started:
            seconds = time.monotonic() - began
            self._events.note("engine", f"{started} engine(s) hold version {version}", seconds=seconds, version=version)

    def _committed(
        self, folder: str, schema: str, version: int, work: Callable[[], tuple[pa.Table, dict[str, Any]]], source: str
    ) -> Committed:
        """The committed table of a stage; made first if there is none, a torn one, or one of another source."""
        known = committed.find(folder, source, lambda text: self._events.note("redo", text, version=version))
        if known is not None:
            return known
        self._work_began = min(self._work_began, time.time())
        for attempt in range(1, ATTEMPTS + 1):
            try:
                table, facts = work()
                break
            except EngineError as error:
                if attempt == ATTEMPTS:
                    raise
                self._events.note("retry", f"attempt {attempt} failed: {error.got}", version=version)
                self._bring_up(version)
                self._actors.wait_for_scorers(self._config.engine.start_timeout_s)
        return committed.commit(folder, table, schema, facts, source)

    def _evaluate(self, version: int) -> None:
        folder, config = self._folder, self._config
        prompts, _ = self._prompts()
        chosen = heldout.heldout_prompts(prompts, config)

        def work() -> tuple[pa.Table, dict[str, Any]]:
            began = time.monotonic()
            scored, divergence, seconds = heldout.draw(
                chosen,
                self._actors,
                config,
                version=version,
                policy=folder.model(version),
                initial=folder.model(0),
                progress=lambda stage: self._events.progress(stage, chosen.num_rows),
            )
            first, moved = scored, None
            if version > 0:
                first = self._initial()
                moved = heldout.measure(
                    first,
                    self._actors,
                    config,
                    policy=folder.model(version),
                    initial=folder.model(0),
                    progress=self._events.progress("evaluate: where probability went", chosen.num_rows),
                )
            evaluation = evaluate(scored, first, divergence, config, moved).to_dict()
            facts = {"version": version, "evaluation": evaluation, "parts": seconds}
            return scored, facts | {"seconds": time.monotonic() - began}

        done = self._committed(
            folder.evaluation(version), "scored", version, work, committed.drawn_from(folder, version)
        )
        measured = done.facts["evaluation"]
        self._metrics.evaluated(measured)
        if done.new:
            reward, kl = measured["reward"], measured["kl_per_response"]
            self._events.note(
                "evaluate",
                f"version {version}: held-out reward {reward['mean']:.3f} [{reward['low']:.3f}, {reward['high']:.3f}], "
                f"KL {kl['mean']:.2f} nats",
                version=version,
                seconds=done.facts["seconds"],
            )

    def _initial(self) -> pa.Table:
        found = tables.read(self._folder.evaluation(0))
        if found is None:
            remedy = f"remove the run's folder{copied(self._config)}"
            raise RunError("version 0 was never evaluated", "an evaluation of the start", remedy)
        return found[0]

    def _prompts(self) -> tuple[pa.Table, pa.Table]:
        """All prompts, and those that train."""
        found = tables.read(self._folder.path("prompts"))
        if found is None:
            raise RunError("the run has no prompt table", "a prompts folder in the run", "start the run again")
        return found[0], found[0].filter(pc.equal(found[0]["split"], "train"))

    def _round(self, round_index: int) -> RoundTask:
        config, folder, actors = self._config, self._folder, self._actors
        prompts = committed.round_prompts(self._prompts()[1], config, round_index)
        sampled = self._committed(
            folder.stage(round_index, "sampled"),
            "sampled",
            round_index,
            lambda: verbs.sample(
                prompts,
                actors,
                config,
                round_index=round_index,
                version=round_index,
                seeds=f"round {round_index}",
                num_responses=config.sampling.num_responses,
                progress=self._events.progress("sample", prompts.num_rows),
            ),
            committed.drawn_from(folder, round_index),
        )
        if sampled.new:
            facts = sampled.facts
            speed = facts["response_tokens"] / max(facts["seconds"], 1e-9)
            text = f"{facts['prompts']} prompts, {facts['responses']} responses, {speed:,.0f} tokens/s"
            self._events.note("sample", text, round=round_index, seconds=facts["seconds"])
        scored = self._committed(
            folder.stage(round_index, "scored"),
            "scored",
            round_index,
            lambda: verbs.score(
                sampled.table, actors, config, progress=self._events.progress("score", sampled.table.num_rows)
            ),
            sampled.content,
        )
        if scored.new:
            facts = scored.facts
            unusable = ", ".join(f"{count} {reason}" for reason, count in facts["unusable"].items()) or "none"
            text = f"reward {facts['reward_mean']:.3f}, unusable: {unusable}"
            self._metrics.set("raypo_reward", facts["reward_mean"], prompts="round")
            self._events.note("score", text, round=round_index, seconds=facts["seconds"])
        scales = self._annotate(round_index, scored)
        first = 0 if config.online.data == "accumulate" else round_index
        rounds = config.online.rounds
        return RoundTask(
            round=round_index,
            tables=tuple(
                path for r in range(first, round_index + 1) for path in tables.files_of(folder.stage(r, "annotated"))
            ),
            progress_start=round_index / rounds,
            progress_end=(round_index + 1) / rounds,
            epochs=config.online.epochs_per_round,
            seed=config.seed,
            frozen={"scales": scales, "template": committed.template(folder)},
        )

    def _annotate(self, round_index: int, scored: Committed) -> dict[str, float]:
        """Make sure that a round is annotated and can train; returns the scales."""
        config, folder = self._config, self._folder
        done = self._committed(
            folder.stage(round_index, "annotated"),
            "annotated",
            round_index,
            lambda: verbs.annotate(
                scored.table,
                self._actors,
                config,
                reference=folder.reference(round_index, config.online.reference),
                scales=committed.scales(folder, round_index),
                progress=self._events.progress("annotate", scored.table.num_rows),
            ),
            scored.content,
        )
        facts = done.facts
        if done.new or not os.path.exists(folder.stage(round_index, INPUTS)):
            text = f"{facts['trainable']} of {facts['sets']} sets can train"
            doubts = write_inputs(folder.stage(round_index, INPUTS), done.table, config)
            text += "".join(f"; warning: {one}" for one in doubts if round_index == 0)
            self._events.note("annotate", text, round=round_index, seconds=facts["seconds"])
        if facts["trainable"] < max(1, config.online.min_trainable_fraction * facts["sets"]):
            raise RewardError(
                f"{facts['trainable']} of {facts['sets']} sets of round {round_index} can train: "
                f"{json.dumps(facts['untrainable'])}",
                f"at least a share of {config.online.min_trainable_fraction:g} (online.min_trainable_fraction)",
                "the reward tells the responses of a prompt apart too seldom: check the reward, sample more responses, "
                "or raise the temperature",
            )
        return dict(facts["scales"])
