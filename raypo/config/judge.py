"""A language model that compares two responses, behind an OpenAI-compatible server."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from raypo.config.section import Positive, Section


class JudgeConfig(Section):
    """A judge: POST of an OpenAI chat completion; asked twice per pair, each response once in the first place."""

    url: str
    """Whole address of the endpoint, such as http://host:8000/v1/chat/completions."""
    model: str
    """Name of the model, as the server knows it."""
    template: str | None = None
    """Text file with the fields {prompt}, {first} and {second}, which asks for [[A]], [[B]] or (a tie) [[C]]. None:
    raypo's own words."""
    max_tokens: Positive = 512
    """Longest answer, tokens."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """Of the judge's answer. Above 0 the kept answers are one draw."""
    responses: Positive = 1
    """Responses per prompt that are judged, the first ones of each policy."""
    concurrency: Positive = 8
    """Requests under way at once."""
    timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """Longest wait for one answer, seconds."""
    attempts: Positive = 5
    """Tries per request, with exponential backoff; then its pair has no verdict and is counted."""
    token_env: str | None = None
    """Environment variable that holds a bearer token. The token itself is never stored."""
