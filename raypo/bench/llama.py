"""Model and sets of `raypo.bench.device`: a Llama from config, held as a worker of one rank holds its policy."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from transformers import AutoModelForCausalLM, LlamaConfig

from raypo.bench.floor import MODEL, Shape
from raypo.data.packing import Packing, ResponseSet
from raypo.errors import ConfigError
from raypo.models.scorer import TokenScorer
from raypo.models.shard import shard
from raypo.objective import AnyObjective, preset
from raypo.training.sets import TrainingSet
from raypo.training.settings import Settings

SIZES = {
    "tiny": Shape(512, 64, 128, 2, 4, 2),
    "13m": MODEL,
    "1b": Shape(128_256, 2048, 8192, 16, 32, 8),  # 1.24 billion parameters, embeddings and head one matrix
}
LAYOUTS: tuple[Packing, Packing] = ("shared", "none")
TYPES = "float32", "bfloat16"


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Args:
        device: "cuda" or "cpu".
        dtype: of activations and products, a key of `TYPES`.
        size: of the model, a key of `SIZES`.
        responses: K of a set.
        prompt: tokens.
        response: tokens of each response.
        sets: of a step.
        budget: tokens of a micro-batch.
        steps: that are counted; two more go before them.
        threads: of torch.
        peak: bf16 operations per second of the device; None: as its maker states, if `floor.PEAK` knows it.

    Raises:
        ConfigError: an unknown type or size.
    """

    device: str = "cuda"
    dtype: str = "bfloat16"
    size: str = "1b"
    responses: int = 8
    prompt: int = 256
    response: int = 64
    sets: int = 16
    budget: int = 16_384
    steps: int = 8
    threads: int = 2
    peak: float | None = None

    def __post_init__(self) -> None:
        if self.dtype not in TYPES or self.size not in SIZES:
            raise ConfigError(
                f"--dtype {self.dtype} --size {self.size}",
                f"a type of {', '.join(TYPES)}, and a size of {', '.join(SIZES)}",
            )


@contextmanager
def one_rank(device: str) -> Iterator[None]:
    """A process group of this process alone, which FSDP2 wants."""
    store, backend = dist.HashStore(), "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=timedelta(minutes=10))
    try:
        yield
    finally:
        dist.destroy_process_group()


def make_sets(plan: Plan) -> list[TrainingSet]:
    """Random sets, ranked in their order; a reference gives its responses -1 to -2 nats a token, as no policy here."""
    shape, generator = SIZES[plan.size], torch.Generator().manual_seed(0)

    def draw(length: int) -> list[int]:
        return torch.randint(3, shape.vocabulary, (length,), generator=generator).tolist()

    return [
        TrainingSet(
            ResponseSet(str(number), draw(plan.prompt), [draw(plan.response) for _ in range(plan.responses)]),
            (-plan.response * (1 + torch.rand(plan.responses, generator=generator))).tolist(),
            [-float(k) for k in range(plan.responses)],
            [True] * plan.responses,
            1.0,
        )
        for number in range(plan.sets)
    ]


def make_scorer(plan: Plan, dtype: str) -> TokenScorer:
    """The model, the same weights at every call, as a worker holds it."""
    gc.collect()  # the model before it: FSDP2 leaves cycles
    shape = SIZES[plan.size]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        max_position_embeddings=plan.prompt + plan.response,
        tie_word_embeddings=True,
    )
    with torch.device(plan.device):  # drawn where it stays: a CPU takes long for a billion weights
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    scorer = TokenScorer(model).eval()
    shard(scorer, init_device_mesh(plan.device, (1,)), compute_dtype=dtype)
    return scorer


def objective() -> AnyObjective:
    """W-MPO, with the defaults of the config."""
    return preset("w-mpo", alpha=1.0, beta=0.1)


def settings(plan: Plan, packing: Packing) -> Settings:
    """The rate is so small that the model stays what it is."""
    return Settings(learning_rate=1e-7, schedule="constant", packing=packing, tokens_per_micro_batch=plan.budget)
