"""When a request may start: so many a minute, and none while the endpoint asks everybody to wait."""

from __future__ import annotations

import asyncio
import time


class Clock:
    """Time as a run sees it; a test brings its own."""

    def now(self) -> float:
        """Seconds on a clock that never goes back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Pace:
    """Gives out the moments at which requests may start, evenly spaced.

    Evenly, not sixty at once and then a pause: providers count in shorter windows than the minute they advertise.
    """

    def __init__(self, per_minute: float | None, clock: Clock) -> None:
        self._interval = 60 / per_minute if per_minute else 0.0
        self._clock = clock
        self._next = clock.now()
        self._held_until = clock.now()

    async def turn(self) -> None:
        """Wait until the next request may start. Callers are served in the order in which they came."""
        while True:
            now = self._clock.now()
            slot = max(now, self._next)
            self._next = slot + self._interval
            if slot > now:
                await self._clock.sleep(slot - now)
            if self._clock.now() >= self._held_until:
                return

    def hold(self, seconds: float) -> None:
        """Let nothing start for so long: a Retry-After is about the key, not about the one request that got it."""
        self._held_until = max(self._held_until, self._clock.now() + seconds)
        self._next = max(self._next, self._held_until)
