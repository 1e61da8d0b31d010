"""Rate limit of requests, which also stops all requests while the endpoint asks to wait.

The limiter is our own because aiolimiter cannot hold back all requests for a time and accepts no clock for tests.
"""

from __future__ import annotations

import asyncio
import time


class Clock:
    """The clock of a run; tests replace it."""

    def now(self) -> float:
        """Seconds on a monotonic clock."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Pace:
    """Spaces the starts of requests evenly.

    Bursts are avoided because providers count requests in shorter windows than the minute that they advertise.
    """

    def __init__(self, per_minute: float | None, clock: Clock) -> None:
        self._interval = 60 / per_minute if per_minute else 0.0
        self._clock = clock
        self._next = clock.now()
        self._held_until = clock.now()

    async def turn(self) -> None:
        """Wait until the next request may start. Callers are served in the order of their calls."""
        while True:
            now = self._clock.now()
            slot = max(now, self._next)
            self._next = slot + self._interval
            if slot > now:
                await self._clock.sleep(slot - now)
            if self._clock.now() >= self._held_until:
                return

    def hold(self, seconds: float) -> None:
        """Start no request for a time, because a `Retry-After` concerns the API key and not a single request."""
        self._held_until = max(self._held_until, self._clock.now() + seconds)
        self._next = max(self._next, self._held_until)
