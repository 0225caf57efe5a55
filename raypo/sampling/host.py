"""A weight-transfer backend of vLLM through host memory: the engine's side of the `host` rail.

vLLM's own backends (nccl, ipc, ...) move tensors between devices; none runs on a CPU. This one is given the tensors
in the update request itself, so it needs the engine in the caller's process.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.platforms import current_platform

BACKEND = "raypo-host"


@dataclass
class HostInit(WeightTransferInitInfo):
    """Nothing is agreed beforehand."""


@dataclass
class HostUpdate(WeightTransferUpdateInfo):
    """Weights under Hugging Face names."""

    weights: list[tuple[str, torch.Tensor]] = field(default_factory=list)


class HostEngine(WeightTransferEngine[HostInit, HostUpdate]):
    """Loads tensors that lie in host memory into the running model, layer by layer."""

    init_info_cls = HostInit
    update_info_cls = HostUpdate

    def init_transfer_engine(self, init_info: HostInit) -> None:
        """Nothing to open."""

    def start_weight_update(self) -> None:
        """Unpack the layers so that they take checkpoint-format weights."""
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: HostUpdate) -> None:
        """Load one chunk of weights."""
        self.model.load_weights((name, tensor.to(self.device)) for name, tensor in update_info.weights)

    def finish_weight_update(self) -> None:
        """Pack the layers again, the tied head included."""
        finalize_layerwise_reload(self.model, self.model_config)
        repack_tied_head(self.model)

    def shutdown(self) -> None:
        """Nothing to close."""


def repack_tied_head(model: Any) -> None:
    """Pack a tied head anew.

    On the CPU each linear layer keeps a packed copy of its weights. A reload repacks the layers that received
    weights; a tied head receives none and would silently keep the old copy.
    """
    head = getattr(model, "lm_head", None)
    method = getattr(head, "quant_method", None)
    if current_platform.is_cpu() and method is not None:
        method.process_weights_after_loading(head)


def register() -> None:
    """Make the backend known to vLLM in this process; once."""
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, HostEngine)
