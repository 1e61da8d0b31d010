"""Adapts the number of concurrent requests of a bulk run to the service, and cancels a run.

The limit on concurrent requests follows TCP: additive increase, multiplicative decrease (AIMD, RFC 5681). With n
requests allowed, n answers raise the limit by one, and a 429 halves it. Requests that wait for a retry do not count,
because the service does not hold them.
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
"""A function that sends a request; it takes the request, its deadline and further arguments."""


class Pace:
    """Counts requests and decides whether another may be sent. It does not wait, and it is not thread-safe."""

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
        """Count a request that is sent now. Returns a value that must be passed to `end`."""
        self.in_flight += 1
        return self.decreases

    def end(self, began: int, error: BaseException | None) -> None:
        """Count the end of a request. Requests that were sent before the last decrease cannot cause another one."""
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
        """Whether a call that began at this time should retry, regardless of the number of its attempts.

        If no call has been answered for `PATIENCE`, all calls give up sooner, so that the rest of a long run fails
        quickly. They regain it with the next answer.
        """
        end = max(began, self._last_answer) + constants.PATIENCE
        self._lost_patience = self._lost_patience or time.monotonic() + wait > end
        return not self._lost_patience


class BulkRun(Protocol):
    """The part of a run that the retries of its calls need."""

    pace: Pace

    @property
    def cancelled(self) -> bool: ...


class Run:
    """The pace and the cancellation that the calls of one run in threads share."""

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
            ScreeningClientError: the run was cancelled during the wait.
        """
        if self._over.wait(seconds):
            raise _cancelled()

    def paced(self, attempt: Attempt[Answer]) -> Attempt[Answer]:
        """Wrap an attempt so that it waits until the pace allows it and can be ended by `cancel`."""

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
        """End all waits and shut down the connections of the requests in flight. No further request is sent.

        This is the only way to stop a read that blocks in another thread. A connection that was opened before the run
        is not known here, so its request continues until its answer or timeout.
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
        """Record opened connections. httpx calls this for every step of a request (its extension `trace`)."""
        if not event.endswith((".connect_tcp.complete", ".connect_unix_socket.complete", ".start_tls.complete")):
            return
        stream = facts["return_value"]
        with self._changed:
            self._streams.add(stream)
        if self.cancelled:
            _shut_down(stream)


class AsyncRun:
    """The pace that the calls of one run on asyncio share. Cancelling its tasks cancels the run."""

    cancelled = False

    def __init__(self, concurrency: int) -> None:
        self.pace = Pace(concurrency)
        self._changed = asyncio.Event()

    def paced(self, attempt: Attempt[Awaitable[Answer]]) -> Attempt[Awaitable[Answer]]:
        """Wrap an attempt so that it waits until the pace allows it."""

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
    """Shut down a connection, which ends reads in other threads. The unbound method leaves the TLS state unchanged."""
    connection = stream.get_extra_info("socket")
    if isinstance(connection, socket.socket):
        with suppress(OSError):  # it may be closed already
            socket.socket.shutdown(connection, socket.SHUT_RDWR)
