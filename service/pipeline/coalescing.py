"""Identical requests in flight share one piece of work.

Each waits with a deadline and a connection of its own. Who leaves does not disturb the others; when the last one
leaves, the work is cancelled, and with it what it holds in the engine. When the work fails, it fails for all of them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


@dataclass(slots=True)
class _Flight(Generic[Result]):
    task: asyncio.Task[Result]
    began: float
    waiters: int = 0


class SameWork(Generic[Result]):
    """Work under way, by key."""

    def __init__(self, *, max_age: float) -> None:
        """
        Args:
            max_age: seconds after which work that has not ended is no longer joined. If it hangs, those who ask later
                must not hang with it.
        """
        self._max_age = max_age
        self._flights: dict[bytes, _Flight[Result]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    async def do(self, key: bytes, work: Callable[[], Coroutine[Any, Any, Result]]) -> tuple[Result, bool]:
        """The result of the work with this key, and whether somebody else had begun it.

        Raises:
            Exception: whatever the work raises, for everyone who waits for it.
        """
        flight = self._flights.get(key)
        joined = flight is not None and time.monotonic() - flight.began < self._max_age
        if flight is None or not joined:
            flight = self._begin(key, work)
        flight.waiters += 1
        try:
            await asyncio.wait({flight.task})  # unlike awaiting the task itself, this leaves it alone when cancelled
            return flight.task.result(), joined
        finally:
            flight.waiters -= 1
            if not flight.waiters and not flight.task.done():
                self._forget(key, flight.task)  # nobody may join what is being given up
                flight.task.cancel()
                # The engine must have forgotten the request before the last waiter's place at the door is free again.
                await asyncio.wait({flight.task})

    def _begin(self, key: bytes, work: Callable[[], Coroutine[Any, Any, Result]]) -> _Flight[Result]:
        async def run() -> Result:
            try:
                return await work()
            finally:
                self._forget(key, task)

        task = asyncio.create_task(run())
        task.add_done_callback(_look_at)
        flight = self._flights[key] = _Flight(task, time.monotonic())
        return flight

    def _forget(self, key: bytes, task: asyncio.Task[Result]) -> None:
        flight = self._flights.get(key)
        if flight is not None and flight.task is task:
            del self._flights[key]


def _look_at(task: asyncio.Task[Any]) -> None:
    """An error that came when everybody had left is nobody's; asyncio would complain that it was never looked at."""
    if not task.cancelled():
        task.exception()
