"""Open and closed loops of requests. Ctrl-C ends a loop early and keeps its figures valid."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

Ask = Callable[[float | None], Awaitable[Any]]


class Stop:
    """A flag that Ctrl-C, SIGTERM or SIGHUP sets. A second Ctrl-C or SIGTERM ends the program immediately."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    @property
    def asked(self) -> bool:
        return self._event.is_set()

    def set(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()

    async def sleep(self, seconds: float) -> bool:
        """Wait for a time or until the stop; returns whether there was a stop."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self.wait()
        return self.asked


def stop_signals() -> tuple[signal.Signals, ...]:
    """The signals that end a run: Ctrl-C, SIGTERM, and SIGHUP (a closed terminal) unless `nohup` has it ignored."""
    always = (signal.SIGINT, signal.SIGTERM)
    return always if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (*always, signal.SIGHUP)


@asynccontextmanager
async def stoppable() -> AsyncIterator[Stop]:
    """A `Stop` that receives the signals during the block."""
    loop, stop = asyncio.get_running_loop(), Stop()
    numbers = stop_signals()

    def asked() -> None:
        stop.set()
        for number in numbers:
            loop.remove_signal_handler(number)
        # A closing terminal may send it twice. The second one must not interrupt the end of the run.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    for number in numbers:
        loop.add_signal_handler(number, asked)
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def open_loop(moments: Iterable[float], ask: Ask, *, now: Callable[[], float], began: float, stop: Stop) -> int:
    """Send a request at each moment without waiting for earlier answers; returns how many were given up.

    Args:
        moments: send times in seconds after `began`, in order.
        now: clock of the run.
    """
    under_way: set[asyncio.Task[Any]] = set()
    try:
        for moment in moments:
            if await stop.sleep(began + moment - now()):
                break
            under_way.add(asyncio.create_task(_ask(ask, began + moment)))
            under_way = {task for task in under_way if not _done(task)}
        return await _end(under_way, stop)
    finally:
        await _give_up(under_way)


async def closed_loop(clients: int, ask: Ask, *, until: Coroutine[Any, Any, Any], stop: Stop) -> int:
    """Run clients that each send the next request after an answer; returns how many requests were given up.

    Args:
        until: the load lasts until this ends, and fails if this fails.
    """
    over = asyncio.Event()

    async def client() -> None:
        while not over.is_set():
            await ask(None)

    tasks = {asyncio.create_task(client()) for _ in range(clients)}
    ending = asyncio.create_task(until)
    try:
        # A client ends early only because of a bug in the load test, which must not go unnoticed.
        await asyncio.wait({ending, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        over.set()
        given_up = await _end(tasks, stop)
        await ending
    finally:
        await _give_up({ending, *tasks})
    return given_up


async def _end(tasks: set[asyncio.Task[Any]], stop: Stop) -> int:
    """Wait for the last answers, or give them up after a stop. Raises the errors of the load test itself."""
    stopped = asyncio.create_task(stop.wait())
    try:
        everything: asyncio.Future[Any] = asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.wait((everything, stopped), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        await _give_up(tasks)
    for task in tasks:
        if not task.cancelled():
            _done(task)
    return sum(task.cancelled() for task in tasks)


async def _give_up(tasks: set[asyncio.Task[Any]]) -> None:
    """Cancel the tasks and wait until each has ended, ignoring their errors."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _ask(ask: Ask, intended: float) -> None:
    await ask(intended)


def _done(task: asyncio.Task[Any]) -> bool:
    """Whether a task has ended; raises its error if it failed."""
    if task.done() and not task.cancelled():
        task.result()
    return task.done()
