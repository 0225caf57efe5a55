"""Where rewards come from: a Python function, a Hugging Face model, or a server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from raypo.config.section import Positive, Section


class FunctionReward(Section):
    """A Python function: `f(prompts, responses, metadata) -> list of float`, one number per response."""

    type: Literal["function"] = "function"
    name: str
    """Name in tables, metrics and the report."""
    path: str
    """Dotted path, `package.module:function`. The module must be importable where the run starts."""
    weight: float = 1.0
    """Weight in the training reward. 0: watched, never trained on."""
    scale: Annotated[float, Field(gt=0)] = 1.0
    """The source's values are divided by this before weighting."""


class ModelReward(Section):
    """A Hugging Face sequence-classification model; its first logit is the reward."""

    type: Literal["model"]
    name: str
    """Name in tables, metrics and the report."""
    path: str
    """Hugging Face folder or hub name."""
    revision: str | None = None
    """Hub revision. None: the default branch."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights and of the forward pass."""
    batch_tokens: Positive = 8192
    """Tokens per forward pass."""
    max_tokens: Positive = 2048
    """Longer conversations cannot be scored: marked and counted."""
    replicas: Positive = 1
    """Scorer actors, created once per run."""
    gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs per replica."""
    weight: float = 1.0
    """Weight in the training reward. 0: watched, never trained on."""
    scale: Annotated[float, Field(gt=0)] = 1.0
    """The source's values are divided by this before weighting."""


class HttpReward(Section):
    """A reward server: POST {"prompts": [...], "responses": [...], "metadata": [...]} answers {"rewards": [...]}."""

    type: Literal["http"]
    name: str
    """Name in tables, metrics and the report."""
    url: str
    """Endpoint, http or https."""
    batch_size: Positive = 32
    """Responses per request."""
    concurrency: Positive = 4
    """Requests under way at once, per scoring task."""
    timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """Longest wait for one request, seconds."""
    attempts: Positive = 5
    """Tries per request, with exponential backoff; then its responses are marked as failed and counted."""
    token_env: str | None = None
    """Environment variable that holds a bearer token. The token itself is never stored."""
    weight: float = 1.0
    """Weight in the training reward. 0: watched, never trained on."""
    scale: Annotated[float, Field(gt=0)] = 1.0
    """The source's values are divided by this before weighting."""


def _kind(source: Any) -> str:
    """Which kind of reward source a mapping or a section is; a function when nothing is said."""
    return str(source.get("type", "function") if isinstance(source, Mapping) else getattr(source, "type", ""))


RewardSource = Annotated[
    Annotated[FunctionReward, Tag("function")]
    | Annotated[ModelReward, Tag("model")]
    | Annotated[HttpReward, Tag("http")],
    Discriminator(_kind),
]
