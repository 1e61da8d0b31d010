"""Manages the httpx clients of one SDK client: one per process, and with asyncio one per event loop.

A forked process inherits its parent's sockets. Two processes that use one socket would read each other's answers, so a
process sends only over connections that it opened itself. A child leaves inherited connections untouched, because
closing a TLS connection would also end it for the parent. Connections of asyncio work only in the event loop that
opened them.

This module uses no locks, because a lock that another thread holds during a fork stays locked in the child.
`dict.setdefault` is atomic. The two classes share their checks in `_State`. A common base class would not help, because
one class closes its clients synchronously and the other at the end of an event loop.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import httpx

from screening_client.errors import ClientStateError, InputError

Process: TypeAlias = tuple[int, int]

_forks = 0


def _count_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_count_fork)


def _process() -> Process:
    """Identify this process. In another PID namespace, its id may equal its parent's, but the fork count differs."""
    return os.getpid(), _forks


@dataclass(slots=True)
class _State:
    """State and checks that both kinds of connections share."""

    owned: bool
    """Whether this module creates the httpx clients. It neither closes nor replaces a client of the caller."""
    closed: bool = False
    opened_by: Process | None = None
    """The process that sent the first request."""

    def check_open(self) -> None:
        if self.closed:
            raise ClientStateError("this client is closed; create a new one, or close it only after its last use")

    def check_process(self) -> None:
        """Refuse to use the caller's httpx client in a child of the process that used it."""
        if not self.owned and self.opened_by not in (None, _process()):
            raise ClientStateError(
                "the http_client passed to this client has connections of the parent process. Create both clients in "
                "the child process, or pass as http_client a function that creates an httpx client"
            )
        self.opened_by = _process()


class Connections:
    """Provides the httpx client of this process."""

    def __init__(self, http_client: httpx.Client | Callable[[], httpx.Client]) -> None:
        """
        Args:
            http_client: the caller's client, or a function that is called once in every process.

        Raises:
            InputError: the argument is neither.
        """
        self._make, self._state = _factory(http_client, httpx.Client)
        self._clients: dict[Process, httpx.Client] = {}

    def current(self) -> httpx.Client:
        """
        Raises:
            ClientStateError: the client is closed, or the parent process used the caller's httpx client.
        """
        self._state.check_open()
        return checked(self._clients.get(_process()) or self._open())

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the httpx clients, so that a copy or a pickled client opens its own connections."""
        return self.__dict__ | {"_clients": {}}

    def close(self) -> None:
        """Close the connections that this process opened. Those of its parent stay open."""
        self._state.closed = True
        client = self._clients.get(_process())
        if client is not None and self._state.owned:
            client.close()

    def _open(self) -> httpx.Client:
        self._state.check_process()
        made = _of_kind(self._make(), httpx.Client)
        kept = self._clients.setdefault(_process(), made)
        if kept is not made:  # another thread created one first
            made.close()
        return kept


class AsyncConnections:
    """Provides the httpx client of the running event loop in this process."""

    def __init__(self, http_client: httpx.AsyncClient | Callable[[], httpx.AsyncClient]) -> None:
        """
        Args:
            http_client: the caller's client, or a function that is called once in every event loop of every process.

        Raises:
            InputError: the argument is neither.
        """
        self._make, self._state = _factory(http_client, httpx.AsyncClient)
        self._clients: dict[tuple[Process, asyncio.AbstractEventLoop], _InLoop] = {}

    async def current(self) -> httpx.AsyncClient:
        """
        Raises:
            ClientStateError: the client is closed, no asyncio event loop is running, or the parent process used the
                caller's httpx client.
        """
        self._state.check_open()
        opened = self._clients.get((_process(), _running_loop())) or await self._open()
        return checked(opened.client)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the httpx clients, as in `Connections`."""
        return self.__dict__ | {"_clients": {}}

    async def close(self) -> None:
        """Close the connections of the running event loop. Those of other event loops are closed when these end."""
        self._state.closed = True
        opened = self._clients.get((_process(), _running_loop()))
        if opened is not None:
            await opened.end_of_loop.aclose()

    async def _open(self) -> _InLoop:
        self._state.check_process()
        here = _process(), _running_loop()
        for process, loop in list(self._clients):
            if process == here[0] and loop.is_closed():  # it was closed without the clean-up of `asyncio.run`
                del self._clients[process, loop]
        if self._clients and not self._state.owned:
            raise ClientStateError(
                "the http_client passed to this client is in use in another event loop. Create a client in each event "
                "loop, or pass as http_client a function that creates an httpx client"
            )
        client = _of_kind(self._make(), httpx.AsyncClient)
        opened = self._clients[here] = _InLoop(client, self._close_at_end_of_loop(client))
        await anext(opened.end_of_loop)
        return opened

    async def _close_at_end_of_loop(self, client: httpx.AsyncClient) -> AsyncGenerator[None, None]:
        """Close the client when `close` ends this generator, or `asyncio.run`, which ends all of them."""
        try:
            yield
        finally:
            self._clients.pop((_process(), _running_loop()), None)
            if self._state.owned:
                await client.aclose()


@dataclass(frozen=True, slots=True)
class _InLoop:
    client: httpx.AsyncClient
    end_of_loop: AsyncGenerator[None, None]


Http = TypeVar("Http", httpx.Client, httpx.AsyncClient)


def _factory(http_client: Http | Callable[[], Http], kind: type[Http]) -> tuple[Callable[[], Http], _State]:
    """Return a function that provides httpx clients, and the state that says who owns them.

    Raises:
        InputError: `http_client` is neither a client of this kind nor a function.
    """
    if isinstance(http_client, kind):
        client = http_client
        return lambda: client, _State(owned=False)
    if not callable(http_client):
        given = type(http_client).__name__
        wanted = f"httpx.{kind.__name__}"
        raise InputError(f"http_client is of type {given}; pass an {wanted} or a function that creates one")
    return http_client, _State(owned=True)


def _of_kind(made: Http, kind: type[Http]) -> Http:
    """
    Raises:
        InputError: the caller's function created something else.
    """
    if not isinstance(made, kind):
        raise InputError(
            f"the function passed as http_client created a {type(made).__name__}; it must create a {kind.__name__}"
        )
    return made


def checked(client: Http) -> Http:
    """
    Raises:
        ClientStateError: the httpx client is closed.
    """
    if client.is_closed:
        raise ClientStateError("the http_client passed to this client is closed; close it only after this client")
    return client


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError as error:
        raise ClientStateError("AsyncClient needs a running asyncio event loop; use it inside asyncio.run") from error
