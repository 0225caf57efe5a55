"""Reference log-probs, entropies and exact KL of given responses, by the forward pass that training uses.

Same packing, same head, same type: what is cached here is what a live reference would say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from raypo.data.packing import Batch, ResponseSet, micro_batches, pack
from raypo.errors import ModelError
from raypo.logprobs import chunked_token_kl, chunked_token_logps, sum_by_response
from raypo.models.load import DTYPES, load_causal_lm
from raypo.models.scorer import TokenScorer, check_head

FLOATS = pa.list_(pa.float64())


@dataclass
class Held:
    """A loaded model and where it came from."""

    folder: str
    scorer: TokenScorer


class ReferenceScorer:
    """Holds a reference, and for KL a policy beside it.

    Args:
        folder: Hugging Face folder or hub name of the reference.
        compute_dtype: "float32" or "bfloat16".
        tokens_per_batch: padded tokens per forward pass.
        chunk_tokens: positions per application of the head.
        device: "cpu" or "cuda".
        revision: hub revision.

    Raises:
        ModelError: the folder cannot be read.
    """

    def __init__(
        self,
        folder: str,
        *,
        compute_dtype: str,
        tokens_per_batch: int,
        chunk_tokens: int,
        device: str,
        revision: str | None = None,
    ) -> None:
        self._dtype, self._budget, self._chunk, self._device = DTYPES[compute_dtype], tokens_per_batch, chunk_tokens, device
        self._reference = self._read(folder, revision)
        self._policy: Held | None = None

    def load(self, folder: str) -> None:
        """Take another reference: a later version of the policy, or a moving average."""
        self._reference = self._read(folder, None)

    def vocabulary_size(self) -> int:
        """Width of the logits."""
        return int(self._reference.scorer.causal.get_output_embeddings().weight.shape[0])

    @torch.no_grad()
    def annotate(self, table: pa.Table) -> pa.Table:
        """Add reference_logps, response_lengths and reference_entropies to rows with prompts and responses.

        Rows keep their order; a row's values do not depend on the rows beside it (up to the rounding of the forward pass).
        """
        sets = sets_of(table)
        logps, entropies = empty_like(sets), empty_like(sets)
        for group, batch in self._batches(sets):
            token_logps, token_entropies = self._reference.scorer(batch, chunk_tokens=self._chunk, with_entropy=True)
            for values, into in ((token_logps, logps), (token_entropies, entropies)):
                place(values, batch, group, into)
        lengths = [[len(ids) for ids in one.response_token_ids] for one in sets]
        table = table.append_column("reference_logps", pa.array(logps, FLOATS))
        table = table.append_column("response_lengths", pa.array(lengths, pa.list_(pa.int32())))
        return table.append_column("reference_entropies", pa.array(entropies, FLOATS))

    @torch.no_grad()
    def exact_kl(self, table: pa.Table, policy: str) -> pa.Table:
        """KL(policy || reference) along each response: exact at every token, summed over the response.

        Along responses that the policy drew at temperature 1 its mean is an unbiased estimate of the sequence KL, with less
        variance than the log-ratio of the drawn tokens.

        Args:
            table: rows with prompts and responses.
            policy: durable folder of the policy.

        Returns:
            per row and response: kl, policy_logps, reference_logps, policy_entropies (sums, nats).
        """
        if self._policy is None or self._policy.folder != policy:
            self._policy = self._read(policy, None)
        sets = sets_of(table)
        found = {name: empty_like(sets) for name in ("kl", "policy_logps", "reference_logps", "policy_entropies")}
        p, q = self._policy.scorer, self._reference.scorer
        for group, batch in self._batches(sets):
            hidden_p, hidden_q = p.hidden(batch), q.hidden(batch)
            kl = torch.cat(list(chunked_token_kl(hidden_p, p.head, hidden_q, q.head, chunk_size=self._chunk)))
            options = {"chunk_size": self._chunk}
            own, entropy = chunked_token_logps(hidden_p, p.head, batch.targets, with_entropy=True, **options)
            reference, _ = chunked_token_logps(hidden_q, q.head, batch.targets, with_entropy=False, **options)
            for name, values in zip(found, (kl, own, reference, entropy), strict=True):
                place(values, batch, group, found[name])
        return pa.table({name: pa.array(rows, FLOATS) for name, rows in found.items()})

    def _read(self, folder: str, revision: str | None) -> Held:
        scorer = TokenScorer(load_causal_lm(folder, revision=revision, dtype=self._dtype))
        check_head(scorer)
        if scorer.causal.config.vocab_size is None:
            raise ModelError(f"{folder} has no vocab_size", "a causal language model")
        return Held(folder, scorer.to(self._device))

    def _batches(self, sets: list[ResponseSet]) -> Iterator[tuple[list[int], Batch]]:
        pad = self._reference.scorer.causal.config.pad_token_id or 0
        for group in micro_batches(sets, self._budget):
            yield group, pack([sets[i] for i in group], pad_token_id=pad).to(self._device)


def sets_of(table: pa.Table) -> list[ResponseSet]:
    """The token ids of each row."""
    names = ["prompt_id", "prompt_token_ids", "response_token_ids"]
    return [ResponseSet(*(row[name] for name in names)) for row in table.select(names).to_pylist()]


def empty_like(sets: list[ResponseSet]) -> list[list[float]]:
    """Zeros, one per response."""
    return [[0.0] * len(one.response_token_ids) for one in sets]


def place(values: torch.Tensor | None, batch: Batch, group: list[int], into: list[list[float]]) -> None:
    """Sum per-token values over responses, and put the sums at their rows and slots."""
    if values is None:
        return
    sums = sum_by_response(values.double(), batch.response_index, len(batch.slot)).cpu().numpy()
    owners = np.asarray(group)[batch.set_index.cpu().numpy()]
    for row, slot, value in zip(owners, batch.slot.tolist(), sums, strict=True):
        into[row][slot] = float(value)
