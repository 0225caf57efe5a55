"""What all trials of a study share, as one actor: annotated tables, engines with their judges, and the start's figures.

Engines, references and reward models are started once per study. Given sets are scored and annotated by the reference
once; a trial that changes only how rewards and dispersion become psi gets its own table from that one by arithmetic.
One call at a time: trials wait for their evaluation, and the engines hold one policy.
"""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.exceptions import RayTaskError

from raypo.config import RunConfig
from raypo.errors import EngineError, RewardError
from raypo.evaluation.diagnostics import evaluate
from raypo.objective import AnyObjective
from raypo.online.offline import scored_sets
from raypo.records import PROMPTS, conform
from raypo.stages import annotation, heldout, tables, verbs
from raypo.stages.actors import Actors, unwrap
from raypo.stages.cluster import objective_of
from raypo.tuning.study import StudyConfig, base_of, evaluation_of

NAME = "raypo-study"  # of the actor, within the driver's own namespace
FINISHED = ("trainable", "untrainable_reason", "scaled_rewards", "dispersion", "psi")
"""Columns of an annotated table that follow from the others and from a config."""
ATTEMPTS = 3  # of one evaluation, when an engine dies under it


class Shared:
    """Tables and evaluations for trials.

    Args:
        study: whose trials.
        root: the study's folder.
        actors: engines, references and reward models; None for an online study, whose runs have their own.
        given: offline sets of `load_sets`; None for an online study.
    """

    def __init__(self, study: StudyConfig, root: str, actors: Actors | None, given: pa.Table | None) -> None:
        self._study, self._root, self._given = study, root, given
        self._all = actors
        self._base = base_of(study)
        self._config = evaluation_of(study, self._base)
        self._held = 0  # what the engines call the policy that they hold; 0 is the start
        self._whole: dict[str, tables.Manifest] = {}  # tables that were read here; a trial reads its own again

    @property
    def _actors(self) -> Actors:
        assert self._all is not None  # only offline trials ask for what needs them
        return self._all

    def study(self) -> StudyConfig:
        """The study."""
        return self._study

    def table(self, config: RunConfig) -> tuple[str, ...]:
        """Files of the annotated training sets as a config wants them.

        Raises:
            RewardError: no set can train.
        """
        dispersion = config.dispersion.model_dump(mode="json")
        finish = {
            "reward_scale": config.scoring.reward_scale,
            "min_reward_spread": config.scoring.min_reward_spread,
            "dispersion": dispersion,
            "seed": config.seed if config.dispersion.shuffle else 0,
        }
        objective = objective_of(config)
        kind = "importance" if objective.weighs_by_importance else "tokens" if wants_tokens(objective) else "plain"
        digest = hashlib.sha256(json.dumps(finish, sort_keys=True).encode()).hexdigest()[:10]
        place = tables.join(self._root, "tables", f"{kind}-{digest}")
        if place not in self._whole and (known := tables.whole(place)) is not None:
            self._whole[place] = known[1]
        if (manifest := self._whole.get(place)) is None:
            reference, facts = self._reference(config, kind)
            table, facts = annotation.finish_annotation(
                reference.drop_columns(list(FINISHED)), config, scales=None, vocabulary=facts["vocabulary"]
            )
            manifest = self._whole[place] = tables.commit(place, table, "annotated", facts | {"finish": finish})
        if not manifest.facts["trainable"]:
            raise RewardError(
                f"none of {manifest.facts['sets']} sets can train: {manifest.facts['untrainable']}",
                "rewards that differ within a set",
                "check the rewards, and scoring.min_reward_spread",
            )
        return tuple(tables.files_of(place))

    def _reference(self, config: RunConfig, kind: str) -> tuple[pa.Table, dict[str, Any]]:
        """The training sets with their rewards and the reference's figures, made once."""
        place = tables.join(self._root, "tables", f"reference-{kind}")
        if (known := tables.whole(place)) is not None:
            return known[0], known[1].facts
        assert self._given is not None  # only offline trials ask
        rows = self._given.filter(pc.equal(self._given["split"], "train"))
        scored = scored_sets(rows, self._actors, self._base, silent)
        table, facts = verbs.annotate(
            scored, self._actors, config, reference=config.policy.path, scales=None, progress=silent
        )
        tables.commit(place, table, "annotated", facts)
        return table, facts

    def start(self) -> dict[str, Any]:
        """The start's figures on the held-out prompts."""
        return self.evaluate(tables.join(self._root, "start"), self._config.policy.path, version=0)

    def evaluate(self, place: str, policy: str, *, version: int, other_prompts: bool = False) -> dict[str, Any]:
        """Sample, judge and measure a policy on held-out prompts, and commit the rows; returns the figures.

        Args:
            place: folder for the rows; figures that are there already are returned.
            policy: its Hugging Face folder.
            version: of the trial, for the record; 0 is the start.
            other_prompts: on the held-out prompts behind those that the search used.

        Returns:
            `version`, `evaluation` as of `Evaluation.to_dict`, and `seconds`.

        Raises:
            EngineError: the engines died more often than `ATTEMPTS` allows.
        """
        if (known := tables.manifest_of(place)) is not None:
            return known.facts
        began, prompts = time.monotonic(), self.prompts(other=other_prompts)
        scored, measured = self._draw(policy, prompts, is_start=version == 0)
        first = scored if version == 0 else self._first(other_prompts)
        found = evaluate(scored, first, measured, self._config).to_dict()
        facts = {"version": version, "evaluation": found, "seconds": time.monotonic() - began}
        tables.commit(place, scored, "scored", facts)
        return facts

    def prompts(self, *, other: bool = False) -> pa.Table:
        """Held-out prompts of the given sets, each once: those of the search, or as many behind them.

        A winner was chosen on the first ones, and looks better there than it is.
        """
        assert self._given is not None  # an online run evaluates for itself
        rows = conform(self._given, PROMPTS, what="the sets").filter(pc.equal(self._given["split"], "heldout"))
        rows = rows.sort_by("prompt_id")
        texts = rows["prompt"].to_pylist()
        first = sorted({text: number for number, text in reversed(list(enumerate(texts)))}.values())
        count = self._config.evaluation.num_prompts
        return rows.take(pa.array(first, pa.int64())).slice(count if other else 0, count)

    def _first(self, other_prompts: bool) -> pa.Table:
        place = tables.join(self._root, "start-confirmed" if other_prompts else "start")
        tables.whole(place)  # a torn one is set aside, and made again
        self.evaluate(place, self._config.policy.path, version=0, other_prompts=other_prompts)
        found = tables.read(place)
        assert found is not None  # evaluate committed it
        return found[0]

    def _draw(self, policy: str, prompts: pa.Table, *, is_start: bool) -> tuple[pa.Table, pa.Table]:
        """Held-out rows of a policy; engines are brought up anew when one dies."""
        if is_start:
            held = 0
        else:
            self._held += 1
            held = self._held
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._actors.engines.bring_up(policy, held)
                scored, measured, _ = heldout.draw(
                    prompts,
                    self._actors,
                    self._config,
                    version=held,
                    policy=policy,
                    initial=self._config.policy.path,
                    progress=lambda stage: silent,
                )
                return scored, measured
            except EngineError:
                if attempt == ATTEMPTS:
                    raise
        raise AssertionError("the last attempt returns or raises")


def wants_tokens(objective: AnyObjective) -> bool:
    """Whether the reference's log-prob of every token is to be kept."""
    return bool(objective.needs == "token-logps")


def silent(chunk: pa.Table) -> None:
    """No progress within a stage: a study tells its rungs."""


def ask(call: Any) -> Any:
    """The answer of a begun call of `Shared`, with our own errors; its engines' calls have deadlines of their own.

    Raises:
        RaypoError: as raised there.
    """
    try:
        return ray.get(call)
    except RayTaskError as error:
        raise unwrap(error) from error
