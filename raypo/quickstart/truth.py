"""Estimators of dispersion held against the truth that the language sets, with a shuffled control beside them.

Read from the run's first annotated table, after the run: nothing here reaches training.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from raypo.config import DispersionConfig, RunConfig
from raypo.evaluation.significance import Floats
from raypo.evaluation.statistics import correlation, correlation_interval
from raypo.quickstart.language import Prompt, entropy_nats, truth
from raypo.stages.annotation import dispersion_index

ESTIMATORS = ("reward_spread", "reference_entropy", "likelihood")
SHUFFLES = 500


def compare(table: pa.Table, config: RunConfig, vocabulary: int) -> dict[str, Any]:
    """Every estimator against the truth, on one round.

    Args:
        table: rows of records.ANNOTATED with prompts of the quickstart's language.
        config: of the run: its seed, and coverage and resamples of intervals.
        vocabulary: width of the logits, for the estimators that divide by ln V.

    Returns:
        plain values: `prompts`; `ceiling`, the rank correlation of a perfect estimator, below 1 because truth has ties;
        `used`, the estimator that trained; `estimators`, one entry each with `correlation` (rank correlation with the
        truth: mean, low, high), `shuffled` (the same after giving each prompt another prompt's estimate: mean, and the
        range of 95 % of shuffles) and `classes` (mean estimate of each class); `points`, one per prompt.

    Raises:
        ValueError: a prompt is not of the language.
    """
    prompts = [Prompt.parse(text) for text in table["prompt"].to_pylist()]
    true = np.array([truth(prompt.text) for prompt in prompts])
    found = {name: index_by(name, table, config, vocabulary) for name in ESTIMATORS}
    return {
        "prompts": len(prompts),
        "used": config.dispersion.estimator,
        "ceiling": correlation(true, np.argsort(np.argsort(true, kind="stable")).astype(np.float64)),
        "estimators": [
            {
                "name": name,
                "correlation": against(index, true, config),
                "shuffled": shuffled(index, true, config.seed),
                "classes": by_class(index, prompts),
            }
            for name, index in found.items()
        ],
        "points": [
            {"entropy": prompt.entropy, "dispersion": prompt.dispersion, "truth": float(true[row])}
            | {name: float(index[row]) for name, index in found.items()}
            for row, prompt in enumerate(prompts)
        ],
    }


def index_by(estimator: str, table: pa.Table, config: RunConfig, vocabulary: int) -> Floats:
    """Dispersion index per row by a named estimator."""
    chosen = config.model_copy(update={"dispersion": DispersionConfig.model_validate({"estimator": estimator})})
    return np.asarray(dispersion_index(table, chosen, vocabulary).numpy(), dtype=np.float64)


def against(index: Floats, true: Floats, config: RunConfig) -> dict[str, float]:
    """Rank correlation with the truth, with its interval over prompts."""
    options = config.evaluation
    found = correlation_interval(index, true, confidence=options.confidence, samples=options.bootstrap_samples)
    return {"mean": found.mean, "low": found.low, "high": found.high}


def shuffled(index: Floats, true: Floats, seed: int) -> dict[str, float]:
    """Rank correlation when each prompt is given another prompt's estimate: what chance alone gives."""
    rng = np.random.default_rng(seed)
    draws = [correlation(rng.permutation(index), true) for _ in range(SHUFFLES)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return {"mean": float(np.mean(draws)), "low": float(low), "high": float(high)}


def by_class(index: Floats, prompts: list[Prompt]) -> list[dict[str, Any]]:
    """Mean estimate of each class of prompts, beside what the language makes true of it."""
    classes = sorted({(prompt.entropy, prompt.dispersion) for prompt in prompts})
    told = []
    for entropy, dispersion in classes:
        rows = [
            row for row, prompt in enumerate(prompts) if (prompt.entropy, prompt.dispersion) == (entropy, dispersion)
        ]
        told.append(
            {
                "entropy": entropy,
                "dispersion": dispersion,
                "entropy_nats": entropy_nats(prompts[rows[0]]),
                "truth": truth(prompts[rows[0]].text),
                "estimate": float(index[rows].mean()),
                "prompts": len(rows),
            }
        )
    return told


def lines(comparison: dict[str, Any]) -> list[str]:
    """The comparison in plain words."""
    told = [
        f"dispersion: rank correlation with the truth over {comparison['prompts']} prompts, "
        + f"where a perfect estimator has {comparison['ceiling']:.2f}"
    ]
    for one in comparison["estimators"]:
        value, chance = one["correlation"], one["shuffled"]
        used = "  <- used by this run" if one["name"] == comparison["used"] else ""
        told.append(
            f"  {one['name']:18} {value['mean']:+.2f} [{value['low']:+.2f}, {value['high']:+.2f}]   "
            f"shuffled [{chance['low']:+.2f}, {chance['high']:+.2f}]{used}"
        )
    return told
