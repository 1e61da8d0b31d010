"""Reads of checkpoint stores, with a time limit for each step.

A store is often a network file system, and a read from one whose server is gone does not return. Each read therefore
runs in a thread of its own and announces every step. When a step takes too long, the caller gets an error and
continues; the thread ends at its next step, and is shown as hanging until then.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from screening.errors import CheckpointUnavailable
from screening.runtime.daemon_thread import in_daemon_thread
from service.errors import CheckpointRefused
from service.logs import log
from service.metrics import Metrics
from service.schemas import Documented

LOGGER = logging.getLogger("service.checkpoints.store_reads")

MAX_HANGING = 16
"""Maximum number of hanging threads. With so many, no store is read: each thread holds memory and an open file."""

Result = TypeVar("Result")


class StoreRead(Documented):
    """One read of a store that is under way, as `GET /admin/checkpoint` shows it."""

    path: str
    """The file or directory that is accessed now."""
    seconds: float
    """Seconds since the last step."""
    hanging: bool
    """Whether the service has given up this read: the store does not answer, and a thread still waits for it."""


class _GivenUp(Exception):
    """Ends the thread of a read that was given up."""


class Watch:
    """The progress of one read. The read's thread writes it, and the event loop reads it."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.path = source
        self.since = time.monotonic()
        self.in_store = True
        self.given_up = False

    def __call__(self, path: Path) -> None:
        """Note a step. This object is the `Step` of its read (`screening.checkpoint.regular_file`)."""
        if self.given_up:
            raise _GivenUp
        self.path, self.since = path, time.monotonic()

    def leave_store(self) -> None:
        """Lift the time limit: the rest of the work accesses the local disk only."""
        self(self.source)
        self.in_store = False


class StoreReads:
    """All reads of one service."""

    def __init__(self, seconds: float, metrics: Metrics) -> None:
        self._seconds = seconds
        """Maximum time for one step."""
        self._under_way: set[Watch] = set()
        metrics.store_hanging.set_function(lambda: sum(one.given_up for one in self._under_way))

    def under_way(self) -> list[StoreRead]:
        """Reads that have not ended, the one with the oldest step first."""
        now = time.monotonic()
        return [
            StoreRead(path=str(one.path), seconds=round(now - one.since, 1), hanging=one.given_up)
            for one in sorted(self._under_way, key=lambda one: one.since)
            if one.in_store
        ]

    async def resolve(self, store: Path, name: str) -> Path:
        """Find the directory of a store that an operator or the registry names.

        Raises:
            CheckpointRefused: the path points outside the store, or the store hangs.
        """
        try:
            return await self.read(store / name, lambda _: inside(store, name))
        except CheckpointUnavailable as error:
            raise CheckpointRefused(str(error)) from error

    async def read(self, source: Path, work: Callable[[Watch], Result], *, name: str = "store") -> Result:
        """Do `work` in a thread.

        Args:
            source: the path that is read. While a read of it hangs, no other read of it begins.
            work: calls its argument as a `Step`.
            name: of the thread, as a debugger shows it.

        Raises:
            CheckpointUnavailable: the store hangs.
        """
        hanging = [one for one in self._under_way if one.given_up]
        if before := next((one for one in hanging if one.source == source), None):
            raise _hangs(before)
        if len(hanging) >= MAX_HANGING:
            raise CheckpointUnavailable(f"{source} is not read: {len(hanging)} reads hang, one of {hanging[0].path}")
        watch = Watch(source)
        self._under_way.add(watch)
        future = in_daemon_thread(lambda: work(watch), name=name)
        future.add_done_callback(lambda ended: self._ended(watch, ended))
        try:
            while not future.done():
                left = watch.since + self._seconds - time.monotonic() if watch.in_store else self._seconds
                if left <= 0:
                    log(LOGGER, logging.ERROR, "store hangs", path=str(watch.path), source=str(watch.source))
                    raise _hangs(watch)
                await asyncio.wait({future}, timeout=left)
        finally:
            watch.given_up = not future.done()  # also when the caller was cancelled
        return future.result()

    def _ended(self, watch: Watch, future: asyncio.Future[Result]) -> None:
        self._under_way.discard(watch)
        if watch.given_up:
            if not future.cancelled():
                future.exception()  # marks the exception as retrieved; no caller waits for it
            log(LOGGER, logging.INFO, "store answers again", path=str(watch.path))


def _hangs(watch: Watch) -> CheckpointUnavailable:
    seconds = time.monotonic() - watch.since
    return CheckpointUnavailable(
        f"{watch.path} has not been read for {seconds:.0f} s: the store hangs. Check that it is mounted"
    )


def inside(store: Path, name: str) -> Path:
    """Return the resolved path of a directory of a store.

    Raises:
        CheckpointRefused: the name points outside the store, by dots or by a symbolic link, or is a link to itself.
    """
    root = store.resolve()
    try:
        path = (root / name).resolve()
    except RuntimeError as error:
        raise CheckpointRefused(f"{name!r} is a symbolic link that points to itself.") from error
    if path == root or not path.is_relative_to(root):
        raise CheckpointRefused(f"{name!r} points outside the checkpoint store.")
    return path
