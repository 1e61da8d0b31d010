"""How fast a bulk run asks, and how it ends early.

The pace is that of TCP: additive increase, multiplicative decrease (AIMD, RFC 5681). Every answer raises the limit on
concurrent requests a little, so that it grows by one when as many answers came as the limit allows at once. A 429
halves it. Requests that wait for their next attempt do not count, since the service does not hold them.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol, TypeAlias, TypeVar

import httpx

from screening_client import constants
from screening_client.errors import Overloaded, ScreeningClientError, TimedOut
from screening_client.settings import Deadline

Answer = TypeVar("Answer")

Attempt: TypeAlias = Callable[..., Answer]
"""A function of a request, its deadline and further arguments."""


class Pace:
    """Counts requests and decides whether one more may be sent. It does not wait, and it is not thread-safe."""

    def __init__(self, highest: int) -> None:
        self.highest = highest
        self.limit = float(highest)
        self.in_flight = 0
        self.decreases = 0
        self.answers = 0
        self._last_answer = 0.0
        self._lost_patience = False

    @property
    def has_room(self) -> bool:
        return self.in_flight < int(self.limit)

    def begin(self) -> int:
        """Count a request as sent. Returns what `end` wants to be told."""
        self.in_flight += 1
        return self.decreases

    def end(self, began: int, error: BaseException | None) -> None:
        """Count its end. Requests that were sent before the last decrease cannot cause another one."""
        self.in_flight -= 1
        if error is None:
            self.answers += 1
            self._last_answer = time.monotonic()
            self._lost_patience = False
            self.limit = min(self.highest, self.limit + 1 / self.limit)
        elif isinstance(error, Overloaded) and began == self.decreases:
            self.limit = max(1.0, self.limit / 2)
            self.decreases += 1

    def has_patience(self, began: float, wait: float) -> bool:
        """Whether a call that began at this time should wait, whatever the number of its attempts.

        Patience ends when no call was answered for `PATIENCE`. It is lost for all calls then, so that the rest of a
        long run fails quickly, and returns with the next answer.
        """
        end = max(began, self._last_answer) + constants.PATIENCE
        self._lost_patience = self._lost_patience or time.monotonic() + wait > end
        return not self._lost_patience


class BulkRun(Protocol):
    """What the retries of a call need to know about the run that the call is part of."""

    pace: Pace

    @property
    def cancelled(self) -> bool: ...


class Run:
    """What the calls of one run share that use threads: the pace and the end."""

    def __init__(self, concurrency: int) -> None:
        self.pace = Pace(concurrency)
        self._over = threading.Event()
        self._changed = threading.Condition()
        self._streams: weakref.WeakSet[Any] = weakref.WeakSet()

    @property
    def cancelled(self) -> bool:
        return self._over.is_set()

    def sleep(self, seconds: float) -> None:
        """Wait before the next attempt.

        Raises:
            ScreeningClientError: the run was cancelled meanwhile.
        """
        if self._over.wait(seconds):
            raise _cancelled()

    def paced(self, attempt: Attempt[Answer]) -> Attempt[Answer]:
        """The same attempt, sent when the pace allows it and ended by `cancel`."""

        def call(message: httpx.Request, deadline: Deadline, *more: Any) -> Answer:
            began, error = self._begin(deadline), None
            message.extensions["trace"] = self._note_connection
            try:
                return attempt(message, deadline, *more)
            except BaseException as raised:
                error = raised
                raise
            finally:
                self._end(began, error)

        return call

    def cancel(self) -> None:
        """End all waits, and the requests in flight by shutting down their connections. Nothing more is sent.

        A read that blocks in another thread cannot be stopped otherwise. A connection from before the run, which
        it took over, is not known here: its request goes on until the answer or the time-out comes.
        """
        with self._changed:
            self._over.set()
            self._changed.notify_all()
            streams = list(self._streams)
        for stream in streams:
            _shut_down(stream)

    def _begin(self, deadline: Deadline) -> int:
        with self._changed:
            may_go_on = self._changed.wait_for(lambda: self.cancelled or self.pace.has_room, deadline.remaining)
            if self.cancelled:
                raise _cancelled()
            if not may_go_on:
                raise _no_room()
            return self.pace.begin()

    def _end(self, began: int, error: BaseException | None) -> None:
        with self._changed:
            self.pace.end(began, error)
            self._changed.notify_all()

    def _note_connection(self, event: str, facts: Mapping[str, Any]) -> None:
        """Called by httpx for every step of a request (its extension `trace`)."""
        if not event.endswith((".connect_tcp.complete", ".connect_unix_socket.complete", ".start_tls.complete")):
            return
        stream = facts["return_value"]
        with self._changed:
            self._streams.add(stream)
        if self.cancelled:
            _shut_down(stream)


class AsyncRun:
    """What the calls of one run on asyncio share. Its tasks are cancelled, so that it needs no end of its own."""

    cancelled = False

    def __init__(self, concurrency: int) -> None:
        self.pace = Pace(concurrency)
        self._changed = asyncio.Event()

    def paced(self, attempt: Attempt[Awaitable[Answer]]) -> Attempt[Awaitable[Answer]]:
        """The same attempt, sent when the pace allows it."""

        async def call(message: httpx.Request, deadline: Deadline, *more: Any) -> Answer:
            began, error = await self._begin(deadline), None
            try:
                return await attempt(message, deadline, *more)
            except BaseException as raised:
                error = raised
                raise
            finally:
                self.pace.end(began, error)
                self._changed.set()

        return call

    async def _begin(self, deadline: Deadline) -> int:
        while not self.pace.has_room:
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), deadline.remaining)
            except asyncio.TimeoutError:  # noqa: UP041 - another class than TimeoutError in Python 3.10
                raise _no_room() from None
        return self.pace.begin()


def _cancelled() -> ScreeningClientError:
    return ScreeningClientError("the run was cancelled before this request was answered")


def _no_room() -> TimedOut:
    return TimedOut("the request was not sent within its time limit, because the service is overloaded")


def _shut_down(stream: Any) -> None:
    """Wake whatever reads from a connection. The unbound method leaves the TLS state to the thread that uses it."""
    connection = stream.get_extra_info("socket")
    if isinstance(connection, socket.socket):
        with suppress(OSError):  # closed already
            socket.socket.shutdown(connection, socket.SHUT_RDWR)
