"""raypo.scoring.judge against a real server on this machine: both orders, what is kept, what is refused."""

from __future__ import annotations

import json
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from raypo.config import JudgeConfig
from raypo.errors import OutputError, RewardError
from raypo.scoring import http
from raypo.scoring.judge import Judge, Pair, Verdict

RESPONSES = re.compile(r"<response A>\n(.*)\n</response A>\n\n<response B>\n(.*)\n</response B>", re.DOTALL)


class Server:
    """A judge by a function of the two responses in their order; remembers what it was sent."""

    def __init__(self) -> None:
        self.says: Callable[[str, str], str] = longer
        self.answer: Callable[[int, str], tuple[int, str]] = lambda number, text: (200, completion(text))
        self.requests: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def handle(self, body: dict[str, Any]) -> tuple[int, str]:
        with self._lock:
            self.requests.append(body)
            number = len(self.requests)
        found = RESPONSES.search(body["messages"][0]["content"])
        return self.answer(number, self.says(*found.groups()) if found else "")


def longer(first: str, second: str) -> str:
    """Prefers the longer one, with words around the mark."""
    mark = "C" if len(first) == len(second) else "A" if len(first) > len(second) else "B"
    return f"One might say [[C]], but no: [[{mark}]]"


def completion(text: str) -> str:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, str]]:
    """A server and its address; waits between tries are short."""
    monkeypatch.setattr(http, "FIRST_WAIT_S", 0.01)
    behind = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status, text = behind.handle(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield behind, f"http://127.0.0.1:{listening.server_address[1]}/v1/chat/completions"
    listening.shutdown()
    thread.join()
    listening.server_close()


def judge(url: str, folder: Path, **changes: Any) -> Judge:
    return Judge(JudgeConfig(**{"url": url, "model": "m", "attempts": 2, "timeout_s": 5.0} | changes), folder / "c.db")


PAIRS = [Pair("p", "long one", "short"), Pair("p", "a", "bb"), Pair("p", "cc", "dd")]


def test_both_orders_are_asked_and_the_last_mark_counts(server: tuple[Server, str], tmp_path: Path) -> None:
    behind, url = server
    found = judge(url, tmp_path)(PAIRS)
    assert found == [Verdict(1.0, 1.0), Verdict(0.0, 0.0), Verdict(0.5, 0.5)]
    assert [one.preference for one in found] == [1.0, 0.0, 0.5]
    assert len(behind.requests) == 6
    asked = behind.requests[0]
    assert {key: asked[key] for key in ("model", "temperature", "max_tokens")} == {
        "model": "m",
        "temperature": 0.0,
        "max_tokens": 512,
    }


def test_a_judge_that_sees_only_the_place_gives_ties(server: tuple[Server, str], tmp_path: Path) -> None:
    """Always A: our response wins when it is first and loses when it is second."""
    behind, url = server
    behind.says = lambda first, second: "[[A]]"
    found = judge(url, tmp_path)(PAIRS)
    assert found == [Verdict(1.0, 0.0)] * 3
    assert [one.preference for one in found] == [0.5] * 3


def test_an_answer_is_asked_for_once(server: tuple[Server, str], tmp_path: Path) -> None:
    """By the same judge and by another process's; another model, template or temperature is another question."""
    behind, url = server
    first = judge(url, tmp_path)(PAIRS)
    assert judge(url, tmp_path)(PAIRS) == first
    assert len(behind.requests) == 6
    judge(url, tmp_path, model="other")(PAIRS)
    judge(url, tmp_path, temperature=0.5)(PAIRS)
    assert len(behind.requests) == 18


def test_failures_are_not_kept_and_cost_only_their_pair(
    server: tuple[Server, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Everything fails once for good, then the same question is answered."""
    behind, url = server
    behind.answer = lambda number, text: (503, "busy")
    assert judge(url, tmp_path)(PAIRS[:1]) == [Verdict(None, None)]
    assert "no answer after 2 attempts: status 503" in caplog.text
    assert Verdict(1.0, None).preference is None
    behind.answer = lambda number, text: (200, completion(text))
    assert judge(url, tmp_path)(PAIRS[:1]) == [Verdict(1.0, 1.0)]


def test_an_answer_without_a_mark_is_no_verdict(
    server: tuple[Server, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    behind, url = server
    behind.says = lambda first, second: "both are fine"
    assert judge(url, tmp_path)(PAIRS[:1]) == [Verdict(None, None)]
    assert "both are fine" in caplog.text


def test_what_a_response_says_is_never_a_field(server: tuple[Server, str], tmp_path: Path) -> None:
    """{second} in the first response stays text."""
    behind, url = server
    judge(url, tmp_path)([Pair("{first}", "{second}", "x")])
    texts = [body["messages"][0]["content"] for body in behind.requests]
    assert all("<prompt>\n{first}\n</prompt>" in text for text in texts)
    assert any("<response A>\n{second}\n</response A>" in text for text in texts)


@pytest.mark.parametrize(
    ("status", "text", "told"),
    [
        (404, "no such model", "answered 404"),
        (200, '{"choices": []}', "answered"),
    ],
)
def test_a_wrong_answer_is_an_error_and_not_tried_again(
    status: int, text: str, told: str, server: tuple[Server, str], tmp_path: Path
) -> None:
    behind, url = server
    behind.answer = lambda number, said: (status, text)
    with pytest.raises(RewardError, match=told):
        judge(url, tmp_path, concurrency=1)(PAIRS[:1])
    assert len(behind.requests) <= 2  # one per order, none twice


def test_an_answer_that_is_no_json_is_asked_for_again_and_then_an_error(
    server: tuple[Server, str], tmp_path: Path
) -> None:
    """Two attempts for each order."""
    behind, url = server
    behind.answer = lambda number, text: (200, "<html>" if number < 2 else completion("[[C]]"))
    assert judge(url, tmp_path / "once", concurrency=1)(PAIRS[:1])[0].preference == 0.5
    behind.answer = lambda number, text: (200, "<html>")
    with pytest.raises(RewardError, match="answered no JSON: '<html>'"):
        judge(url, tmp_path / "always", concurrency=1)(PAIRS[:1])


def test_a_template_of_ones_own(server: tuple[Server, str], tmp_path: Path) -> None:
    behind, url = server
    (tmp_path / "good.txt").write_text("{prompt}: {first} or {second}? [[A]] [[B]]")
    judge(url, tmp_path, template=str(tmp_path / "good.txt"))(PAIRS[1:2])
    assert {body["messages"][0]["content"] for body in behind.requests} == {
        "p: a or bb? [[A]] [[B]]",
        "p: bb or a? [[A]] [[B]]",
    }
    (tmp_path / "bad.txt").write_text("{prompt} {first} [[A]] [[B]]")
    with pytest.raises(RewardError, match=r"has no \{second\}"):
        judge(url, tmp_path, template=str(tmp_path / "bad.txt"))
    with pytest.raises(RewardError, match="cannot be read"):
        judge(url, tmp_path, template=str(tmp_path / "none.txt"))


@pytest.mark.parametrize("there", ["rubbish", "folder", "below a file", "another table"])
def test_answers_that_cannot_be_kept_are_told_with_the_files_name(there: str, tmp_path: Path) -> None:
    place = tmp_path / "judge"
    match there:
        case "rubbish":
            place.mkdir()
            (place / "c.db").write_bytes(b"\0rubbish" * 999)
        case "folder":
            (place / "c.db").mkdir(parents=True)
        case "below a file":
            place.write_text("")
        case "another table":
            place.mkdir()
            with closing(sqlite3.connect(place / "c.db")) as store, store:
                store.execute("CREATE TABLE answers (other TEXT)")
    with pytest.raises(OutputError, match=r"answers cannot be kept in .*c\.db"):
        judge("http://localhost:9", place)(PAIRS)


def test_what_cannot_work_is_refused_before_the_first_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_TOKEN", raising=False)
    with pytest.raises(RewardError, match="url 'localhost'"):
        judge("localhost", tmp_path)
    with pytest.raises(RewardError, match="JUDGE_TOKEN is not set"):
        judge("http://localhost", tmp_path, token_env="JUDGE_TOKEN")
