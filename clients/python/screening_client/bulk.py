"""Many requests with a bound on how many are under way.

Both functions take from `items` only as places become free, so that a generator over a million rows costs the memory
of `concurrency` of them, and both give outcomes as they come, with the position of their item.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Sized
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any, Literal, TypeAlias, TypeVar

from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

from screening_client.errors import InputError, ScreeningClientError

OnError: TypeAlias = Literal["raise", "return"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def as_completed(
    call: Callable[[Item, threading.Event], Result], items: Iterable[Item], concurrency: int
) -> Generator[tuple[int, Result | ScreeningClientError]]:
    """Run `call` on a pool of threads. When the caller stops iterating, nothing new begins and waits are cut short.

    Args:
        call: takes an item and an event that is set when its outcome is no longer wanted.
    """
    numbered = enumerate(items)
    running: dict[Future[Result], int] = {}
    given_up = threading.Event()
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix="screening")
    try:
        while True:
            for index, item in islice(numbered, concurrency - len(running)):
                running[pool.submit(call, item, given_up)] = index
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), _outcome(future.result)
    finally:
        given_up.set()
        pool.shutdown(wait=True, cancel_futures=True)


async def as_completed_async(
    call: Callable[[Item], Awaitable[Result]], items: Iterable[Item], concurrency: int
) -> AsyncGenerator[tuple[int, Result | ScreeningClientError]]:
    """Run `call` in tasks. Close it (`contextlib.aclosing`): what is under way is then cancelled and waited for."""
    numbered = enumerate(items)
    running: dict[asyncio.Future[Result], int] = {}
    try:
        while True:
            for index, item in islice(numbered, concurrency - len(running)):
                running[asyncio.ensure_future(call(item))] = index
            if not running:
                return
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for future in done:
                yield running.pop(future), _outcome(future.result)
    finally:
        for future in running:
            future.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def check_bulk(concurrency: int, on_error: str) -> None:
    """Refuse unusable options before the first item is taken.

    Raises:
        InputError: `concurrency` below 1 or an unknown `on_error`.
    """
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        raise InputError(f"concurrency must be a whole number, 1 or more, not {concurrency!r}")
    if on_error not in ("raise", "return"):
        raise InputError(f"on_error is {on_error!r}; it must be 'raise' or 'return'")


def progress_bar(items: Iterable[object], *, shown: bool, total: int | None = None) -> tqdm[Any]:
    """A bar on stderr; none where stderr is not a terminal."""
    total = len(items) if total is None and isinstance(items, Sized) else total
    return tqdm(total=total, unit="screening", disable=None if shown else True, dynamic_ncols=True)


def in_order(outcomes: dict[int, Result]) -> list[Result]:
    """Outcomes by position → a list in the order of the items."""
    return [outcomes[index] for index in sorted(outcomes)]


def _outcome(result: Callable[[], Result]) -> Result | ScreeningClientError:
    """Our own errors are outcomes of their item; anything else is a fault that ends the whole run."""
    try:
        return result()
    except ScreeningClientError as error:
        return error
