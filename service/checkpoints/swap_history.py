"""What a service remembers of checkpoints, over restarts too: what it serves, what it refused, what it died with.

A checkpoint may take the whole process with it, so an attempt is noted on disk before the engine is touched.

Verdicts are about everything that was judged, files, probes and the rest of the manifest
(`screening.checkpoint.seal.judged_as`): a copy with other probes that was refused says nothing about the intact
checkpoint of the same digest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from screening.checkpoint.manifest import Manifest
from screening.checkpoint.seal import digest_in
from screening.errors import CheckpointError, CheckpointUnavailable
from service.checkpoints.local_store import LocalStore

LOGGER = logging.getLogger("service.checkpoints.swap_history")

REMEMBERED = 64
"""Refused checkpoints that are remembered."""
MOST_DEATHS = 2
"""So often an engine, or the whole service, may die or hang while it takes up a checkpoint. Then that is refused."""


class SwapMemory:
    """Lies in the state directory; a disk that is full is logged and holds nothing up."""

    def __init__(self, store: LocalStore) -> None:
        self._store = store
        self.refused: dict[str, str] = store.refused()
        """What was judged → reason."""
        self.spared: str | None = None
        """What was served last, when it could not be started for a reason that is not its own."""
        self._deaths: dict[str, int] = store.deaths()
        """What was judged → how often an engine, or this service, died with it."""
        for judged in [judged for judged, times in self._deaths.items() if times >= MOST_DEATHS]:
            self.refuse(judged, f"the service ended {self._deaths.pop(judged)} times while it took it up")

    def refuses(self, digest: str) -> bool:
        """Whether some checkpoint of this digest was refused."""
        return any(digest_in(judged) == digest for judged in self.refused)

    def refuse(self, judged: str, reason: str) -> None:
        """It is not tried again. `tidy` writes it down."""
        self._deaths.pop(judged, None)
        self.refused[judged] = reason
        if digest_in(judged) == self.spared:
            self.spared = None
        while len(self.refused) > REMEMBERED:
            del self.refused[next(iter(self.refused))]

    def proved(self, judged: str) -> None:
        """An engine holds it: nothing is held against it any more."""
        self.refused.pop(judged, None)
        self._deaths.pop(judged, None)

    async def attempt(self, judged: str) -> None:
        """Note on disk that an engine is about to take this up: the whole process may die of it."""
        self._deaths[judged] = self._deaths.get(judged, 0) + 1
        await asyncio.to_thread(self.write_deaths)

    def survived(self, judged: str) -> None:
        """Take back the last `attempt`. Whoever calls it writes, or tidies up."""
        self._deaths[judged] -= 1
        if not self._deaths[judged]:
            del self._deaths[judged]

    def may_try_again(self, judged: str) -> bool:
        """Whether an engine may be lost once more while it takes this up."""
        return self._deaths[judged] < MOST_DEATHS

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
