"""What a service remembers of checkpoints, over restarts too: what it serves, what it refused, what it died with.

A checkpoint may take the whole process with it, so an attempt is noted on disk before the engine is touched.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from screening.checkpoint import Manifest
from screening.errors import CheckpointError, CheckpointUnavailable
from service.local_store import LocalStore

LOGGER = logging.getLogger("service.swap_memory")

REMEMBERED = 64
"""Refused checkpoints that are remembered."""
MOST_DEATHS = 2
"""So often an engine, or the whole service, may die or hang while it takes up a checkpoint. Then that is refused."""


class SwapMemory:
    """Lies in the state directory; a disk that is full is logged and holds nothing up."""

    def __init__(self, store: LocalStore) -> None:
        self._store = store
        self.refused: dict[str, str] = store.refused()
        """Digest → reason."""
        self.spared: str | None = None
        """What was served last, when it could not be started for a reason that is not its own."""
        self._deaths: dict[str, int] = store.deaths()
        """Digest → how often an engine, or this service, died with it."""
        for digest in [digest for digest, times in self._deaths.items() if times >= MOST_DEATHS]:
            self.refuse(digest, f"the service ended {self._deaths.pop(digest)} times while it took it up")

    def refuse(self, digest: str, reason: str) -> None:
        """It is not tried again. `tidy` writes it down."""
        self._deaths.pop(digest, None)
        self.refused[digest] = reason
        if digest == self.spared:
            self.spared = None
        while len(self.refused) > REMEMBERED:
            del self.refused[next(iter(self.refused))]

    def proved(self, digest: str) -> None:
        """An engine holds it: nothing is held against it any more."""
        self.refused.pop(digest, None)
        self._deaths.pop(digest, None)

    async def attempt(self, digest: str) -> None:
        """Note on disk that an engine is about to take this up: the whole process may die of it."""
        self._deaths[digest] = self._deaths.get(digest, 0) + 1
        await asyncio.to_thread(self.write_deaths)

    def survived(self, digest: str) -> None:
        """Take back the last `attempt`. Whoever calls it writes, or tidies up."""
        self._deaths[digest] -= 1
        if not self._deaths[digest]:
            del self._deaths[digest]

    def may_try_again(self, digest: str) -> bool:
        """Whether an engine may be lost once more while it takes this up."""
        return self._deaths[digest] < MOST_DEATHS

    def write_deaths(self) -> None:
        """Now, in this thread."""
        _try(partial(self._store.remember_deaths, dict(self._deaths)))

    async def tidy(self, served: Manifest) -> None:
        """Note on disk what is served, and delete every other copy. After the gate has opened: it may take a while."""
        settle = (
            partial(self._store.settle, served)
            if self.spared is None
            else partial(self._store.keep_only, {served.digest, self.spared})
        )
        for step in (
            settle,
            partial(self._store.remember_deaths, dict(self._deaths)),
            partial(self._store.remember_refused, dict(self.refused)),
        ):
            await asyncio.to_thread(_try, step)


def proves_a_fault(error: Exception) -> bool:
    """Whether the checkpoint itself is at fault, whatever the moment and the machine."""
    return isinstance(error, CheckpointError) and not isinstance(error, CheckpointUnavailable)


def _try(step: Callable[[], None]) -> None:
    try:
        step()
    except OSError as error:  # a full disk: it is served all the same, and forgotten by a restart
        LOGGER.exception("state not written", extra={"fields": {"error": str(error)}})
