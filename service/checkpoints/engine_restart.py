"""The engine restart: stop the engine, start it on a checkpoint, verify it, and only then admit requests.

This is the only way in which a running service starts an engine: for a swap that cannot be done in place, for the
roll-back of a failed swap (service/checkpoints/hot_swap.py), and for an engine that died or hangs
(service/checkpoints/supervisor.py). `/readyz` announces it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Literal

from service.checkpoints.served import Copy, ServedCheckpoint
from service.checkpoints.verification import Verified
from service.errors import EngineLost
from service.logs import log

LOGGER = logging.getLogger("service.checkpoints.hot_swap")  # one logger for everything that changes the checkpoint

SWITCHING = "The service is loading another checkpoint."
LOST = "The engine was lost and is restarting."

Cause = Literal["swap", "roll_back", "died", "hung"]
"""Why the engine restarts."""


async def restart_lost_engine(served: ServedCheckpoint, cause: Cause) -> None:
    """Restart the engine on the served checkpoint, unless a swap has restarted it meanwhile.

    Raises:
        Exception: any error of the engine; no checkpoint is loaded then.
    """
    async with served.engine_lock:
        if not served.engine.alive:
            await restart(served, served.now, cause)


async def restart(served: ServedCheckpoint, copy: Copy, cause: Cause) -> Verified:
    """Stop the engine, start it on a checkpoint and verify it. New requests get 503 meanwhile, because it takes long.

    Requests that were admitted before wait if a swap restarts the engine, and get 503 if the engine was lost. The
    caller holds `engine_lock`.

    Raises:
        EngineLost: the service is about to end.
        Exception: any error of the engine; no checkpoint is loaded then.
    """
    engine, admission, metrics = served.engine, served.admission, served.metrics
    if served.ending:
        await engine.stop()  # It may hold weights that were not verified.
        raise EngineLost
    planned, began = cause in ("swap", "roll_back"), time.monotonic()
    with admission.suspended(SWITCHING if planned else LOST, evict=not planned):
        try:
            admission.expect_ready(admission.rebuild_seconds)
            await engine.stop()
            if served.ending:  # The service may have begun to end during the stop.
                raise EngineLost
            async with asyncio.timeout(served.settings.engine_rebuild_seconds):
                loading = engine.start(copy.directory)
                verified = await served.verifier.load_and_verify(copy.manifest, loading, allow_rounding=True)
        except Exception:
            metrics.rebuilds.labels(cause, "failed").inc()
            await engine.stop()  # Weights that were not verified must not answer.
            raise
        seconds = time.monotonic() - began
        admission.expect_ready(None)
        admission.rebuild_seconds = seconds
        metrics.rebuilds.labels(cause, "ok").inc()
        metrics.rebuild_seconds.observe(seconds)
        log(LOGGER, logging.INFO, "engine restarted", cause=cause, seconds=round(seconds, 1))
        return verified
