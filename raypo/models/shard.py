"""FSDP2 over a device mesh: fp32 master weights, the compute type by policy, one shard group per decoder layer."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.utils.checkpoint import checkpoint

from raypo.errors import ModelError
from raypo.models.load import DTYPES, add_lora, empty_causal_lm, load_causal_lm
from raypo.models.masks import MaskHead
from raypo.models.scorer import TokenScorer, check_head

if TYPE_CHECKING:
    from raypo.config import PolicyConfig


def decoder_layers(causal: Any) -> nn.ModuleList:
    """The repeated decoder layers: the longest list of modules of the backbone.

    Raises:
        ModelError: there is none.
    """
    lists = [m for m in causal.base_model.modules() if isinstance(m, nn.ModuleList) and len(m)]
    if not lists:
        raise ModelError(f"{type(causal).__name__} has no list of layers", "a decoder made of layers")
    return max(lists, key=len)


def shard(scorer: TokenScorer, mesh: DeviceMesh, *, compute_dtype: str) -> None:
    """Shard parameters in place over the mesh; gradients are averaged over its ranks in fp32.

    Args:
        scorer: with fp32 weights.
        mesh: one dimension.
        compute_dtype: "float32" or "bfloat16", of activations and matrix products.
    """
    policy = MixedPrecisionPolicy(param_dtype=DTYPES[compute_dtype], reduce_dtype=torch.float32)
    if compute_dtype == "float32":
        policy = MixedPrecisionPolicy()
    for layer in decoder_layers(scorer.causal):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    # the root stays gathered from its forward to its backward: the head is applied again there
    fully_shard(scorer, mesh=mesh, mp_policy=policy, reshard_after_forward=False)


def load_sharded(
    policy: PolicyConfig, mesh: DeviceMesh, *, activation_checkpointing: bool, masks: int = 0
) -> TokenScorer:
    """The policy, sharded: rank 0 reads the folder and the other ranks receive their shards.

    Args:
        policy: of the run.
        mesh: one dimension, over all ranks.
        activation_checkpointing: recompute each layer in the backward pass.
        masks: add a head of so many trained token masks.

    Raises:
        ModelError: it cannot be read, or its head is of an unknown kind.
    """
    first = dist.get_rank() == 0
    if first:
        model = load_causal_lm(policy.path, revision=policy.revision, dtype=torch.float32)
        check_head(TokenScorer(model))
    else:
        model = empty_causal_lm(policy.path, revision=policy.revision)
    scorer = TokenScorer(add_lora(model, policy) if policy.adapter == "lora" else model)
    if masks:
        scorer.mask_head = MaskHead(
            len(decoder_layers(scorer.causal)), scorer.causal.config.get_text_config().hidden_size, masks
        )
    whole = scorer.state_dict() if first else {}
    if activation_checkpointing:
        recompute(scorer)
    shard(scorer, mesh, compute_dtype=policy.compute_dtype)
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(scorer, whole, options=options)
    # evaluation mode: dropout would make the policy another one than the annotated reference
    return scorer.eval()


def recompute(scorer: TokenScorer) -> None:
    """Keep only the inputs of each decoder layer, and run the layer again in the backward pass."""
    for layer in decoder_layers(scorer.causal):
        # inside FSDP2's hooks, so that weights are gathered once for both; transformers' own wants training mode
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
