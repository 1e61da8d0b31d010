"""Bulk runs of the asynchronous client, which use tasks.

Items are taken only when places become free. Outcomes are yielded even while the next item is not available yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing
from typing import Generic

from screening_client import constants
from screening_client.bulk import Completed, Item, OnError, Progress, Result, checked, reporting
from screening_client.errors import ScreeningClientError
from screening_client.pace import AsyncRun


async def completed(
    call: Callable[[Item, AsyncRun], Awaitable[Result]],
    items: Iterable[Item] | AsyncIterable[Item],
    concurrency: int,
    *,
    progress: Progress,
    on_error: OnError,
) -> AsyncGenerator[Completed[Item, Result | ScreeningClientError]]:
    """Run `as_completed` and report its progress."""
    outcomes = as_completed(call, items, concurrency, on_error=on_error)
    async with aclosing(outcomes):
        with reporting(items, progress) as advance:
            async for done in outcomes:
                advance()
                yield done


async def as_completed(
    call: Callable[[Item, AsyncRun], Awaitable[Result]],
    items: Iterable[Item] | AsyncIterable[Item],
    concurrency: int,
    *,
    on_error: OnError,
) -> AsyncGenerator[Completed[Item, Result | ScreeningClientError]]:
    """Run `call` in tasks. Closing this generator (`contextlib.aclosing`) cancels running calls and waits for them.

    Errors are raised as in `bulk_threads.as_completed`.
    """
    tasks = _Tasks(call, items, concurrency)
    try:
        while (done := await tasks.next_outcome()) is not None:
            if on_error == "raise" and isinstance(done.result, ScreeningClientError):
                for other in tasks.outcomes_so_far():
                    if not isinstance(other.result, ScreeningClientError):
                        yield other
                raise done.result
            yield done
            tasks.free_a_place()
    finally:
        await tasks.stop()
    if tasks.fault is not None:
        raise tasks.fault


class _Tasks(Generic[Item, Result]):
    """Tasks that take one more item each time an outcome has been fetched."""

    def __init__(
        self,
        call: Callable[[Item, AsyncRun], Awaitable[Result]],
        items: Iterable[Item] | AsyncIterable[Item],
        concurrency: int,
    ) -> None:
        self.fault: Exception | None = None
        """The error of the caller's iterable, if it raised one."""
        self._call = call
        self._numbered = _numbered(items)
        self._run = AsyncRun(concurrency)
        self._places = asyncio.Semaphore(concurrency)
        self._taking = asyncio.Lock()
        self._outcomes: asyncio.Queue[Completed[Item, Result | Exception] | None] = asyncio.Queue()
        """Outcomes, and a None for each worker that has ended."""
        self._at_work = concurrency
        self._workers = [asyncio.ensure_future(self._work()) for _ in range(concurrency)]

    async def next_outcome(self) -> Completed[Item, Result | ScreeningClientError] | None:
        """Wait for the next outcome. Returns None if there are no more."""
        while self._at_work:
            outcome = await self._outcomes.get()
            if outcome is not None:
                return checked(outcome)
            self._at_work -= 1
        return None

    def free_a_place(self) -> None:
        """Allow the workers to take one more item."""
        self._places.release()

    def outcomes_so_far(self) -> Iterator[Completed[Item, Result | ScreeningClientError]]:
        while not self._outcomes.empty():
            outcome = self._outcomes.get_nowait()
            if outcome is not None:
                yield checked(outcome)

    async def stop(self) -> None:
        running = set(self._workers)
        while running:  # before Python 3.12, `asyncio.wait_for` can lose a cancellation while its task ends
            for worker in running:
                worker.cancel()
            _, running = await asyncio.wait(running, timeout=constants.CANCEL_GRACE)
        await asyncio.gather(*self._workers, return_exceptions=True)
        await self._numbered.aclose()

    async def _work(self) -> None:
        try:
            while (taken := await self._take()) is not None:
                index, item = taken
                result: Result | Exception
                try:
                    result = await self._call(item, self._run)
                except Exception as error:  # noqa: BLE001 - the task that iterates raises it again
                    result = error
                self._outcomes.put_nowait(Completed(index, item, result))
        finally:
            self._outcomes.put_nowait(None)

    async def _take(self) -> tuple[int, Item] | None:
        await self._places.acquire()
        async with self._taking:
            try:
                return await anext(self._numbered, None)
            except Exception as error:  # noqa: BLE001 - an error of the caller's iterable, which is raised at the end
                self.fault = error
                return None


async def _numbered(items: Iterable[Item] | AsyncIterable[Item]) -> AsyncGenerator[tuple[int, Item]]:
    if isinstance(items, AsyncIterable):
        index = 0
        async for item in items:
            yield index, item
            index += 1
    else:
        for numbered in enumerate(items):
            yield numbered
