"""What a reference says of a prompt's responses: the two indices of dispersion that need one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from raypo import dispersion
from raypo.data.packing import ResponseSet, pack
from raypo.evaluation.significance import Floats
from raypo.logprobs import sum_by_response
from raypo.models.scorer import TokenScorer
from raypo.studies.annotators import Judged

PROMPT_TOKENS, TOKENS = 200, 200
"""Of a prompt's end and of a response's start, on which a given model's entropy is taken."""


@dataclass(frozen=True)
class Sums:
    """What a reference says of one prompt's responses: entropies, log-probs and lengths, [K] each; nats and tokens."""

    entropies: torch.Tensor
    logps: torch.Tensor
    lengths: torch.Tensor


def read(scorer: TokenScorer, prompt: list[int], responses: list[list[int]]) -> Sums:
    """Entropy and log-prob sums of a prompt's responses under a reference."""
    batch = pack([ResponseSet("0", prompt, responses)], pad_token_id=0, packing="shared")
    with torch.no_grad():
        values = scorer(batch, chunk_tokens=1024, with_entropy=True)
    count = len(responses)
    assert values.entropies is not None
    entropies, logps = (sum_by_response(one, batch.response_index, count) for one in (values.entropies, values.logps))
    return Sums(entropies, logps, torch.tensor([len(one) for one in responses]))


def indices(read_ones: Sequence[Sums | None], width: int) -> dict[str, Floats]:
    """The two indices that need a reference, one number per prompt; NaN where there is no response to read."""
    found: dict[str, list[float]] = {"entropy": [], "likelihood": []}
    for one in read_ones:
        if one is None:
            found["entropy"].append(float("nan"))
            found["likelihood"].append(float("nan"))
            continue
        mask = torch.ones(1, len(one.lengths), dtype=torch.bool)
        given = one.lengths[None], mask, width
        found["entropy"].append(float(dispersion.entropy_index(one.entropies[None], *given)))
        found["likelihood"].append(float(dispersion.likelihood_index(one.logps[None], *given)))
    return {name: np.array(values) for name, values in found.items()}


def under_model(judged: Judged, folder: str) -> dict[str, Floats]:
    """The two indices that need a reference, from a given model on the judged responses."""
    from raypo.models.load import load_causal_lm, load_tokenizer

    tokenizer = load_tokenizer(folder)
    scorer = TokenScorer(load_causal_lm(folder, dtype=torch.float32))
    sums: list[Sums | None] = []
    for prompt, responses in zip(judged.prompts, judged.responses, strict=True):
        start = tokenizer(prompt)["input_ids"][-PROMPT_TOKENS:]
        ids = [tokenizer(one, add_special_tokens=False)["input_ids"][:TOKENS] for one in responses]
        said = [one for one in ids if one]  # people judged empty responses too; there nothing can be read
        sums.append(read(scorer, start, said) if said else None)
    return indices(sums, scorer.causal.get_output_embeddings().weight.shape[0])
