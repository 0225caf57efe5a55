"""The layout of a run's folder, and what can be read back from it.

run.json                          kind, config, its hash, versions, pins: what a resumed run must share
prompts/                          records.PROMPTS
rounds/round-0000/sampled|scored|annotated/
rounds/round-0000/inputs.json     ties, skew and agreement of the round's rewards, histogram of its dispersion
evaluations/version-0000/         held-out rows, records.SCORED, with the evaluation in the manifest's facts
checkpoints/version-0001/         state/ for resume, model/ as a Hugging Face folder
metrics.jsonl  tensorboard/       one line per optimizer step
stop.json  summary.json  report.html

An offline run has one version, and train/ and heldout/ with annotated/ and inputs.json in place of rounds/ and
evaluations/.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from raypo.config import RunConfig
from raypo.errors import IntegrityError
from raypo.online.decisions import Measured
from raypo.stages import tables
from raypo.stages.mirror import mirrored
from raypo.stages.owner import owned
from raypo.training import checkpoint

Rest = ParamSpec("Rest")
Answer = TypeVar("Answer")

STAGES = ("sampled", "scored", "annotated")


class RunFolder:
    """Paths of one run. Picklable; holds no handles.

    Args:
        config: of the run.
    """

    def __init__(self, config: RunConfig) -> None:
        # absolute: Ray Train takes no other, and workers may stand elsewhere
        self.root = os.path.abspath(tables.join(config.output, config.name))
        self._policy = config.policy.path

    def path(self, *parts: str) -> str:
        """A path below the run's folder."""
        return tables.join(self.root, *parts)

    def stage(self, round_index: int, stage: str) -> str:
        """Folder of a stage's table."""
        return self.path("rounds", f"round-{round_index:04d}", stage)

    def evaluation(self, version: int) -> str:
        """Folder of a version's held-out rows."""
        return self.path("evaluations", f"version-{version:04d}")

    def checkpoint(self, version: int) -> str:
        """Folder of a version's checkpoint."""
        return self.path("checkpoints", f"version-{version:04d}")

    def model(self, version: int) -> str:
        """Durable Hugging Face folder of a version: the source policy itself for version 0."""
        return self._policy if version == 0 else tables.join(self.checkpoint(version), "model")

    def reference(self, version: int, kind: str) -> str:
        """Folder of the reference for the round that starts from a version."""
        if kind == "initial" or version == 0:
            return self._policy
        return self.model(version) if kind == "previous" else tables.join(self.checkpoint(version), "reference")

    def evaluations(self) -> list[dict[str, Any]]:
        """Facts of every evaluated version, in order."""
        found: list[dict[str, Any]] = []
        while (manifest := tables.manifest_of(self.evaluation(len(found)))) is not None:
            found.append(manifest.facts)
        return found

    def history(self, until: int | None = None) -> list[Measured]:
        """What the stop and keep rules need of every evaluated version, up to one where it is given.

        Later versions than the newest checkpoint were evaluated when a torn checkpoint had to be made again.
        """
        return [
            Measured(
                facts["version"], facts["evaluation"]["reward"]["mean"], facts["evaluation"]["kl_per_response"]["mean"]
            )
            for facts in self.evaluations()[: None if until is None else until + 1]
        ]

    def stage_facts(self) -> list[dict[str, dict[str, Any]]]:
        """Per round with a sampled table: facts of each committed stage by name.

        Raises:
            IntegrityError: a round is finished and one of its tables is gone.
        """
        rounds: list[dict[str, dict[str, Any]]] = []
        finished = self._finished_rounds()
        while True:
            found = {stage: tables.manifest_of(self.stage(len(rounds), stage)) for stage in STAGES}
            if len(rounds) < finished:
                self._refuse_lost(len(rounds), [stage for stage, manifest in found.items() if manifest is None])
            if found["sampled"] is None:
                return rounds
            rounds.append({stage: manifest.facts for stage, manifest in found.items() if manifest is not None})

    def trained(self) -> list[dict[str, Any]]:
        """What each finished training round said of itself: seconds, sync, changed fraction.

        The newest finished round may not have said it yet: its checkpoint comes first.

        Raises:
            IntegrityError: what an older round said is gone.
        """
        found: list[dict[str, Any]] = []
        finished = self._finished_rounds()
        while (facts := tables.read_json(self.stage(len(found), "trained.json"))) is not None:
            found.append(facts)
        if len(found) + 1 < finished:
            self._refuse_lost(len(found), ["trained.json"])
        return found

    def _finished_rounds(self) -> int:
        """Rounds whose weights are durable: the newest version."""
        return max(checkpoint.complete_versions(self.root), default=0)

    def _refuse_lost(self, round_index: int, lost: list[str]) -> None:
        """Refuse a finished round that lacks something: figures over the rest would be called those of the run."""
        if lost:
            raise IntegrityError(
                f"round {round_index} of {self.root} is finished, and its {', '.join(lost)} "
                f"{'is' if len(lost) == 1 else 'are'} gone",
                "what every finished round left: the run's figures are over all of them",
                f"restore {self.path('rounds', f'round-{round_index:04d}')}",
            )

    def summary(self) -> tuple[dict[str, Any] | None, str | None]:
        """What a finished run said of itself, if it can be read; and in one sentence why not, where it is damaged."""
        place = self.path("summary.json")
        try:
            known = tables.read_json(place)
        except IntegrityError as error:
            return None, error.got
        if known is not None and not isinstance(known, dict):
            return None, f"{place} is no JSON object"
        return known, None


def owns_its_folder(
    verb: Callable[Concatenate[RunConfig, Rest], Answer],
) -> Callable[Concatenate[RunConfig, Rest], Answer]:
    """A way to run that is the run's only driver, and before all else: what a mirror fetches is written too."""

    @wraps(verb)
    def alone(config: RunConfig, *args: Rest.args, **kwargs: Rest.kwargs) -> Answer:
        with owned(RunFolder(config).root):
            return verb(config, *args, **kwargs)

    return alone


def keeps_a_mirror(
    verb: Callable[Concatenate[RunConfig, Rest], Answer],
) -> Callable[Concatenate[RunConfig, Rest], Answer]:
    """A way to run that fetches the run's folder from the config's mirror first, and keeps the mirror up to date."""

    @wraps(verb)
    def kept(config: RunConfig, *args: Rest.args, **kwargs: Rest.kwargs) -> Answer:
        with mirrored(config, RunFolder(config).root):
            return verb(config, *args, **kwargs)

    return kept
