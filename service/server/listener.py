"""Accepts connections: at most so many, and without a flood of log lines when the process has no file descriptor left.

uvicorn leaves this to the event loop, whose own way has two faults. Without descriptors asyncio logs thousands of lines
per second, and uvloop closes connections silently. A connection that arrives while the server closes ends in a
`TypeError`. This listener waits instead, says so once in a while, and goes on by itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

from service.logs import log
from service.server.connection import Connection

LOGGER = logging.getLogger("service.server.listener")

BACKLOG = 2048
"""Connections that the kernel holds until they are accepted."""
_WANTED_DESCRIPTORS = 65536
_OWN_DESCRIPTORS = 128
"""Left for everything else than connections: logs, checkpoints, the engine's sockets."""
_RETRY_SECONDS = 0.5
_BUSY_SECONDS = 0.01
"""Between two looks for room while every connection has a request in progress."""
_SAY_SECONDS = 10.0
"""Shortest time between two log lines about one trouble."""


class ListenError(Exception):
    """The address cannot be listened on; the message says which and why."""


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets for every address of the host.

    Raises:
        ListenError: the host has no such address, the port is taken, or the process may not use it.
    """
    sockets: list[socket.socket] = []
    try:
        # An empty host is every interface, as for asyncio.
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, *_, address in dict.fromkeys(found):
            # With port 0 every address gets the port that the first one got.
            actual = (address[0], port or (sockets[0].getsockname()[1] if sockets else 0), *address[2:])
            sockets.append(socket.create_server(actual, family=family, backlog=BACKLOG))
            sockets[-1].setblocking(False)
    except OSError as error:
        for one in sockets:
            one.close()
        # Python adds the address to some reasons; a failed lookup has a negative number and its own text.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise ListenError(f"cannot listen on {host} port {port}: {reason}") from None
    return sockets


def allow_descriptors() -> int:
    """Raise the soft limit of open files as far as the hard one allows, up to 65536. Returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _WANTED_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _WANTED_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= limit:
        return _WANTED_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
    with suppress(OSError, ValueError):  # a sandbox may refuse
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        return limit
    return soft


def connection_limit(wanted: int, descriptors: int) -> int:
    """At most `wanted`, and no more than leaves descriptors for everything else."""
    return max(1, min(wanted, descriptors - min(_OWN_DESCRIPTORS, descriptors // 2)))


class Listener:
    """Has the form of an `asyncio.Server` as far as uvicorn uses one: `close` and `wait_closed`."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        make_connection: Callable[[], Connection],
        connections: Collection[object],
        limit: int,
    ) -> None:
        """
        Args:
            connections: those that are open; a connection adds and removes itself.
        """
        self._sockets = sockets
        self._make_connection = make_connection
        self._connections = connections
        self._limit = limit
        self._said: dict[str, float] = {}
        self._tasks = [asyncio.create_task(self._serve(one)) for one in sockets]

    def close(self) -> None:
        """Stop accepting. Connections that are open stay open."""
        for task in self._tasks:
            task.cancel()
        for one in self._sockets:
            one.close()

    async def wait_closed(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, listening: socket.socket) -> None:
        while True:
            await self._wait_for_room()
            try:
                await self._accept(listening)
            except OSError as error:  # no descriptor or no memory left; a connection that was reset at once
                self._say("cannot accept connections", error=str(error))
                await asyncio.sleep(_RETRY_SECONDS)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        accepted, _ = await loop.sock_accept(listening)
        try:
            await loop.connect_accepted_socket(self._make_connection, accepted)
        except BaseException:
            accepted.close()
            raise

    async def _wait_for_room(self) -> None:
        while len(self._connections) >= self._limit:
            self._say("too many connections", open=len(self._connections))
            # What was closed is gone after one round of the event loop.
            await asyncio.sleep(0 if self._close_one() else _BUSY_SECONDS)

    def _close_one(self) -> bool:
        """Close the connection that has been without a request for longest. Returns whether there was one."""
        idle = [one for one in self._connections if isinstance(one, Connection) and one.idle_since is not None]
        if idle:
            min(idle, key=lambda one: one.idle_since or 0.0).transport.abort()
        return bool(idle)

    def _say(self, event: str, **fields: object) -> None:
        now = time.monotonic()
        if now - self._said.get(event, -_SAY_SECONDS) >= _SAY_SECONDS:
            self._said[event] = now
            log(LOGGER, logging.WARNING, event, limit=self._limit, **fields)
