"""Who may come in, counted before any byte of a body is read.

`door` holds one of `max_concurrent + max_queue` places for the whole request; `slot` holds one of `max_concurrent` for
decoding and the engine. A request refused at the door has cost nothing but its headers.

An upload that is still under way after its fair time gives its place to a new request when there is no other: slow
callers must not keep out fast ones.

Between them is the gate: while another checkpoint goes live it is closed, and who is past the door waits.
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
"""Seconds after which to ask again, where nothing better is known."""
LONGEST = 60
"""Longest wait that is told while the engine is built anew, in seconds."""


@dataclass(slots=True, eq=False)
class Place:
    """One request's place behind the door."""

    upload: Upload | None = None
    """Its body, while that arrives."""


class Admission:
    """The door, the slots, and the count that a drain waits for."""

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
        """Those held, the oldest first."""
        self.running = 0
        self._mean_seconds = 1.0
        self._evicting = False
        self._ready_at: float | None = None
        self.rebuild_seconds: float = SOON
        """How long the engine took to start last."""
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
        """Why the door is closed, as a sentence."""
        return self._closed

    @property
    def draining(self) -> bool:
        """Whether the service is about to end."""
        return self._closed == DRAINING

    def open(self) -> None:
        """Start-up is over. A door that drains stays closed."""
        if self._closed == STARTING:
            self._closed = None

    def close(self) -> None:
        """Drain: let nobody in any more."""
        self._closed = DRAINING

    @asynccontextmanager
    async def gate_closed(self, seconds: float) -> AsyncIterator[bool]:
        """Let nobody start for the time of the block. Yields whether what ran has ended, waiting so long at most."""
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
        """Refuse new requests for the time of the block; a drain that begins meanwhile stays.

        Args:
            evict: also refuse those who are inside and have not reached the engine; otherwise they wait.
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
        """When the engine should be back, from now; None when it is back."""
        self._ready_at = None if seconds is None else time.monotonic() + seconds

    def ready_in(self) -> int:
        """Whole seconds until the engine should be back, told by the last start; a guess when that is overdue.

        At most `LONGEST`: clients give up when they are told to wait for minutes.
        """
        left = self.rebuild_seconds if self._ready_at is None else self._ready_at - time.monotonic()
        return min(math.ceil(left), LONGEST) if left > 0 else SOON

    def refusal(self) -> NotReady:
        """What somebody is told before a closed door."""
        why = self._closed or STARTING
        return NotReady(why, SOON if why in (STARTING, DRAINING) else self.ready_in())

    @contextmanager
    def door(self) -> Iterator[Place]:
        """Hold a place from the first header to the answer. An upload loses it when it is sent away.

        Raises:
            NotReady: starting, draining, or the engine is built anew.
            Overloaded: no place left; carries the estimated wait.
        """
        if self._closed is not None:
            self._metrics.rejected.labels("not_ready").inc()
            raise self.refusal()
        if self.inside >= self._capacity and not self._send_an_upload_away():
            self._metrics.rejected.labels("queue_full").inc()
            raise Overloaded(self.retry_after())
        place = Place()
        self._places[place] = None
        self._count()
        try:
            yield place
        finally:
            self._leave(place)

    def _send_an_upload_away(self) -> bool:
        """Take the place of the oldest upload that has had its fair time; False when there is none."""
        for place in self._places:
            if place.upload is not None and place.upload.can_be_sent_away:
                place.upload.send_away(self.retry_after())
                self._metrics.rejected.labels("queue_full").inc()
                self._leave(place)
                return True
        return False

    def _leave(self, place: Place) -> None:
        self._places.pop(place, None)
        self._count()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a turn and hold it; first come, first served.

        Raises:
            EngineLost: the engine was lost meanwhile, and is built anew.
        """
        async with self._slots:
            while not self._gate.is_set():  # it may close again before we are woken
                await self._gate.wait()
            if self._evicting:
                raise EngineLost(self.ready_in())
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
                # What fails fast says nothing about how long an answer takes.
                if finished or seconds > self._mean_seconds:
                    self._mean_seconds += _RECENT * (seconds - self._mean_seconds)

    def retry_after(self) -> int:
        """Whole seconds until the queue of now is worked off: waiting x mean service time / concurrency, at least 1."""
        waiting = self.inside - self.running + 1
        return max(1, math.ceil(waiting * self._mean_seconds / self._max_concurrent))

    async def wait_until_idle(self, seconds: float) -> bool:
        """Wait until nobody is inside; False when somebody still is after `seconds`."""
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
