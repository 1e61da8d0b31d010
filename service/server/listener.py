"""Accepts connections up to a limit, and handles a lack of file descriptors.

uvicorn lets the event loop accept connections, which has two faults. Without free descriptors, asyncio logs thousands
of lines per second and uvloop closes connections silently. A connection that arrives while the server closes ends in a
`TypeError`. This listener waits until it can accept again and logs the problem at intervals.
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
"""Maximum number of connections that the kernel queues until they are accepted."""
_WANTED_DESCRIPTORS = 65536
_OWN_DESCRIPTORS = 128
"""Number of descriptors reserved for logs, checkpoints and the engine's sockets."""
_RETRY_SECONDS = 0.5
_BUSY_SECONDS = 0.01
"""Interval between checks for a free connection while all have a request in progress."""
_LOG_SECONDS = 10.0
"""Minimum time between two log lines about the same problem."""


class ListenError(Exception):
    """The service cannot listen on the address. The message says which one and why."""


def listen(host: str, port: int) -> list[socket.socket]:
    """Open a listening socket for every address of the host.

    Raises:
        ListenError: the address does not belong to this host, or the port is in use or not permitted.
    """
    sockets: list[socket.socket] = []
    try:
        # An empty host means every interface, as in asyncio.
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, *_, address in dict.fromkeys(found):
            # With port 0, the kernel selects the port of the first address, and the others use the same one.
            actual = (address[0], port or (sockets[0].getsockname()[1] if sockets else 0), *address[2:])
            sockets.append(socket.create_server(actual, family=family, backlog=BACKLOG))
            sockets[-1].setblocking(False)
    except OSError as error:
        for one in sockets:
            one.close()
        # Python adds the address to some messages. A failed name lookup has a negative number and its own message.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise ListenError(f"cannot listen on {host} port {port}: {reason}. Choose another --host or --port.") from None
    return sockets


def allow_descriptors() -> int:
    """Raise the soft limit of open files to 65536, or as far as the hard limit allows. Returns the new limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = _WANTED_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _WANTED_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= limit:
        return _WANTED_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
    with suppress(OSError, ValueError):  # a sandbox may forbid it
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        return limit
    return soft


def connection_limit(wanted: int, descriptors: int) -> int:
    """Return the number of connections to accept: `wanted`, or fewer if the descriptors do not suffice."""
    return max(1, min(wanted, descriptors - min(_OWN_DESCRIPTORS, descriptors // 2)))


class Listener:
    """Replaces `asyncio.Server` and has the methods that uvicorn calls: `close` and `wait_closed`."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        make_connection: Callable[[], Connection],
        connections: Collection[object],
        limit: int,
    ) -> None:
        """
        Args:
            connections: the open connections. A connection adds and removes itself.
            limit: maximum number of open connections.
        """
        self._sockets = sockets
        self._make_connection = make_connection
        self._connections = connections
        self._limit = limit
        self._logged_at: dict[str, float] = {}
        self._tasks = [asyncio.create_task(self._serve(one)) for one in sockets]

    def close(self) -> None:
        """Stop accepting connections. Open connections stay open."""
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
            except OSError as error:  # no descriptor or memory is free, or the peer reset the connection at once
                self._log_problem("cannot accept connections", error=str(error))
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
            self._log_problem("too many connections", open=len(self._connections))
            # A closed connection is removed after one iteration of the event loop.
            await asyncio.sleep(0 if self._close_one() else _BUSY_SECONDS)

    def _close_one(self) -> bool:
        """Close the connection that has been idle longest. Returns whether there was an idle one."""
        idle = [one for one in self._connections if isinstance(one, Connection) and one.idle_since is not None]
        if idle:
            min(idle, key=lambda one: one.idle_since or 0.0).transport.abort()
        return bool(idle)

    def _log_problem(self, event: str, **fields: object) -> None:
        now = time.monotonic()
        if now - self._logged_at.get(event, -_LOG_SECONDS) >= _LOG_SECONDS:
            self._logged_at[event] = now
            log(LOGGER, logging.WARNING, event, limit=self._limit, **fields)
