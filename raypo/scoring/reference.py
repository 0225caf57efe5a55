"""A causal model as annotator: log-probs and entropies of given responses, and the exact KL from another policy.

The forward is the packed forward of training, in the same type and with the same head, so that cached values are those
that a live reference would give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa
import torch
from torch import Tensor

from raypo.data.packing import Batch, Packing, ResponseSet, micro_batches, pack
from raypo.errors import ModelError
from raypo.logprobs import sum_by_response, token_entropies, token_kl, token_logps
from raypo.models.load import DTYPES, load_causal_lm
from raypo.models.scorer import TokenScorer, check_head, check_shared

PAD = 0  # attention never sees it


class ReferenceScorer:
    """Holds one reference, and the last policy it was compared with.

    Args:
        path: Hugging Face folder or hub name of the reference.
        revision: hub revision of `path`.
        compute_dtype: "float32" or "bfloat16", that of training.
        tokens_per_batch: tokens per forward pass, padding counted; a set is never split.
        chunk_tokens: response positions per application of the head.
        packing: layout of a batch, that of training.
        device: "cpu" or "cuda".
        importance: folders of two contrastive models, which `annotate` is asked to compare; read when it is.

    Raises:
        ModelError: the model cannot be read, its head is of an unknown kind, or its responses cannot share a prompt.
    """

    def __init__(
        self,
        path: str,
        *,
        revision: str | None = None,
        compute_dtype: str,
        tokens_per_batch: int,
        chunk_tokens: int,
        packing: Packing = "shared",
        device: str = "cpu",
        importance: tuple[str, str] | None = None,
    ) -> None:
        self._importance, self._contrastive = importance, list[TokenScorer]()
        self._initial, self._revision = path, revision
        self._dtype, self._device = DTYPES[compute_dtype], torch.device(device)
        self._tokens_per_batch, self._chunk_tokens, self._packing = tokens_per_batch, chunk_tokens, packing
        self._policy: tuple[str, TokenScorer] | None = None
        self._reference = path, self._read(path)

    @property
    def folder(self) -> str:
        """Where the reference was read from."""
        return self._reference[0]

    def load(self, folder: str) -> None:
        """Take another reference, such as the policy before this round; a model that is held is not read again.

        Raises:
            ModelError: it cannot be read.
        """
        if folder == self.folder:
            return
        if self._policy is not None and folder == self._policy[0]:
            self._reference, self._policy = self._policy, None
        else:
            self._reference = folder, self._read(folder)

    def vocabulary_size(self) -> int:
        """Width of the logits."""
        return int(self._reference[1].causal.get_output_embeddings().weight.shape[0])

    @torch.no_grad()
    def annotate(self, rows: pa.Table, *, with_tokens: bool = False, with_gaps: bool = False) -> pa.Table:
        """Add the reference's view of every response, usable or not.

        Args:
            rows: with prompt_id, prompt_token_ids and response_token_ids, as in records.SCORED.
            with_tokens: keep each token's log-prob, for objectives that weigh tokens.
            with_gaps: compare the two contrastive models at each token as well.

        Returns:
            the same rows with reference_logps and reference_entropies (sums over the response's tokens, nats),
            reference_token_logps (null without `with_tokens`), contrastive_token_gaps (null without `with_gaps`) and
            response_lengths (tokens).

        Raises:
            ModelError: a sequence is longer than the model's context, or a contrastive model cannot be read or has
                another vocabulary.
        """
        scorer, contrastive = self._reference[1], self._contrastive_scorers() if with_gaps else []
        kept: dict[str, dict[tuple[int, int], list[float]]] = {
            "reference_token_logps": {},
            "contrastive_token_gaps": {},
        }

        def measure(batch: Batch, group: list[int]) -> list[Tensor]:
            found = scorer(batch, chunk_tokens=self._chunk_tokens, with_entropy=True)
            if with_tokens:
                _keep(found.logps, batch, group, kept["reference_token_logps"])
            if with_gaps:
                positive, negative = (one(batch, chunk_tokens=self._chunk_tokens).logps for one in contrastive)
                _keep(positive - negative, batch, group, kept["contrastive_token_gaps"])
            return [found.logps, found.entropies]

        logps, entropies = self._measure(rows, measure, count=2)
        for name, asked in {"reference_token_logps": with_tokens, "contrastive_token_gaps": with_gaps}.items():
            per_token = [[kept[name].get((row, k), []) for k in range(len(one))] for row, one in enumerate(logps)]
            column = pa.array(per_token if asked else [None] * rows.num_rows, pa.list_(pa.list_(pa.float32())))
            rows = rows.append_column(name, column)
        lengths = [[len(ids) for ids in row] for row in rows["response_token_ids"].to_pylist()]
        rows = rows.append_column("reference_logps", pa.array(logps, pa.list_(pa.float64())))
        rows = rows.append_column("response_lengths", pa.array(lengths, pa.list_(pa.int32())))
        return rows.append_column("reference_entropies", pa.array(entropies, pa.list_(pa.float64())))

    @torch.no_grad()
    def exact_kl(self, rows: pa.Table, policy_folder: str) -> pa.Table:
        """KL from a policy to the reference along given responses; unbiased for responses drawn at temperature 1.

        At each response token the KL between the two next-token distributions is taken over the whole vocabulary.

        Args:
            rows: as in `annotate`.
            policy_folder: Hugging Face folder of the policy, read once until another is asked for.

        Returns:
            per row one list over responses: kl, policy_logps, policy_entropies, reference_logps, each a sum over the
            response's tokens, nats.

        Raises:
            ModelError: the policy cannot be read, has another vocabulary, or a sequence is longer than the context.
        """
        policy, reference = self._policy_scorer(policy_folder), self._reference[1]

        def measure(batch: Batch, group: list[int]) -> list[Tensor]:
            hidden = policy.hidden(batch).split(self._chunk_tokens), reference.hidden(batch).split(self._chunk_tokens)
            parts: list[list[Tensor]] = [[], [], [], []]
            for ours, theirs, targets in zip(*hidden, batch.targets.split(self._chunk_tokens), strict=True):
                p, q = policy.head(ours), reference.head(theirs)
                found = token_kl(p, q), token_logps(p, targets), token_entropies(p), token_logps(q, targets)
                for part, values in zip(parts, found, strict=True):
                    part.append(values)
            return [torch.cat(part) for part in parts]

        names = "kl", "policy_logps", "policy_entropies", "reference_logps"
        columns = self._measure(rows, measure, count=len(names))
        return pa.table(
            {name: pa.array(column, pa.list_(pa.float64())) for name, column in zip(names, columns, strict=True)}
        )

    def _measure(
        self, rows: pa.Table, measure: Callable[[Batch, list[int]], list[Tensor]], *, count: int
    ) -> list[list[list[float]]]:
        """Sums per response of `count` per-token quantities: per quantity, per row, per response."""
        sets = [
            ResponseSet(prompt_id, prompt, responses)
            for prompt_id, prompt, responses in zip(
                *(rows[name].to_pylist() for name in ("prompt_id", "prompt_token_ids", "response_token_ids")),
                strict=True,
            )
        ]
        self._check_lengths(sets)
        sums: list[list[list[float]]] = [[[] for _ in sets] for _ in range(count)]
        for group, batch in self._batches(sets):
            owners = batch.response_index
            for quantity, values in enumerate(measure(batch, group)):
                totals = sum_by_response(values.double(), owners, len(batch.set_index)).tolist()
                for member, total in zip(batch.set_index.tolist(), totals, strict=True):
                    sums[quantity][group[member]].append(total)  # rows of a batch are in the order of slots
        return sums

    def _batches(self, sets: list[ResponseSet]) -> Iterator[tuple[list[int], Batch]]:
        full = [i for i, one in enumerate(sets) if one.response_token_ids]
        for places in micro_batches([sets[i] for i in full], self._tokens_per_batch, self._packing):
            group = [full[place] for place in places]
            yield group, pack([sets[i] for i in group], pad_token_id=PAD, packing=self._packing).to(self._device)

    def _contrastive_scorers(self) -> list[TokenScorer]:
        if self._importance is None:
            raise ModelError("no contrastive models", "two", "set annotation.importance.positive and .negative")
        if not self._contrastive:
            found = [self._read(folder) for folder in self._importance]
            for folder, one in zip(self._importance, found, strict=True):
                self._check_width(folder, one)
            self._contrastive = found
        return self._contrastive

    def _policy_scorer(self, folder: str) -> TokenScorer:
        if folder == self.folder:
            return self._reference[1]
        if self._policy is None or self._policy[0] != folder:
            self._policy = None  # freed before the next is read
            self._policy = folder, self._read(folder)
        self._check_width(folder, self._policy[1])
        return self._policy[1]

    def _check_width(self, folder: str, scorer: TokenScorer) -> None:
        width = int(scorer.causal.get_output_embeddings().weight.shape[0])
        if width != self.vocabulary_size():
            raise ModelError(
                f"{folder} has {width} logits, the reference {self.folder} has {self.vocabulary_size()}",
                "one vocabulary: the two are compared token by token",
                "compare a policy with the model it came from",
            )

    def _read(self, folder: str) -> TokenScorer:
        revision = self._revision if folder == self._initial else None
        scorer = TokenScorer(load_causal_lm(folder, revision=revision, dtype=self._dtype)).to(self._device)
        check_head(scorer)
        if self._packing == "shared":
            check_shared(scorer)
        return scorer.requires_grad_(False)

    def _check_lengths(self, sets: list[ResponseSet]) -> None:
        context = getattr(self._reference[1].causal.config.get_text_config(), "max_position_embeddings", None)
        widest = max(sets, key=lambda one: one.width, default=None)
        if context is not None and widest is not None and widest.width > context:
            raise ModelError(
                f"prompt {widest.prompt_id} with its longest response has {widest.width} tokens, the context of "
                f"{self.folder} is {context}",
                "prompts and responses that fit into the model's context",
                "lower prompts.max_prompt_tokens or sampling.max_response_tokens",
            )


def _keep(values: Tensor, batch: Batch, group: list[int], kept: dict[tuple[int, int], list[float]]) -> None:
    """Write values [P] of a batch's tokens to their row and slot."""
    lengths = torch.bincount(batch.response_index, minlength=len(batch.slot)).tolist()
    places = zip(batch.set_index.tolist(), batch.slot.tolist(), strict=True)
    for (member, slot), one in zip(places, values.split(lengths), strict=True):
        kept[group[member], slot] = one.tolist()
