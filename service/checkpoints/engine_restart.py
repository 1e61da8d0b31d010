"""The engine restart: the only way in which a running service starts an engine.

The hot swap uses it for what it cannot do in place, and the supervisor for an engine that died or hangs.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Literal

from service.checkpoints.local_store import Copy
from service.checkpoints.served import ServedCheckpoint
from service.checkpoints.verification import Verified
from service.logs import log

LOGGER = logging.getLogger("service.checkpoints.hot_swap")  # one logger for everything that changes the checkpoint

SWITCHING = "The service is loading another checkpoint."
LOST = "The engine was lost and is restarting."

Cause = Literal["swap", "roll_back", "died", "hung"]
"""Why the engine restarts."""


async def restart(served: ServedCheckpoint, copy: Copy, cause: Cause) -> Verified:
    """Stop the engine, start it on a checkpoint and verify it. The caller holds `engine_lock`.

    New requests and `/readyz` get 503 meanwhile. Requests that were admitted before wait if a swap restarts the engine,
    and get 503 if the engine was lost.

    Raises:
        Exception: any error of the engine; no checkpoint is loaded then.
    """
    engine, admission, metrics = served.engine, served.admission, served.metrics
    planned, began = cause in ("swap", "roll_back"), time.monotonic()
    with admission.suspended(SWITCHING if planned else LOST, evict=not planned):
        try:
            admission.expect_ready(admission.rebuild_seconds)
            await engine.stop()
            async with asyncio.timeout(served.settings.engine_rebuild_seconds):
                loading = engine.start(copy.directory)
                verified = await served.verifier.load_and_verify(copy.manifest, loading, allow_rounding=True)
        except Exception:
            metrics.rebuilds.labels(cause, "failed").inc()
            await engine.stop()  # Weights that were not verified must not answer.
            raise
        admission.expect_ready(None)
        admission.rebuild_seconds = seconds = time.monotonic() - began
        metrics.rebuilds.labels(cause, "ok").inc()
        metrics.rebuild_seconds.observe(seconds)
        log(LOGGER, logging.INFO, "engine restarted", cause=cause, seconds=round(seconds, 1))
        return verified
