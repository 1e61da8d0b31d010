"""Background tasks of a load test: a progress bar, and measurements of the service's processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict

from tqdm import tqdm

from loadtest.results.record import Event, RunRecorder
from loadtest.targets.processes import footprint

FOOTPRINT_SECONDS = 5.0
_BAR_SECONDS = 0.5


async def look(recorder: RunRecorder, pid: int, occasion: str) -> Event:
    """Record the current resources of the service's processes."""
    at = recorder.now
    found = await asyncio.to_thread(footprint, pid)
    return recorder.note("footprint", at, occasion=occasion, **asdict(found))


@asynccontextmanager
async def looking(recorder: RunRecorder, pid: int | None) -> AsyncIterator[None]:
    """Measure the processes every few seconds during the block, if the service is on this machine."""

    async def forever(pid: int) -> None:
        while True:
            await look(recorder, pid, "load")
            await asyncio.sleep(FOOTPRINT_SECONDS)

    task = asyncio.create_task(forever(pid)) if pid is not None else None
    try:
        yield
    finally:
        await _cancelled(task)


@asynccontextmanager
async def progress(recorder: RunRecorder, label: str, seconds: float) -> AsyncIterator[None]:
    """Show a progress bar on standard error during the block, if that is a terminal."""
    before, began = len(recorder.exchanges), recorder.now

    async def forever(bar: tqdm[None]) -> None:
        while True:
            done = recorder.exchanges[before:]
            failed = sum(not each.answered for each in done)
            swaps = sum(event.facts.get("status") == 200 for event in recorder.of("swap") if event.at >= began)
            bar.n = round(min(seconds, recorder.now - began), 1)
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
    """Stop a background task; raises its error if it failed."""
    if task is not None:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
