"""A causal model as "log-probs of these response tokens": backbone once, head in chunks over predictor positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from raypo.errors import ModelError
from raypo.logprobs import Measure, TokenValues, chunked_token_logps
from raypo.models.attention import refuse_unshareable, use_attention
from raypo.models.linear import use_onednn
from raypo.models.split import Span

HEAD_TOLERANCE = 1e-4


class Batch(Protocol):
    """What the scorer reads of a `raypo.data.packing.Batch`, a room beside this one."""

    @property
    def input_ids(self) -> Tensor: ...  # noqa: D102 - described where they are made
    @property
    def attention_mask(self) -> Tensor: ...  # noqa: D102
    @property
    def position_ids(self) -> Tensor: ...  # noqa: D102
    @property
    def predictor_index(self) -> Tensor: ...  # noqa: D102
    @property
    def targets(self) -> Tensor: ...  # noqa: D102
    @property
    def spans(self) -> tuple[Span, ...] | None: ...  # noqa: D102


class TokenScorer(nn.Module):
    """Wraps a Hugging Face causal model, or a peft model of one.

    It is the root that FSDP2 shards: embeddings, final norm and head are gathered by its forward and stay gathered
    until its backward, so that the head can be applied again there, chunk by chunk.
    """

    def __init__(self, model: Any, mask_head: nn.Module | None = None) -> None:
        super().__init__()
        self.model = model
        self.mask_head = mask_head
        use_attention(self.causal)
        use_onednn(self.model)

    @property
    def causal(self) -> Any:
        """The causal model itself, beneath any adapter wrapper."""
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model

    def hidden(self, batch: Batch) -> Tensor:
        """Last hidden states at the predictor positions, [P, H].

        Raises:
            ModelError: responses share their prompt in the batch, and this architecture cannot keep them apart.
        """
        states: Tensor = self._backbone(batch).last_hidden_state
        return states.reshape(-1, states.shape[-1]).index_select(0, batch.predictor_index)

    def _backbone(self, batch: Batch, **asked: Any) -> Any:
        how: dict[str, Any] = {"attention_mask": batch.attention_mask} | asked
        if batch.spans is not None:
            refuse_unshareable(self.causal)
            # four dimensions: transformers then makes no mask of its own; which token sees which is in the spans
            how |= {"attention_mask": batch.attention_mask.new_ones(1, 1, 1, 1), "prefix_spans": batch.spans}
        return self.causal.base_model(
            input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False, **how
        )

    def layers(self, batch: Batch) -> Tensor:
        """Hidden states after each layer at the predictor positions, [L, P, H]; the last are those of `hidden`."""
        states = self._backbone(batch, output_hidden_states=True).hidden_states[1:]
        return torch.stack([one.reshape(-1, one.shape[-1]).index_select(0, batch.predictor_index) for one in states])

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [p, V] of hidden states [p, H], with the architecture's own scaling and soft cap."""
        causal, config = self.causal, self.causal.config
        logits: Tensor = causal.get_output_embeddings()(hidden)
        if scale := getattr(config, "logit_scale", None):  # Cohere
            logits = logits * scale
        if scaling := getattr(config, "logits_scaling", None):  # Granite
            logits = logits / scaling
        if cap := getattr(config, "final_logit_softcapping", None):  # Gemma
            logits = cap * torch.tanh(logits / cap)
        return logits

    def forward(
        self,
        batch: Batch,
        *,
        chunk_tokens: int,
        with_entropy: bool = False,
        measure: Measure | None = None,
        reference_layers: Tensor | None = None,
    ) -> TokenValues:
        """Log-prob of each response token, and what else is asked for.

        Args:
            batch: on the model's device.
            chunk_tokens: positions per application of the head.
            with_entropy: also return entropies.
            measure: one more value per position, from the logits.
            reference_layers: [L, P, H] hidden states of the reference, for the mask head.

        Returns:
            [P] each, fp32, nats.
        """
        found = chunked_token_logps(
            self.hidden(batch),
            self.head,
            batch.targets,
            chunk_size=chunk_tokens,
            with_entropy=with_entropy,
            measure=measure,
        )
        if reference_layers is None or self.mask_head is None:
            return found
        return found._replace(masks=self.mask_head(reference_layers))


@dataclass(frozen=True)
class _Probe:
    """The least batch that tells layouts apart, as tensors of one row or two."""

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    predictor_index: Tensor
    targets: Tensor
    spans: tuple[Span, ...] | None


@torch.no_grad()
def check_shared(scorer: TokenScorer) -> None:
    """Compare the hidden states of two responses of two tokens in one row with those in rows of their own.

    Raises:
        ModelError: they differ, or the architecture is known to let responses that share a prompt meet.
    """
    refuse_unshareable(scorer.causal)
    device, size = next(scorer.parameters()).device, scorer.causal.config.get_text_config().vocab_size
    tokens = torch.arange(6, device=device) % size
    rows = torch.stack([tokens[:4], tokens[[0, 1, 4, 5]]])
    apart = _probe(rows, torch.arange(4, device=device).expand(2, 4), [2, 3, 6, 7], None)
    positions = torch.tensor([[0, 1, 2, 3, 2, 3]], device=device)
    together = _probe(tokens[None], positions, [2, 3, 4, 5], ((0, 2, (2, 2)),))
    own, ours = scorer.hidden(apart).float(), scorer.hidden(together).float()
    gap, scale = (own - ours).abs().max().item(), own.abs().max().item()
    allowed = HEAD_TOLERANCE if next(scorer.parameters()).dtype == torch.float32 else 0.1
    if not gap <= allowed * max(1.0, scale):
        raise ModelError(
            f"{type(scorer.causal).__name__}: a response that shares its prompt gets other hidden states, by {gap:.3g}",
            "a decoder whose tokens meet in attention alone",
            "set training.packing=none",
        )


def _probe(ids: Tensor, positions: Tensor, places: list[int], spans: tuple[Span, ...] | None) -> _Probe:
    index = torch.tensor(places, device=ids.device)
    return _Probe(ids, torch.ones_like(ids), positions, index, ids.flatten()[index], spans)


@torch.no_grad()
def check_head(scorer: TokenScorer) -> None:
    """Compare the scorer's logits with the model's own on three tokens.

    Raises:
        ModelError: they differ: the architecture does something between hidden states and logits that is unknown here.
    """
    causal = scorer.causal
    ids = torch.arange(3, device=next(causal.parameters()).device)[None] % causal.config.get_text_config().vocab_size
    own = causal(input_ids=ids, use_cache=False).logits[0]
    ours = scorer.head(causal.base_model(input_ids=ids, use_cache=False).last_hidden_state[0])
    gap = (own.float() - ours.float()).abs().max().item()
    allowed = HEAD_TOLERANCE if own.dtype == torch.float32 else 0.1
    if not gap <= allowed * max(1.0, own.float().abs().max().item()):
        raise ModelError(
            f"{type(causal).__name__}: logits from its head differ from its own by {gap:.3g}",
            "a model whose logits are its head's output, scaled or soft-capped by its config",
            "use another architecture, or add its rule to raypo/models/scorer.py",
        )
