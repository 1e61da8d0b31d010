"""The supervisor: it watches the engine, and restarts an engine that died or hangs.

The first restart begins at once. After a restart that fails, or an engine that is lost again soon, the supervisor
waits, longer each time. After several restarts in a row, `hopeless` tells the orchestrator to restart the process; the
supervisor does not give up.
"""

from __future__ import annotations

import asyncio
import logging
import time

from service.checkpoints.engine_start import Cause, restart
from service.checkpoints.served import ServedCheckpoint
from service.logs import log

LOGGER = logging.getLogger("service.checkpoints.supervisor")

LOOK_SECONDS = 0.25
"""Time between two checks of the engine, in seconds."""
FIRST_WAIT = 1.0
"""Wait before the second restart in a row, in seconds. It doubles each time, up to `LONGEST_WAIT`."""
LONGEST_WAIT = 60.0
HEALTHY_SECONDS = 8.0
"""Lifetime of an engine, in seconds, after which its loss begins a new row. Callers repeat a failed request within
`admission.SOON` seconds, so a request that kills every engine is counted as one row."""


class Supervisor:
    """Watches one engine. `run` is a task of the app."""

    def __init__(self, served: ServedCheckpoint) -> None:
        self._served = served
        self._engine = served.engine
        self._admission = served.admission
        self._attempts = 0
        """Restarts in a row."""

    @property
    def hopeless(self) -> bool:
        """Whether no engine runs, and too many restarts in a row have failed."""
        return self._attempts >= self._served.settings.engine_restart_attempts and not self._engine.alive

    async def run(self) -> None:
        """Watch the engine, which has started, and restart it whenever it is lost, until this task is cancelled."""
        while True:
            began = time.monotonic()
            try:
                cause = await self._until_lost()
                if time.monotonic() - began > HEALTHY_SECONDS:
                    self._attempts = 0
                log(LOGGER, logging.ERROR, "engine lost", cause=cause, attempts=self._attempts)
                while not self._engine.alive:
                    await self._restart(cause)
            except Exception as error:  # Without this loop, nothing watches the engine.
                LOGGER.exception("supervision failed", extra={"fields": {"error": str(error)}})
                await asyncio.sleep(FIRST_WAIT)

    async def _until_lost(self) -> Cause:
        """Wait until the engine is dead, and kill it if it hangs."""
        stalled, seen, looked = 0.0, self._engine.progress, time.monotonic()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = time.monotonic()
            # While this process was stopped or starved of CPU time, it could not see the engine's progress either.
            passed, looked = min(now - looked, 4 * LOOK_SECONDS), now
            if self._admission.closed_because is not None:
                # The service drains and needs no other engine, or a swap restarts it, which has its own time limit.
                stalled = 0.0
                continue
            if not self._engine.alive:
                return "died"
            if (progress := self._engine.progress) != seen:
                stalled, seen = 0.0, progress
            elif self._engine.running():
                stalled += passed
            if stalled > self._served.settings.engine_hang_seconds:
                log(LOGGER, logging.ERROR, "engine hangs", running=self._engine.running(), seconds=round(stalled, 1))
                # This takes no lock: a swap that holds it may be waiting for the very requests that the kill ends.
                await self._engine.kill()
                return "hung"

    async def _restart(self, cause: Cause) -> None:
        wait = wait_before(self._attempts)
        self._admission.expect_ready(wait + self._admission.restart_seconds)
        await asyncio.sleep(wait)
        try:
            async with self._served.engine_lock:
                if not self._engine.alive:  # A swap may have restarted it meanwhile.
                    await restart(self._served, self._served.now, cause)
        except Exception as error:  # The next attempt may succeed.
            fields = {"attempts": self._attempts, "error": str(error)}
            LOGGER.exception("engine restart failed", extra={"fields": fields})
        self._attempts += 1


def wait_before(attempts: int) -> float:
    """Seconds to wait before a restart that follows `attempts` others in a row."""
    return min(FIRST_WAIT * 2.0 ** min(attempts - 1, 30), LONGEST_WAIT) if attempts else 0.0
