"""The twins: same signatures, typed results, settings, readiness, nothing left open."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import socket
import threading
import time
from contextlib import suppress
from dataclasses import FrozenInstanceError, fields
from typing import Any

import httpx
import pytest

import screening_client
from screening_client import AsyncClient, Client, InputError, NotFound, ScreenRequest, TimedOut, constants
from screening_client.raw import ScreenArguments

PUBLIC = [
    "__init__",
    "close",
    "ready",
    "screen",
    "screen_as_completed",
    "screen_many",
    "wait_until_ready",
    "with_options",
]
NOT_AWAITED = {"__init__", "screen_as_completed", "with_options"}


def test_the_public_methods_of_both_clients_are_these() -> None:
    for kind in (Client, AsyncClient):
        methods = {name for name in dir(kind) if not name.startswith("_")}
        assert methods == set(PUBLIC) - {"__init__"} | {"with_raw_response", "decisions"}


@pytest.mark.parametrize("name", PUBLIC)
def test_both_clients_have_the_same_signatures(name: str) -> None:
    sync, twin = getattr(Client, name), getattr(AsyncClient, name)
    expected = re.sub(r"\bClient\b", "AsyncClient", str(inspect.signature(sync)))
    expected = expected.replace("'Generator", "'AsyncGenerator").replace(
        "'Iterable[ScreenRequest]'", "'Iterable[ScreenRequest] | AsyncIterable[ScreenRequest]'"
    )
    assert str(inspect.signature(twin)) == expected
    assert inspect.iscoroutinefunction(twin) is (name not in NOT_AWAITED)


def test_raw_and_bulk_screenings_take_the_same_arguments() -> None:
    arguments = set(inspect.signature(Client.screen).parameters) - {"self"}
    assert ScreenArguments.__required_keys__ | ScreenArguments.__optional_keys__ == arguments
    assert {each.name for each in fields(ScreenRequest)} == arguments - {"extra_headers"}


def test_arguments_of_a_screening_are_keyword_only() -> None:
    parameters = list(inspect.signature(Client.screen).parameters.values())[1:]
    assert {parameter.kind for parameter in parameters} == {inspect.Parameter.KEYWORD_ONLY}


def test_every_public_name_exists_and_is_listed_in_order() -> None:
    assert screening_client.__all__ == sorted(screening_client.__all__)
    assert all(hasattr(screening_client, name) for name in screening_client.__all__)


def test_an_answer_is_typed_and_frozen_and_keeps_unknown_fields(server: Any, question: Any) -> None:
    server.replies = [server.good(from_the_future={"x": 1}, metadata={"sku": "4711"})]
    with Client(base_url=server.url) as client:
        screening = client.screen(**question, metadata={"sku": "4711"})
    assert (screening.choice, screening.acceptable, screening.answered) == ("C", ("A", "C"), True)
    assert screening.options[1].issues == ("appearance_deformation",)
    assert screening.timings.decode_ms == 9.0 and screening.usage.completion_tokens == 71
    assert screening.raw["from_the_future"] == {"x": 1} and screening.metadata == {"sku": "4711"}
    assert screening.request_id == server.received[0].headers["X-Request-Id"]
    assert hash(screening) == hash(screening)
    with pytest.raises(FrozenInstanceError):
        screening.choice = "A"  # type: ignore[misc]


def test_an_unreadable_outcome_has_no_choice(server: Any, question: Any) -> None:
    changes = {"outcome": "unreadable", "choice": None, "acceptable": [], "unreadable_reason": "no_answer"}
    server.replies = [server.good(**changes, confidence=0, needs_review=True, reasoning=None)]
    with Client(base_url=server.url) as client:
        screening = client.screen(**question)
    assert (screening.choice, screening.answered, screening.unreadable_reason) == (None, False, "no_answer")


def test_the_arguments_of_a_call_are_sent(server: Any, question: Any) -> None:
    with Client(base_url=f"{server.url}/behind/a/prefix/", api_key=" secret ") as client:
        client.screen(**question, mode="direct", metadata={"name": "Süß"})
    received = server.received[0]
    assert (received.method, received.path) == ("POST", "/behind/a/prefix/screen")
    assert received.headers["Authorization"] == "Bearer secret"
    parts = [received.body.index(picture) for picture in [question["original"], *question["generated"]]]
    assert parts == sorted(parts)
    assert b'name="mode"\r\n\r\ndirect' in received.body
    assert json.dumps({"name": "Süß"}, ensure_ascii=False).encode() in received.body


def test_arguments_go_before_the_environment(server: Any, question: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCREENING_BASE_URL", server.url)
    monkeypatch.setenv("SCREENING_API_KEY", "from-outside")
    with Client() as client:
        client.screen(**question)
    with Client(api_key="given") as client:
        client.screen(**question)
    with Client(api_key="") as client:
        client.screen(**question)
    keys = [received.headers.get("Authorization") for received in server.received]
    assert keys == ["Bearer from-outside", "Bearer given", None]


def test_a_client_never_shows_its_key() -> None:
    with Client(api_key="secret") as client:
        assert "secret" not in repr(client) and "secret" not in repr(client._settings)


@pytest.mark.parametrize(("status", "ready"), [(200, True), (503, False), (502, False), (429, False)])
def test_ready_returns_the_answer_of_the_service(server: Any, status: int, ready: bool) -> None:
    server.replies = [server.problem(status)]
    with Client(base_url=server.url) as client:
        assert client.ready() is ready
    assert server.received[0].path == "/readyz" and len(server.received) == 1


def test_a_closed_port_is_not_ready() -> None:
    with Client(base_url="http://127.0.0.1:1") as client:
        assert not client.ready()


def test_an_answer_that_cannot_be_decoded_is_not_ready(server: Any) -> None:
    server.replies = [type(server.good())(200, b"no gzip", {"Content-Encoding": "gzip"})]
    with Client(base_url=server.url) as client:
        assert not client.ready()

    async def ready() -> bool:
        async with AsyncClient(base_url=server.url) as client:
            return await client.ready()

    assert not asyncio.run(ready())


def test_waiting_ends_when_the_service_is_ready(server: Any, quick: None) -> None:
    server.replies = [server.problem(503), server.problem(503), server.problem(200)]
    with Client(base_url=server.url) as client:
        client.wait_until_ready(60)
    assert len(server.received) == 3


def test_waiting_ends_when_time_is_over_or_waiting_is_of_no_use(server: Any, quick: None) -> None:
    server.replies = [server.problem(503)]
    with Client(base_url=server.url) as client:
        with pytest.raises(TimedOut, match="not ready within"):
            client.wait_until_ready(0.05)
        server.replies = [server.problem(404)]
        with pytest.raises(NotFound):
            client.wait_until_ready(60)


def test_the_reason_is_named_when_a_service_is_not_ready_in_time(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "POLL_INTERVAL", 60)  # longer than all the time, so it asks once and does not wait
    server.replies = [server.problem(503, "not-ready")]
    with Client(base_url=server.url) as client, pytest.raises(TimedOut, match=r"within 30 s: 503 not-ready"):
        client.wait_until_ready(30)

    async def wait() -> None:
        async with AsyncClient(base_url="http://127.0.0.1:1") as client:
            await client.wait_until_ready(30)

    with pytest.raises(TimedOut, match=r"within 30 s: cannot connect to http://127.0.0.1:1"):
        asyncio.run(wait())


def test_the_async_client_waits_in_the_same_way(server: Any, quick: None) -> None:
    server.replies = [server.problem(503), server.problem(200)]

    async def wait() -> None:
        async with AsyncClient(base_url=server.url) as client:
            await client.wait_until_ready(60)
            server.replies = [server.problem(503)]
            with pytest.raises(TimedOut):
                await client.wait_until_ready(0.05)

    asyncio.run(wait())


def test_a_client_closes_its_own_connections_and_only_those(server: Any, question: Any) -> None:
    with Client(base_url=server.url) as client:
        client.screen(**question)
        own = client._connections.current()
    assert own.is_closed
    with httpx.Client() as mine:
        with Client(base_url=server.url, http_client=mine) as client:
            client.screen(**question)
        assert not mine.is_closed


def test_cancelling_a_call_cancels_it_at_once(server: Any, question: Any) -> None:
    server.replies = [server.problem(503, retry_after=100)]

    async def call() -> None:
        async with AsyncClient(base_url=server.url) as client:
            task = asyncio.create_task(client.screen(**question))
            while not server.received:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(call())
    assert len(server.received) == 1


@pytest.mark.parametrize("host", ["a..b", ".", "x" * 64 + ".com", "\udc80x"])
def test_a_host_that_no_socket_takes_is_refused(host: str) -> None:
    with pytest.raises(InputError, match="is not a URL"):
        Client(base_url=f"http://{host}")


@pytest.mark.parametrize("key", [b"secret", 4711, ["secret"]])
def test_a_key_that_is_not_text_is_refused(key: Any) -> None:
    with pytest.raises(InputError, match="it must be a string"):
        Client(api_key=key)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), "3"])
def test_waiting_takes_a_positive_number_of_seconds(seconds: Any) -> None:
    with Client(base_url="http://127.0.0.1:1") as client, pytest.raises(InputError, match="timeout must be"):
        client.wait_until_ready(seconds)


@pytest.mark.parametrize("metadata", [{"a": "\ud83d"}, {"\udcff": 1}, {"a": [{"b": "x\udc00"}]}])
def test_half_of_a_surrogate_pair_in_metadata_is_refused(server: Any, question: Any, metadata: Any) -> None:
    with Client(base_url=server.url) as client, pytest.raises(InputError, match="one half of a surrogate pair"):
        client.screen(**question, metadata=metadata)
    assert server.received == []


def dripping_server(listening: socket.socket, over: threading.Event) -> None:
    """Reads a request, and sends an answer byte by byte without an end."""
    connection, _ = listening.accept()
    with connection:
        while b"--\r\n" not in connection.recv(1 << 20):
            pass
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        with suppress(OSError):
            while not over.wait(0.05):
                connection.sendall(b" ")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_an_answer_that_never_ends_is_cut_off_at_the_time_limit(question: Any, kind: Any) -> None:
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=dripping_server, args=(listening, over))
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        try:
            with pytest.raises(TimedOut):
                screen_within(1, kind, url, question)
        finally:
            over.set()
            thread.join()


def late_server(listening: socket.socket, seconds: float, said: bytes, left: threading.Event) -> None:
    """Waits, says `said`, and reads without a further word. Notes it if the client leaves while nothing more comes."""
    connection, _ = listening.accept()
    with connection, suppress(TimeoutError):
        time.sleep(seconds)
        with suppress(ConnectionError):  # the client has left before
            connection.sendall(said)
            connection.settimeout(seconds)
            while connection.recv(1 << 20):
                pass
        left.set()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("more", "said"),
    [(1 << 24, b""), (0, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")],
    ids=["slow upload", "late headers"],
)
def test_the_time_limit_does_not_begin_anew_within_a_call(question: Any, kind: Any, more: int, said: bytes) -> None:
    """The upload, or the wait for the headers, takes most of the limit. More bytes than buffers hold make it slow."""
    limit, left = 3.0, threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=late_server, args=(listening, 0.8 * limit, said, left))
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        try:
            with pytest.raises(TimedOut):
                screen_within(limit, kind, url, {**question, "original": question["original"] + bytes(more)})
        finally:
            thread.join()
    assert left.is_set(), "the client waited for almost another time limit"


def screen_within(seconds: float, kind: Any, url: str, question: Any) -> None:
    """Screen with one of the clients and a limit of the whole call."""
    if kind is Client:
        with Client(base_url=url, timeout=seconds) as client:
            client.screen(**question)
    else:
        asyncio.run(screen_asynchronously(seconds, url, question))


async def screen_asynchronously(seconds: float, url: str, question: Any) -> None:
    async with AsyncClient(base_url=url, timeout=seconds) as client:
        await client.screen(**question)
