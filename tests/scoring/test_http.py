"""raypo.scoring.http against a real server on this machine: retries, timeouts, wrong answers, the token."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from raypo import config
from raypo.errors import RewardError
from raypo.scoring import http
from raypo.scoring.http import HttpReward


class Answered(NamedTuple):
    """Status, body and headers of an answer."""

    status: int
    text: str
    headers: Mapping[str, str] = MappingProxyType({})


Answer = Answered | tuple[int, str]


class Server:
    """Answers by a function of (number of the request, body); remembers what it was sent."""

    def __init__(self) -> None:
        self.answer: Callable[[int, dict[str, Any]], Answer] = lambda number, body: lengths(body)
        self.requests: list[dict[str, Any]] = []
        self.authorizations: list[str | None] = []
        self.most_at_once = 0
        self._now, self._lock = 0, threading.Lock()

    def handle(self, body: dict[str, Any], authorization: str | None) -> Answer:
        """One request."""
        with self._lock:
            self.requests.append(body)
            self.authorizations.append(authorization)
            number = len(self.requests)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            return self.answer(number, body)
        finally:
            with self._lock:
                self._now -= 1


def lengths(body: dict[str, Any]) -> Answer:
    """Characters of each response."""
    return 200, json.dumps({"rewards": [len(text) for text in body["responses"]]})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, str]]:
    """A server and its address; waits between tries are short."""
    monkeypatch.setattr(http, "FIRST_WAIT_S", 0.01)
    behind = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, text, extra = Answered(*behind.handle(body, self.headers["Authorization"]))
            self.send_response(status)
            for name, value in extra.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            with contextlib.suppress(BrokenPipeError):  # the client did not wait
                self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield behind, f"http://127.0.0.1:{listening.server_address[1]}/score"
    listening.shutdown()
    thread.join()
    listening.server_close()


def client(url: str, **changes: Any) -> HttpReward:
    """A client that gives up after 3 tries of at most 5 s."""
    given = {"type": "http", "name": "judge", "url": url, "attempts": 3, "timeout_s": 5.0}
    return HttpReward(config.HttpReward(**given | changes))


def ask(made: HttpReward, responses: list[str]) -> list[float | None]:
    """Values of responses to prompts of their own."""
    return made([f"p{i}" for i in range(len(responses))], responses, [{"i": i} for i in range(len(responses))])


def test_requests_are_batched_and_answers_keep_their_order(server: tuple[Server, str]) -> None:
    """5 responses in batches of 2: three requests, each with its prompts and metadata."""
    behind, url = server
    assert ask(client(url, batch_size=2), ["a", "bb", "ccc", "", "eeeee"]) == [1.0, 2.0, 3.0, 0.0, 5.0]
    sent = sorted(behind.requests, key=lambda body: body["prompts"])
    assert sent == [
        {"prompts": ["p0", "p1"], "responses": ["a", "bb"], "metadata": [{"i": 0}, {"i": 1}]},
        {"prompts": ["p2", "p3"], "responses": ["ccc", ""], "metadata": [{"i": 2}, {"i": 3}]},
        {"prompts": ["p4"], "responses": ["eeeee"], "metadata": [{"i": 4}]},
    ]


def test_no_more_requests_are_under_way_than_allowed(server: tuple[Server, str]) -> None:
    """Six requests of 50 ms, two at once."""
    behind, url = server
    behind.answer = lambda number, body: (time.sleep(0.05), lengths(body))[1]
    ask(client(url, batch_size=1, concurrency=2), list("abcdef"))
    assert behind.most_at_once == 2


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_that_fails_twice_and_then_answers_costs_nothing(status: int, server: tuple[Server, str]) -> None:
    """Third of three tries."""
    behind, url = server
    behind.answer = lambda number, body: lengths(body) if number == 3 else (status, "busy")
    assert ask(client(url), ["a", "bb"]) == [1.0, 2.0]
    assert len(behind.requests) == 3


def test_a_batch_that_stays_without_answer_is_marked_and_others_are_not(
    server: tuple[Server, str], caplog: pytest.LogCaptureFixture
) -> None:
    """The batch with "x" fails each time; the log says how often and why."""
    behind, url = server
    behind.answer = lambda number, body: (500, "broken") if "x" in body["responses"] else lengths(body)
    with caplog.at_level(logging.WARNING):
        assert ask(client(url, batch_size=2), ["a", "x", "ccc"]) == [None, None, 3.0]
    assert "no answer after 3 attempts, 2 responses unscored: status 500" in caplog.text


def test_a_server_that_is_too_slow_is_marked(server: tuple[Server, str], caplog: pytest.LogCaptureFixture) -> None:
    """It takes 0.5 s, the client waits 0.05 s, twice."""
    behind, url = server
    behind.answer = lambda number, body: (time.sleep(0.5), lengths(body))[1]
    assert ask(client(url, timeout_s=0.05, attempts=2), ["a"]) == [None]
    assert "ReadTimeout" in caplog.text


def test_no_server_at_all_is_marked(server: tuple[Server, str], caplog: pytest.LogCaptureFixture) -> None:
    """Port 9 refuses."""
    assert ask(client("http://127.0.0.1:9/", attempts=2), ["a"]) == [None]
    assert "ConnectError" in caplog.text


@pytest.mark.parametrize(
    ("status", "text", "told"),
    [
        (200, '{"scores": [1]}', "answered {'scores': [1]}"),
        (200, "[1, 2]", "answered [1, 2]"),
        (200, '{"rewards": [1]}', "gave 1 values for 2 responses"),
        (200, '{"rewards": ["good", 1]}', "gave str 'good' as a reward"),
        (401, "who are you", "answered 401: 'who are you'"),
        (422, "no such field", "answered 422"),
        (302, "", "answered 302"),
    ],
)
def test_a_wrong_answer_is_an_error_that_names_it_and_is_not_tried_again(
    status: int, text: str, told: str, server: tuple[Server, str]
) -> None:
    """One request: trying again would not change it."""
    behind, url = server
    behind.answer = lambda number, body: (status, text)
    with pytest.raises(RewardError, match=re.escape(told)):
        ask(client(url), ["a", "b"])
    assert len(behind.requests) == 1


BROKEN = {
    "no JSON": (Answered(200, "<html>hello</html>"), "answered no JSON: '<html>hello</html>'"),
    "broken gzip": (Answered(200, "no gzip", {"Content-Encoding": "gzip"}), "cannot be read: DecodingError"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_body_that_cannot_be_read_costs_an_attempt_and_the_last_one_is_an_error(
    case: str, server: tuple[Server, str]
) -> None:
    """A proxy may have given it: twice and then an answer, and then for good."""
    behind, url = server
    wrong, told = BROKEN[case]
    behind.answer = lambda number, body: lengths(body) if number == 3 else wrong
    assert ask(client(url), ["a", "bb"]) == [1.0, 2.0]
    behind.answer = lambda number, body: wrong
    with pytest.raises(RewardError, match=re.escape(told)) as caught:
        ask(client(url), ["a", "b"])
    assert len(behind.requests) == 6
    assert caught.value.remedy


def test_null_and_nan_from_a_server_mean_not_scored(server: tuple[Server, str]) -> None:
    """Python's JSON writes NaN."""
    behind, url = server
    behind.answer = lambda number, body: (200, '{"rewards": [null, NaN, 1]}')
    assert ask(client(url), ["a", "b", "c"]) == [None, None, 1.0]


def test_the_token_is_sent_and_never_told(
    server: tuple[Server, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither in a log at any level nor in the error."""
    behind, url = server
    behind.answer = lambda number, body: (500, "") if number == 1 else (403, "no")
    monkeypatch.setenv("JUDGE_TOKEN", "s3cret-token")
    with caplog.at_level(logging.DEBUG), pytest.raises(RewardError) as caught:
        ask(client(url, token_env="JUDGE_TOKEN"), ["a"])
    assert behind.authorizations == ["Bearer s3cret-token"] * 2
    assert "s3cret-token" not in caplog.text + str(caught.value) + repr(caught.value)


def test_what_cannot_work_is_refused_before_the_first_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """No scheme, no host, no address at all; a token that is not there."""
    monkeypatch.delenv("JUDGE_TOKEN", raising=False)
    with pytest.raises(RewardError, match="url 'localhost:80'"):
        client("localhost:80")
    for url in ("http://", "http://[::1/score", "http://host:port/"):
        with pytest.raises(RewardError, match=re.escape(f"url {url!r}")):
            client(url)
    with pytest.raises(RewardError, match="variable JUDGE_TOKEN is not set"):
        client("http://localhost", token_env="JUDGE_TOKEN")


def test_a_value_does_not_depend_on_the_batch_or_its_order(server: tuple[Server, str]) -> None:
    """Invariant 11: batch 1 == batch n, in any order."""
    _, url = server
    responses = ["", "a", "bb", "ccc", "dddd"]
    made = client(url, batch_size=2)
    alone = [ask(made, [one])[0] for one in responses]
    assert ask(made, responses) == alone
    assert ask(made, responses[::-1]) == alone[::-1]
