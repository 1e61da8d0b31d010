"""The httpx clients of one SDK client: one for each process, and on asyncio one for each event loop.

A forked process inherits its parent's sockets. Two processes that write to one socket read each other's answers, so a
process sends only over connections that it opened. What a child inherits stays untouched: closing a TLS connection
there would end it for the parent as well. asyncio's connections work only in the event loop that opened them.

There are no locks here: a lock that another thread holds during a fork stays locked in the child. `dict.setdefault` is
atomic.
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
    """This process. Its id alone may be its parent's too, in another PID namespace; the number of forks is not."""
    return os.getpid(), _forks


@dataclass(slots=True)
class _State:
    """What a client for threads and one for asyncio have in common."""

    owned: bool
    """Whether the httpx clients were made here. The caller's own one is not closed here, and cannot be made again."""
    closed: bool = False
    opened_by: Process | None = None
    """The process that sent first."""

    def check_open(self) -> None:
        if self.closed:
            raise ClientStateError("this client is closed; make a new one, or keep it open as long as it is needed")

    def check_process(self) -> None:
        """Refuse the caller's own httpx client in a child of the process that used it."""
        if not self.owned and self.opened_by not in (None, _process()):
            raise ClientStateError(
                "the http_client passed to this client has connections of the process that this one was forked from. "
                "Make both in the child process, or pass http_client a function that makes an httpx client"
            )
        self.opened_by = _process()


class Connections:
    """Hands out the httpx client of this process."""

    @classmethod
    def of(cls, http_client: httpx.Client | Callable[[], httpx.Client]) -> Connections:
        """
        Args:
            http_client: the caller's own, or a function that is called once in every process.

        Raises:
            InputError: something else.
        """
        if isinstance(http_client, httpx.Client):
            return cls(lambda: http_client, owned=False)
        if not callable(http_client):
            kind = type(http_client).__name__  # type: ignore[unreachable]
            raise InputError(f"http_client is of type {kind}; pass an httpx.Client or a function that makes one")
        return cls(http_client, owned=True)

    def __init__(self, make: Callable[[], httpx.Client], *, owned: bool) -> None:
        self._make, self._state = make, _State(owned)
        self._clients: dict[Process, httpx.Client] = {}

    def current(self) -> httpx.Client:
        """
        Raises:
            ClientStateError: closed, or the caller's own httpx client was used by the parent process.
        """
        self._state.check_open()
        return checked(self._clients.get(_process()) or self._open())

    def __getstate__(self) -> dict[str, Any]:
        """A copy, also one in another process (pickle), opens connections of its own."""
        return self.__dict__ | {"_clients": {}}

    def close(self) -> None:
        """Close what this process opened. Connections of its parent stay as they are."""
        self._state.closed = True
        client = self._clients.get(_process())
        if client is not None and self._state.owned:
            client.close()

    def _open(self) -> httpx.Client:
        self._state.check_process()
        made = _of_kind(self._make(), httpx.Client)
        kept = self._clients.setdefault(_process(), made)
        if kept is not made:  # another thread was faster
            made.close()
        return kept


class AsyncConnections:
    """Hands out the httpx client of the running event loop in this process."""

    @classmethod
    def of(cls, http_client: httpx.AsyncClient | Callable[[], httpx.AsyncClient]) -> AsyncConnections:
        """
        Args:
            http_client: the caller's own, or a function that is called once in every event loop of every process.

        Raises:
            InputError: something else.
        """
        if isinstance(http_client, httpx.AsyncClient):
            return cls(lambda: http_client, owned=False)
        if not callable(http_client):
            kind = type(http_client).__name__  # type: ignore[unreachable]
            raise InputError(f"http_client is of type {kind}; pass an httpx.AsyncClient or a function that makes one")
        return cls(http_client, owned=True)

    def __init__(self, make: Callable[[], httpx.AsyncClient], *, owned: bool) -> None:
        self._make, self._state = make, _State(owned)
        self._clients: dict[tuple[Process, asyncio.AbstractEventLoop], _InLoop] = {}

    async def current(self) -> httpx.AsyncClient:
        """
        Raises:
            ClientStateError: closed, no asyncio event loop runs, or the caller's own httpx client was used by the
                parent process.
        """
        self._state.check_open()
        opened = self._clients.get((_process(), _running_loop())) or await self._open()
        return checked(opened.client)

    def __getstate__(self) -> dict[str, Any]:
        """As in `Connections`."""
        return self.__dict__ | {"_clients": {}}

    async def close(self) -> None:
        """Close what the running event loop opened. Connections of other event loops are closed when these end."""
        self._state.closed = True
        opened = self._clients.get((_process(), _running_loop()))
        if opened is not None:
            await opened.end_of_loop.aclose()

    async def _open(self) -> _InLoop:
        self._state.check_process()
        here = _process(), _running_loop()
        for process, loop in list(self._clients):
            if process == here[0] and loop.is_closed():  # without the end that `asyncio.run` makes
                del self._clients[process, loop]
        if self._clients and not self._state.owned:
            raise ClientStateError(
                "the http_client passed to this client is in use in another event loop. Make a client in each, or pass "
                "http_client a function that makes an httpx client"
            )
        client = _of_kind(self._make(), httpx.AsyncClient)
        opened = self._clients[here] = _InLoop(client, self._close_at_end_of_loop(client))
        await anext(opened.end_of_loop)
        return opened

    async def _close_at_end_of_loop(self, client: httpx.AsyncClient) -> AsyncGenerator[None, None]:
        """Waits until it is closed: by `close`, or by `asyncio.run`, which ends all asynchronous generators."""
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


def _of_kind(made: Http, kind: type[Http]) -> Http:
    """
    Raises:
        InputError: the caller's function made something else.
    """
    if not isinstance(made, kind):
        raise InputError(
            f"the function passed as http_client made a {type(made).__name__}; it must make a {kind.__name__}"
        )
    return made


def checked(client: Http) -> Http:
    """
    Raises:
        ClientStateError: the httpx client is closed.
    """
    if client.is_closed:
        raise ClientStateError("the http_client passed to this client is closed; keep it open as long as this client")
    return client


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError as error:
        raise ClientStateError("AsyncClient needs a running asyncio event loop; call it under asyncio.run") from error
