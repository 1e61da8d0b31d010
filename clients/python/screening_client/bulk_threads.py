"""Bulk runs of the synchronous client, which use threads.

Items are taken in the caller's thread and only when places become free. So a generator over a million rows needs memory
for only `concurrency` of them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Generic

from screening_client import constants
from screening_client.bulk import Completed, Item, OnError, Progress, Result, checked, reporting
from screening_client.errors import ScreeningClientError
from screening_client.pace import Run


def completed(
    call: Callable[[Item, Run], Result],
    items: Iterable[Item],
    concurrency: int,
    *,
    progress: Progress,
    on_error: OnError,
) -> Generator[Completed[Item, Result | ScreeningClientError]]:
    """Run `as_completed` and report its progress."""
    outcomes = as_completed(call, items, concurrency, on_error=on_error)
    with closing(outcomes), reporting(items, progress) as advance:
        for done in outcomes:
            advance()
            yield done


def as_completed(
    call: Callable[[Item, Run], Result], items: Iterable[Item], concurrency: int, *, on_error: OnError
) -> Generator[Completed[Item, Result | ScreeningClientError]]:
    """Run `call` in threads. If the caller stops iterating, no new call starts and running calls are cancelled.

    An error of `items` is raised after the outcomes of all calls that have started. With `on_error="raise"`, an error
    of a call is raised after the outcomes that are available at that time.
    """
    workers: _Workers[Item, Result] = _Workers(call, concurrency)
    numbered: Iterator[tuple[int, Item]] = enumerate(items)
    fault: Exception | None = None
    try:
        while True:
            try:
                for index, item in islice(numbered, concurrency - workers.busy):
                    workers.start(index, item)
                    if workers.has_outcome:  # a slow iterable must not delay outcomes that are available
                        break
            except Exception as error:  # noqa: BLE001 - an error of the caller's iterable, which is raised below
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
    """Threads that run calls. They are daemon threads, because a call that hangs must not prevent the program's end."""

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

    @property
    def has_outcome(self) -> bool:
        return not self._outcomes.empty()

    def next_outcome(self) -> Completed[Item, Result | ScreeningClientError]:
        """Wait for the next outcome."""
        outcome = self._outcomes.get()
        self.busy -= 1
        return checked(outcome)

    def outcomes_so_far(self) -> Iterator[Completed[Item, Result | ScreeningClientError]]:
        while True:
            try:
                outcome = self._outcomes.get_nowait()
            except Empty:
                return
            self.busy -= 1
            yield checked(outcome)

    def stop(self) -> None:
        """Cancel the running calls and end all threads. Threads that do not end in time are left alone."""
        if self.busy:
            self._run.cancel()
        for _ in self._threads:
            self._tasks.put(None)
        end = time.monotonic() + constants.CANCEL_GRACE
        for thread in self._threads:
            if thread is not threading.current_thread():  # the garbage collector may close the generator in a worker
                thread.join(max(0.0, end - time.monotonic()))

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            index, item = task
            result: Result | BaseException
            try:
                result = self._call(item, self._run)
            except BaseException as error:  # noqa: BLE001 - the thread that iterates raises it again
                result = error
            self._outcomes.put(Completed(index, item, result))
