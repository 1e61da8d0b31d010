"""Runs work in a daemon thread, for which the process does not wait when it ends.

The event loop and the interpreter wait for the threads of an executor, also those of `asyncio.to_thread`. Work that may
hang for minutes, such as a connection to a registry or a read from a network store, must not delay the end that long.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_daemon_thread(work: Callable[[], Result], *, name: str) -> asyncio.Future[Result]:
    """Run `work` in a new daemon thread. Cancelling the future does not stop the thread; its result is then discarded.

    Args:
        name: name of the thread, as a debugger shows it.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def settle(result: Result | None, error: Exception | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result: Result | None = None
        failure: Exception | None = None
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - the future raises it again
            failure = error
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def for_each(work: Callable[[Item], object], items: Iterable[Item], *, threads: int, name: str) -> None:
    """Call `work` with each item, in up to `threads` new daemon threads, and wait for them. Blocks.

    No further item begins after an error.

    Args:
        name: name of the threads, as a debugger shows it.

    Raises:
        Exception: the first error of `work`.
    """
    waiting, errors = deque(items), list[Exception]()

    def run() -> None:
        while not errors:
            try:
                item = waiting.popleft()
            except IndexError:  # another thread took the last one
                return
            try:
                work(item)
            except Exception as error:  # noqa: BLE001 - the caller's thread raises it again
                errors.append(error)

    running = [threading.Thread(target=run, name=name, daemon=True) for _ in range(min(threads, len(waiting)))]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    if errors:
        raise errors[0]
