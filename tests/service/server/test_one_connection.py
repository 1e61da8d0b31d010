"""One connection without a service: its ends are a pair of sockets whose buffers the test chooses."""

from __future__ import annotations

import asyncio
import gc
import socket
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from service.server.connection import Connection

BODY = b"x" * 40_000
"""Less than the 64 KiB at which asyncio pauses the writing, and more than the sockets take."""


async def answering(scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[..., Any]) -> None:
    """An app that reads a request after 0.2 s and answers with its path, or with a long body at `/long`."""
    await asyncio.sleep(0.2)
    if (await receive())["type"] == "http.disconnect":
        return
    body = BODY if scope["path"] == "/long" else scope["path"].encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def open_connection(*, buffer: int | None = None) -> tuple[Connection, socket.socket]:
    """A connection whose limits are all half a second, and its peer's socket."""
    config = Config(answering, lifespan="off", timeout_keep_alive=1, log_config=None)
    config.load()
    own, peer = socket.socketpair()
    if buffer:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    peer.setblocking(False)

    def protocol() -> Connection:
        return Connection(config, ServerState(), {}, header_seconds=0.5, body_seconds=0.5)

    _, connection = await asyncio.get_running_loop().connect_accepted_socket(protocol, own)
    return connection, peer


async def everything(peer: socket.socket) -> bytes:
    """The bytes that arrive until the service closes the connection."""
    received = b""
    try:
        while data := await asyncio.wait_for(asyncio.get_running_loop().sock_recv(peer, 65536), 10):
            received += data
    except ConnectionError:
        pass
    return received


async def answer_to(*pieces: bytes) -> bytes:
    """What the service answers to bytes that arrive in pieces, 0.1 s apart, until it closes the connection."""
    _, peer = await open_connection()
    with peer:
        for piece in pieces:
            await asyncio.get_running_loop().sock_sendall(peer, piece)
            await asyncio.sleep(0.1)
        return await everything(peer)


@pytest.mark.parametrize(
    "sent",
    {
        "asks for a close": b"GET /long HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n",
        "keeps the connection": b"GET /long HTTP/1.1\r\nHost: test\r\n\r\n",
        "is refused": b"hello\r\n\r\n" * 3,
        "begins another request": b"GET /long HTTP/1.1\r\nHost: test\r\n\r\nGET /long HTTP",
    }.items(),
    ids=lambda named: named[0],
)
def test_a_client_that_never_reads_is_cut_off_however_little_is_left_for_it(sent: tuple[str, bytes]) -> None:
    async def lost() -> bool:
        connection, peer = await open_connection(buffer=1)  # the kernel makes it a few thousand bytes
        with peer:
            await asyncio.get_running_loop().sock_sendall(peer, sent[1])
            for _ in range(100):
                await asyncio.sleep(0.05)
                if connection not in connection.connections:
                    return True
        return False

    assert asyncio.run(lost())


@pytest.mark.parametrize("follows", [b"\r\n", b"GET /second HTTP/1.1\r\nHost: test\r\n\r\n"])
@pytest.mark.parametrize(
    "last", [b"GET /a HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n", b"GET /a HTTP/1.0\r\n\r\n"]
)
def test_what_follows_the_last_request_does_not_cost_its_answer(last: bytes, follows: bytes) -> None:
    """RFC 9112, section 9.6: a server ignores what follows a request after which it closes the connection."""
    received = asyncio.run(answer_to(last, follows))
    assert received.startswith(b"HTTP/1.1 200") and received.endswith(b"\r\n\r\n/a")


def test_a_head_request_with_a_broken_body_is_refused_without_a_body() -> None:
    broken = b"HEAD /a HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
    received = asyncio.run(answer_to(broken))
    assert received.startswith(b"HTTP/1.1 400") and received.endswith(b"\r\n\r\n")


def test_the_limit_of_the_headers_begins_with_their_first_byte() -> None:
    async def seconds() -> float:
        _, peer = await open_connection()
        loop = asyncio.get_running_loop()
        with peer:
            await asyncio.sleep(0.2)
            begun = loop.time()
            await loop.sock_sendall(peer, b"GET /a HTTP/1.1\r\n")
            assert (await everything(peer)).startswith(b"HTTP/1.1 408")
            return loop.time() - begun

    assert asyncio.run(seconds()) > 0.45


@pytest.mark.parametrize(
    "sent",
    {
        "answered": b"GET /a HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n",
        "answered before its body": b"POST /a HTTP/1.1\r\nHost: t\r\nConnection: close\r\nContent-Length: 9\r\n\r\nx",
        "refused": b"GET /a HTTP/1.1\r\nHost",
    }.items(),
    ids=lambda named: named[0],
)
def test_a_lost_connection_does_not_wait_for_the_garbage_collector(sent: tuple[str, bytes]) -> None:
    """With an engine's many objects in memory, a full collection is rare, and the buffers would pile up until then."""

    async def left() -> object:
        connection, peer = await open_connection()
        reference = weakref.ref(connection)
        with peer:
            await asyncio.get_running_loop().sock_sendall(peer, sent[1])
            del connection
            await everything(peer)
        await asyncio.sleep(0.1)
        return reference()

    gc.disable()
    try:
        assert asyncio.run(left()) is None
    finally:
        gc.enable()
