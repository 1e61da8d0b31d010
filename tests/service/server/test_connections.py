"""Peers that are slow, silent or many: each connection has its time limits, and the service stays reachable."""

from __future__ import annotations

import json
import re
import resource
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from service.config.settings import Settings
from service.server.listener import connection_limit, listen
from tests.service.conftest import Sample, draw

pytestmark = pytest.mark.slow

GET = b"GET /readyz HTTP/1.1\r\nHost: test\r\n\r\n"
HALF = b"GET /readyz HTTP/1.1\r\nHost: te"


@pytest.fixture(scope="module")
def impatient(launch_service: Callable[..., Any]) -> Iterator[Any]:
    """A service whose connection timeouts are all one second."""
    with launch_service(
        "--engine", "scripted", "--scripted-latency-ms", "0", "--header-timeout-seconds", "1",
        "--body-timeout-seconds", "1", "--body-min-rate", "1000", "--keep-alive-seconds", "1",
    ) as process:  # fmt: skip
        yield process


@pytest.fixture(scope="module")
def patient(launch_service: Callable[..., Any]) -> Iterator[Any]:
    """A service that waits longer for a body, because a busy machine takes seconds to send a large one."""
    with launch_service(
        "--engine", "scripted", "--body-timeout-seconds", "4", "--body-min-rate", "1000", "--keep-alive-seconds", "1",
    ) as process:  # fmt: skip
        yield process


@contextmanager
def connected(process: Any, *sent: bytes) -> Iterator[socket.socket]:
    with socket.create_connection(process.address, timeout=30) as connection:
        for data in sent:
            connection.sendall(data)
        yield connection


def everything(connection: socket.socket) -> bytes:
    """The bytes that arrive until the service closes the connection."""
    received = b""
    try:
        while data := connection.recv(65536):
            received += data
    except ConnectionError:
        pass
    return received


def problem_in(response: bytes) -> tuple[int, str]:
    """Status and type of the last response."""
    *_, last = re.finditer(rb"HTTP/1.1 \d", response)
    head, _, body = response[last.start() :].partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    document = json.loads(body)
    assert document["status"] == int(head.split()[1]) and document["request_id"]
    return document["status"], document["type"].rpartition(":")[2]


UPLOAD = b"POST /screen HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
BROKEN_HEADERS = {
    "in a header": HALF,
    "in the method": b"G",
    "after the request line": b"GET /readyz HTTP/1.1\r\n",
    "in a long header": b"POST /screen HTTP/1.1\r\nX: " + b"y" * 9000,
    "in the second request": GET + HALF,
}
BROKEN_UPLOADS = {"no body": UPLOAD, "one byte": UPLOAD + b"{", "some bytes": UPLOAD + b"{" + b" " * 5000}
SILENT = {"nothing at all": b"", "one request": GET}


@pytest.fixture(scope="module")
def responses(impatient: Any) -> dict[str, bytes]:
    """What the service answers to each of these beginnings until it closes the connection. They wait together."""
    beginnings = BROKEN_HEADERS | BROKEN_UPLOADS | SILENT

    def response(sent: bytes) -> bytes:
        with connected(impatient, sent) as connection:
            return everything(connection)

    with ThreadPoolExecutor(len(beginnings)) as pool:
        return dict(zip(beginnings, pool.map(response, beginnings.values()), strict=True))


@pytest.mark.parametrize("name", BROKEN_HEADERS)
def test_headers_that_break_off_are_408(responses, name) -> None:
    assert problem_in(responses[name]) == (408, "header-timeout")


def test_headers_that_break_off_on_a_kept_connection_are_408(impatient) -> None:
    with connected(impatient, GET) as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.sendall(HALF)
        assert problem_in(everything(connection)) == (408, "header-timeout")


def answer_while_sending(connection: socket.socket, piece: bytes) -> bytes:
    """What the service answers to a client that sends a piece every 50 ms, and some more after the answer."""
    connection.settimeout(0.05)
    response = b""
    for _ in range(600):
        connection.sendall(piece)
        with suppress(TimeoutError):
            response += connection.recv(65536)
        if response:
            break
    for _ in range(5):  # the service lingers, so the pieces that it no longer wants do not reset the connection
        connection.sendall(piece)
        time.sleep(0.01)
    connection.shutdown(socket.SHUT_WR)
    connection.settimeout(30)
    while data := connection.recv(65536):
        response += data
    return response


def test_headers_that_trickle_are_408_however_steadily(impatient) -> None:
    with connected(impatient, b"GET /readyz HTTP/1.1\r\nX-Slow: ") as connection:
        assert problem_in(answer_while_sending(connection, b"y")) == (408, "header-timeout")


@pytest.mark.parametrize(("name", "answers"), [("nothing at all", 0), ("one request", 1)])
def test_a_connection_that_sends_nothing_is_closed_without_a_word(responses, name, answers) -> None:
    assert responses[name].count(b"HTTP/1.1") == answers


def test_an_idle_connection_outlives_the_idle_timeout_of_proxies() -> None:
    assert Settings(engine="scripted").keep_alive_seconds > 60


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01\x00\x00\r\n\r\n", b"hello\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"y" * 99999]
)
def test_bytes_that_are_not_http_are_answered_with_a_problem(impatient, sent) -> None:
    with connected(impatient, sent) as connection:
        assert problem_in(everything(connection)) == (400, "malformed-request")


@pytest.mark.parametrize(("sent", "status"), [(b"hello\r\n\r\n", 400), (HALF, 408)])
def test_the_id_of_a_refusal_before_there_is_a_request_is_in_the_log(impatient, sent, status) -> None:
    with connected(impatient, sent) as connection:
        document = json.loads(everything(connection).partition(b"\r\n\r\n")[2])
    (line,) = (event for event in impatient.events() if event.get("request_id") == document["request_id"])
    assert (line["event"], line["status"], line["client"]) == ("refused", status, "127.0.0.1")


def test_a_slow_but_steady_upload_is_answered(impatient) -> None:
    request = Sample(tuple(draw(seed, (640, 512)) for seed in range(5))).raw_request()
    size = len(request) // 20
    assert size > 1000, "each piece must be enough for one second"
    with connected(impatient) as connection:
        for begin in range(0, len(request), size):
            connection.sendall(request[begin : begin + size])
            time.sleep(0.1)  # two seconds in all, where one is the limit of a stall
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def test_an_upload_below_the_minimum_rate_has_its_own_408_type(patient) -> None:
    with connected(patient, UPLOAD + b"{") as connection:
        assert problem_in(answer_while_sending(connection, b" ")) == (408, "upload-too-slow")


@pytest.mark.parametrize("name", BROKEN_UPLOADS)
def test_an_upload_that_stops_is_a_body_timeout(responses, name) -> None:
    assert problem_in(responses[name]) == (408, "body-timeout")


def test_a_body_that_was_answered_already_does_not_hold_its_connection(impatient) -> None:
    head = b"POST /nowhere HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000000\r\n\r\n"
    with connected(impatient, head) as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 404")
        with pytest.raises(ConnectionError):
            for _ in range(600):
                connection.sendall(b"y")
                time.sleep(0.05)


def test_a_connection_is_idle_again_when_the_rest_of_an_answered_body_has_arrived(impatient) -> None:
    head = b"POST /nowhere HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n\r\n"
    with connected(impatient, head) as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 404")
        connection.sendall(b"y" * 1000 + GET)
        assert everything(connection).count(b"HTTP/1.1 200") == 1  # it ends when the service closes
    with connected(impatient, head) as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 404")
        connection.sendall(b"y" * 1000)
        assert b"HTTP/1.1" not in everything(connection)


@pytest.mark.parametrize("closing", [b"", b"Connection: close\r\n"])
def test_a_client_that_sends_all_of_its_body_before_it_reads_gets_the_refusal(patient, closing) -> None:
    """Python's urllib is such a client, and it asks for a close."""
    size = 40_000_000  # above SCREENING_MAX_BODY_BYTES, and soon sent within the time for which the rest is read
    head = b"POST /screen HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n" + closing
    with connected(patient, head + b"Content-Length: %d\r\n\r\n" % size) as connection:
        for _ in range(size // 1_000_000):
            connection.sendall(b" " * 1_000_000)
        assert problem_in(everything(connection)) == (413, "request-too-large")


def test_headers_that_go_on_after_their_limit_do_not_reset_the_connection(patient) -> None:
    with connected(patient, b"GET / HTTP/1.1\r\nX: ", b"y" * 5_000_000) as connection:
        assert problem_in(everything(connection)) == (400, "malformed-request")


def test_a_refused_client_that_sends_on_forever_is_cut_off(impatient) -> None:
    with connected(impatient, b"hello\r\n\r\n") as connection:
        assert problem_in(connection.recv(65536)) == (400, "malformed-request")
        with pytest.raises(ConnectionError):
            for _ in range(600):
                connection.sendall(b"y")
                time.sleep(0.05)


def test_a_client_that_does_not_read_is_given_up(impatient, wait_until) -> None:
    asked = 400
    service = psutil.Process(impatient.popen.pid)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(30)
        connection.connect(impatient.address)
        own = connection.getsockname()
        wait_until(lambda: any(one.raddr == own for one in service.net_connections()))
        connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: test\r\n\r\n" * asked)
        wait_until(lambda: all(one.raddr != own for one in service.net_connections()))
        assert everything(connection).count(b"HTTP/1.1 200") < asked


def test_new_connections_are_served_while_idle_ones_fill_the_limit(launch_service, sample) -> None:
    arguments = ("--engine", "scripted", "--scripted-latency-ms", "1000", "--max-connections", "8")
    with launch_service(*arguments) as process, ExitStack() as stack:
        busy = stack.enter_context(connected(process, sample.raw_request()))
        for sent in [(), (HALF,), (GET,)] * 10:
            stack.enter_context(connected(process, *sent))
        assert httpx.get(f"{process.base_url}/readyz").status_code == 200
        assert busy.recv(65536).startswith(b"HTTP/1.1 200")
        assert sum(event["event"] == "too many connections" for event in process.events()) == 1


def test_without_file_descriptors_the_service_waits_quietly_and_recovers(launch_service, wait_until) -> None:
    with launch_service("--engine", "scripted") as process, ExitStack() as stack:
        pid = process.popen.pid
        kept = stack.enter_context(httpx.Client(base_url=process.base_url, timeout=30))
        kept.get("/readyz")
        _, hard = limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(list(Path(f"/proc/{pid}/fd").iterdir())), hard))
        waiting = [stack.enter_context(connected(process, GET)) for _ in range(20)]
        wait_until(lambda: any(event["event"] == "cannot accept connections" for event in process.events()))
        assert kept.get("/readyz").status_code == 200
        time.sleep(1)  # what asyncio's own loop writes some thousand lines in
        assert len(process.events()) < 20
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        assert [connection.recv(65536)[:12] for connection in waiting] == [b"HTTP/1.1 200"] * 20


def test_the_limit_of_connections_leaves_descriptors_for_everything_else() -> None:
    assert connection_limit(1024, 65536) == 1024
    assert connection_limit(1024, 1024) == 1024 - 128
    assert connection_limit(1024, 64) == 32
    assert connection_limit(1024, 1) == 1


def test_a_host_with_several_addresses_listens_on_one_port() -> None:
    sockets = listen("", 0)
    assert len({one.getsockname()[1] for one in sockets}) == 1
    for one in sockets:
        one.close()
