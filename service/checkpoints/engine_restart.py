"""The engine is built anew: stopped, started on a checkpoint, and proved before anyone reaches it.

For a swap that cannot go in place and for the way back from one (service/checkpoints/hot_swap.py), and for an engine
that died or hangs (service/checkpoints/supervisor.py, by `recover`). `/readyz` announces it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Literal

from service.checkpoints.served import Copy, ServedCheckpoint
from service.checkpoints.verification import Proved
from service.errors import EngineLost
from service.logs import log

LOGGER = logging.getLogger(
    "service.checkpoints.hot_swap"
)  # what becomes of the served checkpoint is one story in the log

SWITCHING = "The service takes up another checkpoint."
LOST = "The engine was lost and is being built anew."

Cause = Literal["swap", "roll_back", "died", "hung"]
"""Why an engine is built anew."""


async def recover(served: ServedCheckpoint, cause: Cause) -> None:
    """Build a lost engine anew on what is served. Nothing to do when a swap has done it meanwhile.

    Raises:
        Exception: whatever the engine raised; nothing is loaded then.
    """
    async with served.lock:
        if not served.engine.alive:
            await rebuild(served, served.now, cause)


async def rebuild(served: ServedCheckpoint, copy: Copy, cause: Cause) -> Proved:
    """Stop the engine, start it on a checkpoint and prove it. New requests are refused meanwhile: it takes long.

    The one way in which an engine is built anew. Until it is proved nobody reaches it: behind a swap's gate those
    who are inside wait, otherwise they are sent away. The caller holds the lock.

    Raises:
        EngineLost: the service is about to end.
        Exception: whatever the engine raised; nothing is loaded then.
    """
    if served.ending:
        await served.engine.stop()  # it may hold what is not proved
        raise EngineLost
    engine, admission, metrics = served.engine, served.admission, served.metrics
    planned, began = cause in ("swap", "roll_back"), time.monotonic()
    with admission.suspended(SWITCHING if planned else LOST, evict=not planned):
        try:
            admission.expect_ready(admission.rebuild_seconds)
            await engine.stop()
            if served.ending:  # meanwhile
                raise EngineLost
            async with asyncio.timeout(served.settings.engine_rebuild_seconds):
                loading = engine.start(copy.directory)
                proved = await served.prover.load_and_prove(copy.manifest, loading, may_round=True)
        except Exception:
            metrics.rebuilds.labels(cause, "failed").inc()
            await engine.stop()  # what is not proved must not answer
            raise
        seconds = time.monotonic() - began
        admission.expect_ready(None)
        admission.rebuild_seconds = seconds
        metrics.rebuilds.labels(cause, "ok").inc()
        metrics.rebuild_seconds.observe(seconds)
        log(LOGGER, logging.INFO, "engine rebuilt", cause=cause, seconds=round(seconds, 1))
        return proved
