"""One case of the training benchmark in a process of its own, so that its peak memory is its own.

    python -m raypo.bench.case FOLDER CASE

FOLDER holds the model, another as "reference", and sets.json; CASE is JSON: threads, packing, responses, preset, steps,
learning_rate, beta, optimizer (false: forward and backward alone), at_once (responses of a set per pass, or null for
all: what separate rows of a large set need to fit into memory), budget (tokens of a micro-batch; null: one pass, so
that layouts are compared alone), gradients (a path: write the first set's there, against the reference, and do not
train; or null: the model is its own reference). Prints one line of JSON: seconds of each step after the first two,
tokens of a step, peak_bytes, and library_bytes: what is resident before the model is there.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from raypo.bench.measure import peak_bytes
from raypo.config import HYPERPARAMETER_DEFAULTS
from raypo.data.packing import ResponseSet, pack
from raypo.logprobs import sum_by_response
from raypo.models.heap import keep_freed
from raypo.models.load import load_causal_lm
from raypo.models.scorer import TokenScorer
from raypo.objective import AnyObjective, preset
from raypo.objective.presets import hyperparameters
from raypo.training.passes import Ranks, direct
from raypo.training.sets import TrainingSet
from raypo.training.settings import Settings
from raypo.training.step import make_optimizer, train_step
from raypo.training.terms import Means

REFERENCE = "reference"
"""Folder of the reference within that of the model."""

REFERENCED = 8
"""Responses whose reference log-probs are taken together."""


def objective_of(case: dict[str, Any]) -> AnyObjective:
    """The preset with the benchmark's beta and the config's defaults for what else it takes."""
    defaults = HYPERPARAMETER_DEFAULTS | {"beta": case["beta"]}
    return preset(case["preset"], **{name: defaults[name] for name in hyperparameters(case["preset"])})


def training_set(reference: TokenScorer, tokens: ResponseSet, case: dict[str, Any]) -> TrainingSet:
    """The set with its reference's log-probs; responses are ranked in their order."""
    count = len(tokens.response_token_ids)
    given = TrainingSet(tokens, [0.0] * count, [-float(k) for k in range(count)], [True] * count, 1.0)
    found: list[float] = []
    for part in parts_of(given, REFERENCED):  # a large set at once would hold more than its steps do
        batch = pack([part.tokens], pad_token_id=0, packing=case["packing"])
        with torch.no_grad():
            logps = reference(batch, chunk_tokens=1024).logps
        found += sum_by_response(logps, batch.response_index, len(part.rewards)).tolist()
    return replace(given, reference_logps=found)


def scorer_of(folder: Path) -> TokenScorer:
    """The model of a folder, fp32."""
    return TokenScorer(load_causal_lm(str(folder), dtype=torch.float32))


def parts_of(one: TrainingSet, at_once: int | None) -> list[TrainingSet]:
    """A set in parts of so many responses, none of one alone; the cost is that of its rows, whatever the loss says."""
    count = len(one.rewards)
    step = at_once or count
    return [one.part(range(start, min(start + step, count))) for start in range(0, count, step)]


def main(folder: str, case: dict[str, Any]) -> None:
    """Run one case."""
    import transformers.models.llama.modeling_llama  # noqa: F401 - else it would come with the model, and count as it

    torch.set_num_threads(case["threads"])
    keep_freed()  # as a train worker does
    libraries = peak_bytes()
    rows = json.loads((Path(folder) / "sets.json").read_text(encoding="utf-8"))
    sets = [ResponseSet(str(i), row["prompt"], row["responses"][: case["responses"]]) for i, row in enumerate(rows)]
    scorer = scorer_of(Path(folder))
    config = Settings(
        learning_rate=case["learning_rate"],
        schedule="constant",
        packing=case["packing"],
        tokens_per_micro_batch=case["budget"] or 10**9,
    )
    reference = scorer_of(Path(folder) / REFERENCE) if case["gradients"] else scorer
    given = [training_set(reference, one, case) for one in sets]
    objective = objective_of(case)
    means, alone = Means(scorer, objective, config, 0, "cpu"), Ranks(0, 1)
    if case["gradients"]:
        loss = direct(means, given[:1], alone)["loss"]
        named = scorer.causal.named_parameters()
        save_file({name: p.grad.contiguous() for name, p in named if p.grad is not None}, case["gradients"])
        print(json.dumps({"loss": loss.item()}))  # noqa: T201 - read by the caller
        return
    optimizer, seconds = make_optimizer(scorer, config), []
    for step in range(case["steps"]):
        began, one = time.perf_counter(), [given[step % len(given)]]
        if case["optimizer"]:
            train_step(scorer, optimizer, one, objective, config, progress=0.5, pad_token_id=0, step=step)
        else:
            for part in parts_of(one[0], case["at_once"]):
                direct(means, [part], alone)
        seconds.append(time.perf_counter() - began)
        optimizer.zero_grad(set_to_none=True)
    tokens = sum(len(sets[0].prompt_token_ids) + len(ids) for ids in sets[0].response_token_ids)
    found = {"seconds": seconds[2:], "tokens": tokens, "peak_bytes": peak_bytes(), "library_bytes": libraries}
    print(json.dumps(found))  # noqa: T201 - read by the caller


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
