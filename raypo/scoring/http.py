"""A reward server as a reward source: batched, concurrent requests with timeouts and retries."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential, wait_random

from raypo import config
from raypo.errors import RewardError
from raypo.masking import MASK, masked
from raypo.scoring.function import Values, checked_values

logger = logging.getLogger(__name__)

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
"""Status codes of a server that may answer later. Others say that the request itself is wrong."""


class HttpReward:
    """Asks a server: POST {"prompts", "responses", "metadata"} answers {"rewards": one number or null per response}.

    A request that gets no answer after all attempts leaves its responses without a value, and is logged with the cause.
    An answer that cannot be read (no JSON, a broken encoding) may be a proxy's: it costs an attempt, and the last such
    ends the run. A wrong answer in JSON ends it at once: trying again would not change it.

    Args:
        source: address, batch size, concurrency, timeout, attempts, name of the variable that holds the bearer token.

    Raises:
        RewardError: not an http address, or the token's variable is not set.
    """

    def __init__(self, source: config.HttpReward) -> None:
        self._source = source
        check_url(source.url, f"reward {source.name!r}")
        self._headers = headers(source.token_env, f"reward {source.name!r}")

    def __call__(self, prompts: list[str], responses: list[str], metadata: list[dict[str, Any]]) -> Values:
        """One value per response; None where the server gave none, or gave no answer.

        Raises:
            RewardError: the server refuses the request, or answers in a wrong shape.
        """
        size = self._source.batch_size
        batches = [
            {"prompts": prompts[i : i + size], "responses": responses[i : i + size], "metadata": metadata[i : i + size]}
            for i in range(0, len(responses), size)
        ]
        with (
            httpx.Client(timeout=self._source.timeout_s, headers=self._headers) as client,
            ThreadPoolExecutor(self._source.concurrency) as pool,
        ):
            answers = list(pool.map(lambda batch: self._ask(client, batch), batches))
        return [value for answer in answers for value in answer]

    def _ask(self, client: httpx.Client, batch: dict[str, list[Any]]) -> Values:
        count = len(batch["responses"])
        try:
            answer = post(client, self._source.url, batch, attempts=self._source.attempts)
        except httpx.HTTPStatusError as error:
            if error.response.status_code not in TRY_AGAIN:
                raise RewardError(
                    f"reward {self._source.name!r}: {self._source.url} answered {error.response.status_code}: "
                    f"{beginning(error.response.text, self._headers)!r}",
                    "200 and a JSON object with `rewards`",
                    "check the url, the token and the server's log",
                ) from error
            return self._give_up(count, f"status {error.response.status_code}")
        except httpx.TransportError as error:
            return self._give_up(count, f"{type(error).__name__}: {error}")
        except (httpx.HTTPError, Unreadable) as error:
            raise RewardError(
                f"reward {self._source.name!r}: {self._source.url} {told(error, self._headers)}",
                '{"rewards": [...]} in JSON, in one of ' + str(self._source.attempts) + " attempts",
                "check the url and the server's log",
            ) from error
        return self._rewards(answer, count)

    def _give_up(self, count: int, cause: str) -> Values:
        logger.warning(
            "reward %r: no answer after %d attempts, %d responses unscored: %s",
            self._source.name,
            self._source.attempts,
            count,
            masked(cause),
        )
        return [None] * count

    def _rewards(self, body: Any, count: int) -> Values:
        who = f"reward {self._source.name!r}: {self._source.url}"
        if not isinstance(body, dict) or not isinstance(body.get("rewards"), list):
            raise RewardError(
                f"{who} answered {beginning(str(body), self._headers)}",
                '{"rewards": [...]}, one number per response',
                "mend the server",
            )
        return checked_values(body["rewards"], count, who)


def check_url(url: str, who: str) -> None:
    """Refuse what is no http address.

    Raises:
        RewardError: naming who has it.
    """
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise RewardError(f"{who}: url {url!r}: {error}", "http://... or https://...", "mend the url") from error
    if parts.scheme not in ("http", "https") or not parts.host:
        raise RewardError(f"{who}: url {url!r}", "http://... or https://...", "mend the url")


def headers(token_env: str | None, who: str) -> dict[str, str]:
    """Headers of a JSON request, with the bearer token of an environment variable.

    Raises:
        RewardError: the variable is not set.
    """
    found = {"Content-Type": "application/json"}
    if token_env is not None:
        if not os.environ.get(token_env):
            raise RewardError(
                f"{who}: the environment variable {token_env} is not set",
                "a bearer token in it",
                f"export {token_env}=... before the run, or leave token_env out",
            )
        found["Authorization"] = f"Bearer {os.environ[token_env]}"
    return found


def beginning(answer: str, sent: Mapping[str, str]) -> str:
    """The first words of an answer, without the token of the request's headers, which some servers repeat."""
    token = sent.get("Authorization", "").removeprefix("Bearer ")
    text = answer[:10_000].replace(token, MASK) if token else answer[:10_000]
    return masked(text)[:200]  # a secret that is cut off is not seen as one


class Unreadable(Exception):
    """An answer of status 2xx that is no JSON.

    Args:
        text: of the answer.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


def told(error: httpx.HTTPError | Unreadable, sent: Mapping[str, str]) -> str:
    """What a server did, after its name; `sent` are the request's headers."""
    if isinstance(error, Unreadable):
        return f"answered no JSON: {beginning(error.text, sent)!r}"
    return f"gave an answer that cannot be read: {type(error).__name__}: {error}"


def post(client: httpx.Client, url: str, body: Any, *, attempts: int) -> Any:
    """POST a JSON body and read the answer's; a server that may answer later is asked again, with exponential backoff.

    Raises:
        httpx.HTTPStatusError: no 2xx in the last attempt, or at once one that trying again would not change.
        httpx.TransportError: no answer in the last attempt.
        httpx.HTTPError: an answer in a broken encoding in the last attempt.
        Unreadable: an answer that is no JSON in the last attempt.
    """
    retrying = Retrying(
        stop=stop_after_attempt(attempts),
        wait=wait_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S) + wait_random(0, FIRST_WAIT_S),
        retry=retry_if_exception(_may_pass),
        reraise=True,
    )
    return retrying(lambda: _read(client.post(url, content=json.dumps(body)).raise_for_status()))


def _read(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except (ValueError, RecursionError) as error:
        raise Unreadable(answer.text) from error


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in TRY_AGAIN
    return isinstance(error, (httpx.TransportError, httpx.DecodingError, Unreadable))
