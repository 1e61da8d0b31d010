"""The client accepts only the answer to its own request, by the request id."""

from __future__ import annotations

import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from screening_client import Client, MismatchedAnswer
from tests.clients.calls import both, screen

pytestmark = pytest.mark.slow


def named(reply: Any, request_id: str) -> Any:
    """The reply with the request id that it echoes."""
    return replace(reply, headers={**reply.headers, "X-Request-Id": request_id})


@both
def test_the_answer_to_another_request_is_asked_for_again(server: Any, question: Any, kind: Any) -> None:
    server.replies = [named(server.good(choice="A"), "another.1"), named(server.good(choice="C"), "mine.1")]
    assert screen(kind, question, base_url=server.url).choice == "C"
    assert len({each.headers["Idempotency-Key"] for each in server.received}) == 1 and len(server.received) == 2


@both
@pytest.mark.parametrize(("max_retries", "sent"), [(0, 1), (2, 3)])
def test_a_second_answer_to_another_request_is_an_error(
    server: Any, question: Any, kind: Any, max_retries: int, sent: int
) -> None:
    server.replies = [named(server.good(), "another.1")]
    with pytest.raises(MismatchedAnswer, match=r"another\.1 instead of mine\.1") as caught:
        screen(kind, question, base_url=server.url, max_retries=max_retries)
    assert (len(server.received), caught.value.request_id) == (sent, "mine.1")


@both
@pytest.mark.parametrize("status", [401, 413, 422, 429, 503])
def test_another_request_s_error_is_not_reported_as_this_one_s(
    server: Any, question: Any, kind: Any, status: int, quick: None
) -> None:
    server.replies = [named(server.problem(status), "another.1")]
    with pytest.raises(MismatchedAnswer) as caught:
        screen(kind, question, base_url=server.url)
    assert len(server.received) == caught.value.attempts == 3


@both
def test_every_attempt_is_compared(server: Any, question: Any, kind: Any, quick: None) -> None:
    server.replies = [
        named(server.problem(503), "mine.1"),
        named(server.problem(422), "another.1"),
        named(server.good(choice="A"), "another.2"),
        named(server.good(choice="C"), "mine.1"),
    ]
    assert screen(kind, question, base_url=server.url, max_retries=3).choice == "C"
    assert len(server.received) == 4


@both
@pytest.mark.parametrize("request_id", ["mine.1", "mine.1, proxy-7", "proxy-7,mine.1"])
def test_a_proxy_may_add_its_own_id(server: Any, question: Any, kind: Any, request_id: str) -> None:
    server.replies = [named(server.good(), request_id)]
    assert screen(kind, question, base_url=server.url).answered


@both
def test_a_proxy_that_replaces_the_id_is_a_setting(server: Any, question: Any, kind: Any) -> None:
    server.replies = [named(server.good(), "proxy-7")]
    assert screen(kind, question, base_url=server.url, check_request_id=False).request_id == "proxy-7"


def test_a_readiness_answer_to_another_request_does_not_count(server: Any) -> None:
    server.replies = [named(server.good(), "another.1")]
    with Client(base_url=server.url) as client:
        assert not client.ready()


class KeepAlive(ThreadingHTTPServer):
    """Keeps connections open, counts them, and names another request in its first answer."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.connections: set[tuple[str, int]] = set()
        self.answers = 0
        super().__init__(("127.0.0.1", 0), _KeepAliveHandler)


class _KeepAliveHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: KeepAlive

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.connections.add(self.client_address)
        self.server.answers += 1
        self.send_response(200)
        self.send_header("X-Request-Id", "another.1" if self.server.answers == 1 else self.headers["X-Request-Id"])
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@both
def test_the_connection_of_another_request_s_answer_is_dropped(server: Any, question: Any, kind: Any) -> None:
    with KeepAlive(server.good().body) as kept:
        thread = threading.Thread(target=kept.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            assert screen(kind, question, base_url=f"http://127.0.0.1:{kept.server_address[1]}").answered
            assert (kept.answers, len(kept.connections)) == (2, 2)
        finally:
            kept.shutdown()
            thread.join()


@both
@pytest.mark.parametrize("ids", ["proxy-7, mine.1", "mine.1,proxy-7"])
def test_the_request_id_of_a_result_is_the_one_that_was_sent(server: Any, question: Any, kind: Any, ids: str) -> None:
    server.replies = [named(server.good(), ids)]
    assert screen(kind, question, base_url=server.url).request_id == "mine.1"
