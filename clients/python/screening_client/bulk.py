"""Many requests with a bound on how many are under way.

`as_completed` and its twin take from `items` only as places become free, so that a generator over a million rows costs
the memory of `concurrency` of them, and give outcomes as they come, with the position of their item.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Generator, Iterable, Iterator, Sized
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass, field
from itertools import count, islice
from queue import Empty, SimpleQueue
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

from screening_client import constants
from screening_client.errors import InputError, ScreeningClientError
from screening_client.pace import AsyncRun, Run

OnError: TypeAlias = Literal["raise", "return"]

Progress: TypeAlias = "bool | Callable[[int, int | None], object]"
"""A bar on stderr or none, or a function that is told how many are done, and of how many if that is known."""

Item = TypeVar("Item")
Result = TypeVar("Result")
Outcome = TypeVar("Outcome", covariant=True)


@dataclass(frozen=True, slots=True)
class Completed(Generic[Item, Outcome]):
    """One request of many, and what became of it."""

    index: int
    """The position of the request in the iterable, from 0."""
    request: Item = field(repr=False)
    result: Outcome
    """The screening, or with `on_error="return"` the error in its place."""


def as_completed(
    call: Callable[[Item, Run], Result], items: Iterable[Item], concurrency: int, *, on_error: OnError
) -> Generator[Completed[Item, Result | ScreeningClientError]]:
    """Run `call` in threads. When the caller stops iterating, nothing new begins and calls under way are cancelled.

    An error of `items` is raised after the outcomes of all calls that had begun. With `on_error="raise"` an error of
    a call is raised after the outcomes that had come by then.
    """
    workers: _Workers[Item, Result] = _Workers(call, concurrency)
    numbered: Iterator[tuple[int, Item]] = enumerate(items)
    fault: Exception | None = None
    try:
        while True:
            try:
                for index, item in islice(numbered, concurrency - workers.busy):
                    workers.start(index, item)
            except Exception as error:  # noqa: BLE001 - of the caller's iterable; raised below
                fault, numbered = error, iter(())
            if not workers.busy:
                break
            done = workers.next_outcome()
            if on_error == "raise" and isinstance(done.result, ScreeningClientError):
                for other in workers.outcomes_so_far():
                    if not isinstance(other.result, ScreeningClientError):
                        yield other
                raise done.result
            yield done
    finally:
        workers.stop()
    if fault is not None:
        raise fault


class _Workers(Generic[Item, Result]):
    """Threads that run calls. They are daemons: one that cannot be cancelled must not keep the program from ending."""

    def __init__(self, call: Callable[[Item, Run], Result], concurrency: int) -> None:
        self._call = call
        self._concurrency = concurrency
        self._run = Run(concurrency)
        self._threads: list[threading.Thread] = []
        self._tasks: SimpleQueue[tuple[int, Item] | None] = SimpleQueue()
        self._outcomes: SimpleQueue[Completed[Item, Result | BaseException]] = SimpleQueue()
        self.busy = 0

    def start(self, index: int, item: Item) -> None:
        if self.busy == len(self._threads) < self._concurrency:
            thread = threading.Thread(target=self._work, name="screening", daemon=True)
            thread.start()
            self._threads.append(thread)
        self.busy += 1
        self._tasks.put((index, item))

    def next_outcome(self) -> Completed[Item, Result | ScreeningClientError]:
        """Wait for one."""
        outcome = self._outcomes.get()
        self.busy -= 1
        return _checked(outcome)

    def outcomes_so_far(self) -> Iterator[Completed[Item, Result | ScreeningClientError]]:
        while True:
            try:
                outcome = self._outcomes.get_nowait()
            except Empty:
                return
            self.busy -= 1
            yield _checked(outcome)

    def stop(self) -> None:
        """End all threads, and cancel what they do. Threads that do not end in time are left alone."""
        if self.busy:
            self._run.cancel()
        for _ in self._threads:
            self._tasks.put(None)
        end = time.monotonic() + constants.CANCEL_GRACE
        for thread in self._threads:
            if thread is not threading.current_thread():  # where the garbage collector closes the generator
                thread.join(max(0.0, end - time.monotonic()))

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            index, item = task
            result: Result | BaseException
            try:
                result = self._call(item, self._run)
            except BaseException as error:  # noqa: BLE001 - handed over to the thread that iterates
                result = error
            self._outcomes.put(Completed(index, item, result))


async def as_completed_async(
    call: Callable[[Item, AsyncRun], Awaitable[Result]],
    items: Iterable[Item] | AsyncIterable[Item],
    concurrency: int,
    *,
    on_error: OnError,
) -> AsyncGenerator[Completed[Item, Result | ScreeningClientError]]:
    """Run `call` in tasks. Close it (`contextlib.aclosing`): what is under way is then cancelled and waited for.

    Outcomes are given while the next item is waited for. Errors are raised as in `as_completed`.
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
    """Tasks that take items in turn, each when the outcome of an earlier one was fetched."""

    def __init__(
        self,
        call: Callable[[Item, AsyncRun], Awaitable[Result]],
        items: Iterable[Item] | AsyncIterable[Item],
        concurrency: int,
    ) -> None:
        self.fault: Exception | None = None
        """What the iterable raised."""
        self._call = call
        self._numbered = _numbered(items)
        self._run = AsyncRun(concurrency)
        self._places = asyncio.Semaphore(concurrency)
        self._taking = asyncio.Lock()
        self._outcomes: asyncio.Queue[Completed[Item, Result | Exception] | None] = asyncio.Queue()
        """Outcomes, and one None for the end of each worker."""
        self._at_work = concurrency
        self._workers = [asyncio.ensure_future(self._work()) for _ in range(concurrency)]

    async def next_outcome(self) -> Completed[Item, Result | ScreeningClientError] | None:
        """Wait for one; None when there are no more."""
        while self._at_work:
            outcome = await self._outcomes.get()
            if outcome is not None:
                return _checked(outcome)
            self._at_work -= 1
        return None

    def free_a_place(self) -> None:
        """Let one more item be taken."""
        self._places.release()

    def outcomes_so_far(self) -> Iterator[Completed[Item, Result | ScreeningClientError]]:
        while not self._outcomes.empty():
            outcome = self._outcomes.get_nowait()
            if outcome is not None:
                yield _checked(outcome)

    async def stop(self) -> None:
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        await self._numbered.aclose()

    async def _work(self) -> None:
        try:
            while (taken := await self._take()) is not None:
                index, item = taken
                result: Result | Exception
                try:
                    result = await self._call(item, self._run)
                except Exception as error:  # noqa: BLE001 - handed over to the task that iterates
                    result = error
                self._outcomes.put_nowait(Completed(index, item, result))
        finally:
            self._outcomes.put_nowait(None)

    async def _take(self) -> tuple[int, Item] | None:
        await self._places.acquire()
        async with self._taking:
            try:
                return await anext(self._numbered, None)
            except Exception as error:  # noqa: BLE001 - of the caller's iterable; raised at the end
                self.fault = error
                return None


def completed(
    call: Callable[[Item, Run], Result],
    items: Iterable[Item],
    concurrency: int,
    *,
    progress: Progress,
    on_error: OnError,
) -> Generator[Completed[Item, Result | ScreeningClientError]]:
    """`as_completed` with a report of its progress."""
    outcomes = as_completed(call, items, concurrency, on_error=on_error)
    with closing(outcomes), reporting(items, progress) as advance:
        for done in outcomes:
            advance()
            yield done


async def completed_async(
    call: Callable[[Item, AsyncRun], Awaitable[Result]],
    items: Iterable[Item] | AsyncIterable[Item],
    concurrency: int,
    *,
    progress: Progress,
    on_error: OnError,
) -> AsyncGenerator[Completed[Item, Result | ScreeningClientError]]:
    """`as_completed_async` with a report of its progress."""
    outcomes = as_completed_async(call, items, concurrency, on_error=on_error)
    async with aclosing(outcomes):
        with reporting(items, progress) as advance:
            async for done in outcomes:
                advance()
                yield done


def check_bulk(concurrency: int, on_error: str) -> None:
    """Refuse unusable options before the first item is taken.

    Raises:
        InputError: `concurrency` below 1 or an unknown `on_error`.
    """
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        raise InputError(f"concurrency must be a whole number, 1 or more, not {concurrency!r}")
    if on_error not in ("raise", "return"):
        raise InputError(f"on_error is {on_error!r}; it must be 'raise' or 'return'")


def progress_bar(*, shown: bool, total: int | None) -> tqdm[Any]:
    """A bar on stderr; none where stderr is not a terminal."""
    return tqdm(total=total, unit="screening", disable=None if shown else True, dynamic_ncols=True)


@contextmanager
def reporting(items: object, progress: Progress) -> Iterator[Callable[[], object]]:
    """Gives a function to call after each outcome."""
    total = len(items) if isinstance(items, Sized) else None
    if callable(progress):
        done = count(1)
        yield lambda: progress(next(done), total)
    else:
        with progress_bar(shown=progress, total=total) as bar:
            yield bar.update


def in_order(completed: dict[int, Result]) -> list[Result]:
    """Results by position → a list in the order of the items."""
    return [completed[index] for index in sorted(completed)]


async def _numbered(items: Iterable[Item] | AsyncIterable[Item]) -> AsyncGenerator[tuple[int, Item]]:
    if isinstance(items, AsyncIterable):
        index = 0
        async for item in items:
            yield index, item
            index += 1
    else:
        for numbered in enumerate(items):
            yield numbered


def _checked(outcome: Completed[Item, Result | BaseException]) -> Completed[Item, Result | ScreeningClientError]:
    """Our own errors are outcomes; any other is a fault that ends the whole run."""
    result = outcome.result
    if isinstance(result, BaseException) and not isinstance(result, ScreeningClientError):
        raise result
    return Completed(outcome.index, outcome.request, result)
