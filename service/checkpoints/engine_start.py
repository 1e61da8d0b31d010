"""The only way in which the service starts an engine: at its own start, for a swap that cannot be done in place, and in
place of an engine that died or hangs."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Literal

from service.checkpoints.local_store import Copy
from service.checkpoints.served import ServedCheckpoint
from service.checkpoints.verification import Verified
from service.logs import log

LOGGER = logging.getLogger(__name__)

SWITCHING = "The service is loading another checkpoint."
LOST = "The engine was lost and is restarting."

Cause = Literal["swap", "rollback", "died", "hung"]
"""Why the engine restarts."""


async def start(served: ServedCheckpoint, copy: Copy, seconds: float | None = None) -> Verified:
    """Start the engine on a checkpoint, in place of an engine that may run, and verify it.

    Args:
        seconds: maximum time; None for no limit.

    Raises:
        Exception: any error of the engine; no engine runs then.
    """
    began = time.monotonic()
    try:
        await served.engine.stop()
        async with asyncio.timeout(seconds):
            loading = served.engine.start(copy.directory)
            verified = await served.verifier.load_and_verify(copy.manifest, loading, allow_rounding=True)
    except Exception:
        await served.engine.stop()  # Weights that were not verified must not answer.
        raise
    served.admission.restart_seconds = time.monotonic() - began
    return verified


async def restart(served: ServedCheckpoint, copy: Copy, cause: Cause) -> Verified:
    """Do the same while the service runs. The caller holds `engine_lock`.

    New requests and `/readyz` get 503 meanwhile. Requests that were admitted before wait if a swap restarts the engine,
    and get 503 if the engine was lost.
    """
    admission, metrics, planned = served.admission, served.metrics, cause in ("swap", "rollback")
    with admission.suspended(SWITCHING if planned else LOST, evict=not planned):
        admission.expect_ready(admission.restart_seconds)
        try:
            verified = await start(served, copy, served.settings.engine_restart_seconds)
        except Exception:
            metrics.restarts.labels(cause, "failed").inc()
            raise
        admission.expect_ready(None)
        metrics.restarts.labels(cause, "ok").inc()
        metrics.restart_seconds.observe(admission.restart_seconds)
        log(LOGGER, logging.INFO, "engine restarted", cause=cause, seconds=round(admission.restart_seconds, 1))
        return verified
