"""What goes on beside the load: a progress bar, and looks at the service's processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict

from tqdm import tqdm

from loadtest.results.record import Book, Event
from loadtest.targets.processes import footprint

FOOTPRINT_SECONDS = 5.0
_BAR_SECONDS = 0.5


async def look(book: Book, pid: int, occasion: str) -> Event:
    """Note what the service's processes hold now."""
    at = book.now
    found = await asyncio.to_thread(footprint, pid)
    return book.note("footprint", at, occasion=occasion, **asdict(found))


@asynccontextmanager
async def looking(book: Book, pid: int | None) -> AsyncIterator[None]:
    """A look every few seconds for the time of the block; none at a service that is not on this machine."""

    async def forever(pid: int) -> None:
        while True:
            await look(book, pid, "load")
            await asyncio.sleep(FOOTPRINT_SECONDS)

    task = asyncio.create_task(forever(pid)) if pid is not None else None
    try:
        yield
    finally:
        await _cancelled(task)


@asynccontextmanager
async def progress(book: Book, label: str, seconds: float) -> AsyncIterator[None]:
    """A bar on standard error for the time of the block, if that is a terminal."""
    before, began = len(book.exchanges), book.now

    async def forever(bar: tqdm[None]) -> None:
        while True:
            done = book.exchanges[before:]
            failed = sum(not each.answered for each in done)
            swaps = sum(event.facts.get("status") == 200 for event in book.of("swap") if event.at >= began)
            bar.n = round(min(seconds, book.now - began), 1)
            bar.set_postfix_str(f"{len(done)} done, {failed} not answered" + (f", {swaps} swaps" if swaps else ""))
            await asyncio.sleep(_BAR_SECONDS)

    shape = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s {postfix}"
    with tqdm(total=round(seconds, 1), desc=label, bar_format=shape, leave=False, disable=None) as bar:
        task = asyncio.create_task(forever(bar))
        try:
            yield
        finally:
            await _cancelled(task)


async def _cancelled(task: asyncio.Task[None] | None) -> None:
    """End a task that only watches; what it failed with comes out."""
    if task is not None:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
