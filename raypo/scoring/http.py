"""A reward server behind HTTP: batched, with timeouts and retries."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from raypo.config import HttpReward
from raypo.errors import ConfigError, RewardError


class Transient(Exception):
    """A failure that may pass: no connection, a timeout, or an answer of 429 or 5xx."""


class HttpClient:
    """A source that posts `{"prompts": [...], "responses": [...]}` and reads `{"rewards": [...]}`.

    Requests that fail after all tries mark their responses as not scored; an answer of the wrong shape is an error at once.

    Args:
        source: endpoint, batch size, timeouts and tries.

    Raises:
        ConfigError: the url is not http(s), or the token's environment variable is unset.
    """

    def __init__(self, source: HttpReward) -> None:
        if not source.url.startswith(("http://", "https://")):
            raise ConfigError(f"rewards.{source.name}.url = {source.url!r}", "http:// or https://")
        self._source = source
        headers = {}
        if source.token_env is not None:
            token = os.environ.get(source.token_env)
            if not token:
                raise ConfigError(f"environment variable {source.token_env} is not set", "the server's bearer token in it")
            headers["Authorization"] = f"Bearer {token}"
        self._client = httpx.Client(timeout=source.timeout_s, headers=headers)

    def __call__(self, prompts: list[str], responses: list[str], metadata: list[dict[str, Any]]) -> list[float | None]:
        """One number per response, None where the server could not be reached.

        Raises:
            RewardError: the server refuses the request, or answers with something else than one number per response.
        """
        size = self._source.batch_size
        starts = range(0, len(responses), size)
        with ThreadPoolExecutor(self._source.concurrency) as pool:
            parts = pool.map(lambda at: self._batch(prompts[at : at + size], responses[at : at + size]), starts)
            return [value for part in parts for value in part]

    def _batch(self, prompts: list[str], responses: list[str]) -> list[float | None]:
        retrying = Retrying(
            stop=stop_after_attempt(self._source.attempts),
            wait=wait_random_exponential(multiplier=0.2, max=30),
            retry=retry_if_exception_type(Transient),
        )
        try:
            return self._parse(retrying(self._post, {"prompts": prompts, "responses": responses}), len(responses))
        except RetryError:
            return [None] * len(responses)

    def _post(self, body: dict[str, Any]) -> httpx.Response:
        try:
            answer = self._client.post(self._source.url, json=body)
        except httpx.TransportError as error:
            raise Transient(str(error)) from error
        if answer.status_code == 429 or answer.status_code >= 500:
            raise Transient(f"status {answer.status_code}")
        if answer.status_code >= 400:
            raise RewardError(
                f"reward server {self._source.name!r} answered {answer.status_code}: {answer.text[:200]}",
                "status 200",
                "check rewards.*.url and the token",
            )
        return answer

    def _parse(self, answer: httpx.Response, count: int) -> list[float | None]:
        try:
            rewards = answer.json()["rewards"]
            values = [None if value is None else float(value) for value in rewards]
        except (ValueError, KeyError, TypeError) as error:
            raise RewardError(
                f"reward server {self._source.name!r} answered {answer.text[:200]!r}", '{"rewards": [numbers]}'
            ) from error
        if len(values) != count:
            raise RewardError(
                f"reward server {self._source.name!r} answered {len(values)} rewards", f"{count}, one per response"
            )
        return values
