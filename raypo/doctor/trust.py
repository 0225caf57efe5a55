"""Whether rewards can be trusted, before anything trains on them: by themselves, and beside known preferences.

What speaks against them by themselves needs responses and nothing else. Whether they are right needs pairs of which
somebody knows the better one: sets with people's choices or votes, in any layout that `raypo train` reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raypo.config import PromptsConfig, RunConfig
from raypo.data.chat import load_sets
from raypo.doctor.findings import Finding, ok, warn
from raypo.errors import ConfigError
from raypo.evaluation.diagnostics import by_source
from raypo.evaluation.doubts import RIGHT, doubts
from raypo.evaluation.inputs import Audit, audited
from raypo.models.load import load_tokenizer
from raypo.stages import verbs
from raypo.stages.actors import create_scorers

AUDITED = 256
"""Sets of an audit that are read: an interval of the share in the right order is then some 0.1 wide."""
LOOK = (
    "look at the responses that it favours; an objective by order alone, such as dpo, does not read the size of "
    "rewards, and --audit SETS tells how often a reward is right"
)

Values = Sequence[Sequence[float | None]]


def doubt(name: str, values: Values, lengths: Sequence[Sequence[int]]) -> Finding:
    """What a source's rewards give reason to doubt, by themselves.

    Args:
        name: of the source.
        values: per set, per response.
        lengths: of the responses, in tokens.
    """
    found = doubts(values, [np.array(row, dtype=np.float64) for row in lengths])
    known = sum(value is not None and bool(np.isfinite(value)) for row in values for value in row)
    rests = f"on {known} responses to {len(values)} prompts"
    if found.warnings:
        return warn(f"trust in {name}", f"{'; '.join(found.warnings)} ({rests})", "rewards that can be trusted", LOOK)
    return ok(f"trust in {name}", f"nothing speaks against its size or order {rests}")


def doubts_of(scored: pa.Table) -> list[Finding]:
    """A finding for each source of scored responses (records.SCORED)."""
    lengths = [[len(ids) for ids in row] for row in scored["response_token_ids"].to_pylist()]
    return [doubt(name, values, lengths) for name, values in by_source(scored).items()]


def known_sets(config: RunConfig, path: Path) -> pa.Table:
    """The sets of an audit, as the policy reads them, with their known preferences as column `rewards`.

    Args:
        config: of the run; what is too long for it is left out.
        path: JSONL, JSON or Parquet, in any layout of `prompts.sets_format`.

    Raises:
        ConfigError: the run has no reward source.
        DataError: the file cannot be read, or no set is left.
    """
    if not config.rewards:
        raise ConfigError(
            "--audit without a reward source", "rewards: what is to be compared with them", "add one, or drop --audit"
        )
    policy, given = config.policy, config.prompts
    where = PromptsConfig(
        path=str(path),
        limit=AUDITED,
        heldout_fraction=0.0,
        max_prompt_tokens=given.max_prompt_tokens,
        template_arguments=given.template_arguments,
    )
    tokenizer = load_tokenizer(policy.path, policy.revision, policy.chat_template)
    return load_sets(where, tokenizer, max_response_tokens=config.sampling.max_response_tokens)[0]


def audit(config: RunConfig, known: pa.Table) -> list[Finding]:
    """Score the responses of an audit, and compare each source with what is known of them. Takes Ray.

    Args:
        config: of the run, with one replica of each scorer.
        known: of `known_sets`.

    Raises:
        RewardError: a source is broken.
    """
    truth = dict(zip(known["prompt_id"].to_pylist(), known["rewards"].to_pylist(), strict=True))
    actors = create_scorers(config)
    try:
        sampled = known.drop_columns(["rewards", "split"])
        scored, _ = verbs.score(sampled, actors, config, progress=lambda chunk: None)
    finally:
        actors.shutdown()
    return judged_by(scored, truth, config)


def judged_by(scored: pa.Table, truth: dict[str, list[Any]], config: RunConfig) -> list[Finding]:
    """A finding for each source, and for their weighted sum where there are several.

    Args:
        scored: records.SCORED.
        truth: known preferences by prompt id, a number per response: the greater is the better.
        config: confidence and resamples.
    """
    trusted = [truth[one] for one in scored["prompt_id"].to_pylist()]
    sources: dict[str, Values] = {f"reward {name}": values for name, values in by_source(scored).items()}
    if len(sources) > 1:
        sources["training reward"] = scored["rewards"].to_pylist()
    options = config.evaluation
    return [
        audit_finding(name, audited(values, trusted, confidence=options.confidence, samples=options.bootstrap_samples))
        for name, values in sources.items()
    ]


def audit_finding(name: str, found: Audit) -> Finding:
    """What an audit says of a source: share in the right order, and how far differences are log-odds."""
    name = f"audit of {name}"
    if not found.pairs:
        return warn(name, "no pair of which both are known", "sets with preferences", "give others as --audit")
    right, slope, fit = found.right, found.slope, found.calibration
    told = (
        f"orders {right.percent()} of a set's known pairs as they are known, a mean "
        f"over {right.n} sets with {found.pairs} pairs; read as log-odds, a difference of 1 is "
        f"{slope.mean:.2f} [{slope.low:.2f}, {slope.high:.2f}] logits, "
        f"calibration error {fit.error:.2f}, Brier score {fit.brier:.2f} (a coin: 0.25)"
    )
    if right.mean < RIGHT:
        return warn(
            name, told, f"at least {RIGHT:.0%} of pairs in the known order", "mend the reward, or take another one"
        )
    return ok(name, told)
