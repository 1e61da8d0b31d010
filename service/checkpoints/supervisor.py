"""Watches the engine, and has it built anew when it died or hangs.

    lost → its requests end with 503 → (wait) → build it anew on what was proved last → prove it → serve

The first rebuild begins at once; one that fails, or an engine that is lost again soon after, is followed by a longer
and longer wait. After some in a row `hopeless` says that another process should try; this one does not give up.
"""

from __future__ import annotations

import asyncio
import logging
import time

from service.admission.admission import Admission
from service.checkpoints.engine_restart import Cause, recover
from service.checkpoints.served import ServedCheckpoint
from service.config.settings import Settings
from service.engines.protocol import Engine
from service.logs import log

LOGGER = logging.getLogger("service.checkpoints.supervisor")

LOOK_SECONDS = 0.25
"""Between two looks at the engine."""
FIRST_WAIT = 1.0
"""Before the second rebuild in a row, in seconds; doubled each time."""
LONGEST_WAIT = 60.0
HEALTHY_SECONDS = 8.0
"""An engine that lives so long ends a row. Longer than callers wait who come back late (`admission.SOON`), so that a
request which kills each engine is seen as a row."""


class Supervisor:
    """One engine's supervisor; `run` is a task of the app's."""

    def __init__(self, engine: Engine, admission: Admission, served: ServedCheckpoint, settings: Settings) -> None:
        self._engine = engine
        self._admission = admission
        self._served = served
        self._settings = settings
        self._attempts = 0
        """Rebuilds in a row."""
        self._back_at = time.monotonic()
        """When the engine was last made ready."""

    @property
    def hopeless(self) -> bool:
        """There is no engine, and rebuilding it has failed too often in a row."""
        return self._attempts >= self._settings.engine_rebuild_attempts and not self._engine.alive

    async def run(self) -> None:
        """Until it is cancelled. The engine has started."""
        self._back_at = time.monotonic()
        while True:
            try:
                await self._watch()
            except Exception as error:  # nobody watches the engine without this loop
                LOGGER.exception("supervision failed", extra={"fields": {"error": str(error)}})
                await asyncio.sleep(FIRST_WAIT)

    async def _watch(self) -> None:
        """Once: from a living engine to the next."""
        cause = await self._until_lost()
        if time.monotonic() - self._back_at > HEALTHY_SECONDS:
            self._attempts = 0
        log(LOGGER, logging.ERROR, "engine lost", cause=cause, attempts=self._attempts)
        while not self._engine.alive:
            await self._rebuild(cause)
        self._admission.expect_ready(None)
        self._back_at = time.monotonic()

    async def _until_lost(self) -> Cause:
        """Returns when the engine is dead; kills one that hangs. Not while the service drains: nobody would use it."""
        stalled, seen, looked = 0.0, self._engine.progress, time.monotonic()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = time.monotonic()
            # When this process itself was stopped or starved, the engine had no chance to be heard either.
            passed, looked = min(now - looked, 4 * LOOK_SECONDS), now
            if self._admission.closed_because is not None:
                # A drain, or a rebuild by a swap, which has its own limit.
                stalled = 0.0
                continue
            if not self._engine.alive:
                return "died"
            if (progress := self._engine.progress) != seen:
                stalled, seen = 0.0, progress
            elif self._engine.running():
                stalled += passed
            if stalled > self._settings.engine_hang_seconds:
                log(LOGGER, logging.ERROR, "engine hangs", running=self._engine.running(), seconds=round(stalled, 1))
                # Without the swap's lock: a swap may be waiting for the very requests that this ends.
                await self._engine.kill()
                return "hung"

    async def _rebuild(self, cause: Cause) -> None:
        wait = wait_before(self._attempts)
        self._admission.expect_ready(wait + self._admission.rebuild_seconds)
        await asyncio.sleep(wait)
        try:
            await recover(self._served, cause)
        except Exception as error:  # whatever it is, the next attempt may succeed
            if self._served.ending:
                log(LOGGER, logging.INFO, "rebuild given up: the service ends")
            else:
                LOGGER.exception("rebuild failed", extra={"fields": {"attempts": self._attempts, "error": str(error)}})
        self._attempts += 1


def wait_before(attempts: int) -> float:
    """Seconds before a rebuild that follows so many others in a row."""
    return min(FIRST_WAIT * 2.0 ** min(attempts - 1, 30), LONGEST_WAIT) if attempts else 0.0
