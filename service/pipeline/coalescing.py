"""Request coalescing: identical requests in flight share one piece of work.

Each request waits with its own deadline and its own connection. A request that stops waiting does not affect the
others. When the last one stops, the work is cancelled and leaves the engine. If the work fails, all requests fail.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from opentelemetry.trace import SpanContext

from service.tracing import current_context, link

Result = TypeVar("Result")


@dataclass(slots=True)
class _Flight(Generic[Result]):
    task: asyncio.Task[Result]
    began: float
    span: SpanContext | None
    """Span of the request that started the work."""
    waiters: int = 0


class RequestCoalescer(Generic[Result]):
    """Starts work for a key, or joins the work that is already in progress for it."""

    def __init__(self, *, max_age: float) -> None:
        """
        Args:
            max_age: seconds after which unfinished work can no longer be joined, so that later requests do not hang
                together with it.
        """
        self._max_age = max_age
        self._flights: dict[bytes, _Flight[Result]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    async def do(self, key: bytes, work: Callable[[], Coroutine[Any, Any, Result]]) -> tuple[Result, bool]:
        """Return the result of the work for this key, and whether another request had started it.

        Raises:
            Exception: any exception of the work; every request that waits for it gets it.
        """
        flight = self._flights.get(key)
        joined = flight is not None and time.monotonic() - flight.began < self._max_age
        if flight is None or not joined:
            flight = self._begin(key, work)
        else:
            link(flight.span)
        flight.waiters += 1
        try:
            await asyncio.wait({flight.task})  # cancelling this wait does not cancel the task
            return flight.task.result(), joined
        finally:
            flight.waiters -= 1
            if not flight.waiters and not flight.task.done():
                self._forget(key, flight.task)  # no request may join work that is being cancelled
                flight.task.cancel()
                # The request must have left the engine before the last waiter gives up its place in admission.
                await asyncio.wait({flight.task})

    def _begin(self, key: bytes, work: Callable[[], Coroutine[Any, Any, Result]]) -> _Flight[Result]:
        async def run() -> Result:
            try:
                return await work()
            finally:
                self._forget(key, task)

        task = asyncio.create_task(run())
        task.add_done_callback(_retrieve_error)
        flight = self._flights[key] = _Flight(task, time.monotonic(), current_context())
        return flight

    def _forget(self, key: bytes, task: asyncio.Task[Result]) -> None:
        flight = self._flights.get(key)
        if flight is not None and flight.task is task:
            del self._flights[key]


def _retrieve_error(task: asyncio.Task[Any]) -> None:
    """Retrieve an error that no request waits for any more. asyncio would otherwise log that it was never retrieved."""
    if not task.cancelled():
        task.exception()
