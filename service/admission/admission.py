"""Admission control: limits how many requests the service accepts and how many run at the same time.

`admit` holds one of `max_concurrent + max_queue` places for the whole request. A request without a place is refused
before the service reads its body. `slot` holds one of `max_concurrent` slots for decoding and the engine.

An upload that takes longer than one period loses its place when a new request finds none, so that slow callers cannot
block fast ones.

A gate lies between the two. It is closed during a hot swap, and admitted requests wait until it opens.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from service.admission.upload import Upload
from service.errors import EngineLost, NotReady, Overloaded
from service.metrics import Metrics

_RECENT = 0.1
"""Weight of the newest request in the mean service time."""

STARTING = "The service is starting."
DRAINING = "The service is draining."

SOON = 5
"""Retry-After in seconds when no better estimate exists."""
LONGEST = 60
"""Maximum Retry-After in seconds during an engine restart."""


@dataclass(slots=True, eq=False)
class Place:
    """The place that one admitted request holds."""

    upload: Upload | None = None
    """The upload of the request's body while it is in progress."""


class Admission:
    """Hands out places and slots, and counts the requests that a drain waits for."""

    def __init__(self, *, max_concurrent: int, max_queue: int, metrics: Metrics) -> None:
        self._capacity = max_concurrent + max_queue
        self._max_concurrent = max_concurrent
        self._slots = asyncio.Semaphore(max_concurrent)
        self._metrics = metrics
        self._closed: str | None = STARTING
        self._idle = asyncio.Event()
        self._idle.set()
        self._gate = asyncio.Event()
        self._gate.set()
        self._nothing_runs = asyncio.Event()
        self._nothing_runs.set()
        self._places: dict[Place, None] = {}
        """The places that requests hold, oldest first."""
        self.running = 0
        self.mean_seconds = 1.0
        """Recent mean time that a request holds a slot, in seconds."""
        self._evicting = False
        self._ready_at: float | None = None
        self.restart_seconds: float = SOON
        """Duration of the last engine start."""
        metrics.capacity.set(self._capacity)

    @property
    def inside(self) -> int:
        """Requests that hold a place."""
        return len(self._places)

    @property
    def is_open(self) -> bool:
        return self._closed is None

    @property
    def closed_because(self) -> str | None:
        """Reason, as a sentence, why no request is admitted; None while requests are admitted."""
        return self._closed

    @property
    def draining(self) -> bool:
        """Whether the service is shutting down."""
        return self._closed == DRAINING

    def open(self) -> None:
        """Admit requests after start-up. Has no effect during a drain."""
        if self._closed == STARTING:
            self._closed = None

    def close(self) -> None:
        """Start a drain: admit no further request."""
        self._closed = DRAINING

    @asynccontextmanager
    async def gate_closed(self, seconds: float) -> AsyncIterator[bool]:
        """Let no admitted request start during the block.

        Waits at most `seconds` for the running requests, then yields whether all of them have finished.
        """
        self._gate.clear()
        try:
            try:
                async with asyncio.timeout(seconds):
                    await self._nothing_runs.wait()
            except TimeoutError:
                pass
            yield not self.running
        finally:
            self._gate.set()

    @contextmanager
    def suspended(self, why: str, *, evict: bool = False) -> Iterator[None]:
        """Refuse new requests during the block. A drain that begins meanwhile remains in effect.

        Args:
            evict: also refuse admitted requests that have not reached the engine yet; otherwise they wait.
        """
        before, self._closed = self._closed, self._closed or why
        self._evicting = evict
        try:
            yield
        finally:
            self._evicting = False
            if self._closed == why:
                self._closed = before

    def expect_ready(self, seconds: float | None) -> None:
        """Record in how many seconds the engine is expected to run again; None once it runs."""
        self._ready_at = None if seconds is None else time.monotonic() + seconds

    def ready_in(self) -> int:
        """Estimate in whole seconds when the engine runs again, based on its last start.

        The result is at most `LONGEST`, because clients give up when they are told to wait for minutes.
        """
        left = self.restart_seconds if self._ready_at is None else self._ready_at - time.monotonic()
        return min(math.ceil(left), LONGEST) if left > 0 else SOON

    def refusal(self) -> NotReady:
        """The error for a request that arrives while none is admitted."""
        why = self._closed or STARTING
        return NotReady(why, SOON if why in (STARTING, DRAINING) else self.ready_in())

    @contextmanager
    def admit(self) -> Iterator[Place]:
        """Hold a place for the duration of a request. A slow upload can lose its place earlier.

        Raises:
            NotReady: the service is starting or draining, or its engine is restarting.
            Overloaded: no place is free; carries the estimated wait.
        """
        if self._closed is not None:
            self._metrics.rejected.labels("not_ready").inc()
            raise self.refusal()
        if self.inside >= self._capacity and not self._evict_slow_upload():
            self._metrics.rejected.labels("queue_full").inc()
            raise Overloaded(self.retry_after())
        place = Place()
        self._places[place] = None
        self._count()
        try:
            yield place
        finally:
            self._leave(place)

    def _evict_slow_upload(self) -> bool:
        """Free the place of the oldest upload that takes longer than one period. Returns whether there was one."""
        for place in self._places:
            if place.upload is not None and place.upload.can_be_evicted:
                place.upload.evict(self.retry_after())
                self._metrics.rejected.labels("queue_full").inc()
                self._leave(place)
                return True
        return False

    def _leave(self, place: Place) -> None:
        self._places.pop(place, None)
        self._count()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a slot and hold it during the block. Requests get slots in the order in which they ask.

        Raises:
            EngineLost: the engine crashed meanwhile and is restarting.
        """
        async with self._slots:
            while not self._gate.is_set():  # the gate may close again before this task wakes up
                await self._gate.wait()
            self.require_engine()
            self.running += 1
            self._count()
            began, finished = time.monotonic(), False
            try:
                yield
                finished = True
            finally:
                self.running -= 1
                self._count()
                seconds = time.monotonic() - began
                # The duration of a request that fails quickly says nothing about the duration of an answer.
                if finished or seconds > self.mean_seconds:
                    self.mean_seconds += _RECENT * (seconds - self.mean_seconds)

    def require_engine(self) -> None:
        """Refuse a request that would reach an engine whose weights are not verified yet.

        Raises:
            EngineLost: the engine was lost and is restarting; carries the estimated wait.
        """
        if self._evicting:
            raise EngineLost(self.ready_in())

    def retry_after(self) -> int:
        """Estimated time in whole seconds to process the queue: waiting requests x mean time / concurrency."""
        waiting = self.inside - self.running + 1
        return max(1, math.ceil(waiting * self.mean_seconds / self._max_concurrent))

    async def wait_until_idle(self, seconds: float) -> bool:
        """Wait at most `seconds` until no request holds a place. Returns whether none does."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def _count(self) -> None:
        self._metrics.in_flight.set(self.inside)
        self._metrics.queue_length.set(self.inside - self.running)
        for event, busy in ((self._idle, self.inside), (self._nothing_runs, self.running)):
            if busy:
                event.clear()
            else:
                event.set()
