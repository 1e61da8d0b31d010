"""Reads of checkpoint stores: none may hold the service up for ever.

A store is often a network file system, and a read from one whose server is gone does not return. Each read runs in a
thread of its own and announces every step. When a step takes too long, whoever waits gets an error and goes on; the
thread ends itself at its next step, if there is one. Until then it is shown as hanging.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from screening.errors import CheckpointUnavailable
from screening.runtime.daemon_thread import in_daemon_thread
from service.logs import log
from service.metrics import Metrics

LOGGER = logging.getLogger("service.checkpoints.store_reads")

MOST_HANGING = 16
"""Threads that hang. Beyond them no store is read, for each holds memory and a file."""

Result = TypeVar("Result")


class StoreRead(BaseModel):
    """One read of a store that is under way, as `GET /admin/checkpoint` shows it."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    path: str
    """The file or directory that is accessed now."""
    seconds: float
    """Since the last step."""
    hanging: bool
    """Whether it was given up: the store does not answer, and a thread still waits for it."""


class _GivenUp(Exception):
    """Ends a read that nothing waits for any more."""


class Watch:
    """What is known of one read. Its thread writes, the event loop reads."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.path = source
        self.since = time.monotonic()
        self.in_store = True
        self.given_up = False

    def __call__(self, path: Path) -> None:
        """The `Step` of this read."""
        if self.given_up:
            raise _GivenUp
        self.path, self.since = path, time.monotonic()

    def leave_store(self) -> None:
        """The rest concerns the local disk only, and may take as long as it does."""
        self(self.source)
        self.in_store = False


class StoreReads:
    """All reads of one service."""

    def __init__(self, seconds: float, metrics: Metrics) -> None:
        """
        Args:
            seconds: maximum time for one step.
        """
        self._seconds = seconds
        self._metrics = metrics
        self._under_way: set[Watch] = set()

    def under_way(self) -> list[StoreRead]:
        """Those that have not ended, the oldest step first."""
        now = time.monotonic()
        return [
            StoreRead(path=str(one.path), seconds=round(now - one.since, 1), hanging=one.given_up)
            for one in sorted(self._under_way, key=lambda one: one.since)
            if one.in_store
        ]

    async def read(self, source: Path, work: Callable[[Watch], Result], *, name: str = "store") -> Result:
        """Do it in a thread.

        Args:
            source: what is read, for messages; while a read of it hangs, no other one begins.
            work: calls what it is given as a `Step`.

        Raises:
            CheckpointUnavailable: the store hangs.
        """
        hanging = [one for one in self._under_way if one.given_up]
        if before := next((one for one in hanging if one.source == source), None):
            raise CheckpointUnavailable(self._hangs(before))
        if len(hanging) >= MOST_HANGING:
            raise CheckpointUnavailable(f"{source} is not read: {len(hanging)} reads hang, as of {hanging[0].path}")
        watch = Watch(source)
        self._under_way.add(watch)
        future = in_daemon_thread(lambda: work(watch), name=name)
        future.add_done_callback(lambda ended: self._ended(watch, ended))
        try:
            while not future.done():
                left = watch.since + self._seconds - time.monotonic() if watch.in_store else self._seconds
                if left <= 0:
                    raise self._give_up(watch)
                await asyncio.wait({future}, timeout=left)
        finally:
            watch.given_up |= not future.done()  # also when the caller was cancelled
        return future.result()

    def _give_up(self, watch: Watch) -> CheckpointUnavailable:
        watch.given_up = True
        self._count()
        log(LOGGER, logging.ERROR, "store hangs", path=str(watch.path), source=str(watch.source))
        return CheckpointUnavailable(self._hangs(watch))

    def _hangs(self, watch: Watch) -> str:
        seconds = time.monotonic() - watch.since
        return f"{watch.path} has not been read for {seconds:.0f} s: the store hangs. Check that it is mounted"

    def _ended(self, watch: Watch, future: asyncio.Future[Result]) -> None:
        self._under_way.discard(watch)
        if watch.given_up:
            self._count()
            if not future.cancelled():
                future.exception()  # nothing waits for it
            log(LOGGER, logging.INFO, "store answers again", path=str(watch.path))

    def _count(self) -> None:
        self._metrics.store_hanging.set(sum(one.given_up for one in self._under_way))
