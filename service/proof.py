"""An engine proves that it holds a checkpoint: it gives the log-probabilities that the checkpoint's probes recorded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass

from screening.checkpoint import Manifest
from screening.errors import CheckpointError
from screening.probes import deviation
from service.clock import milliseconds_since
from service.engine import Engine


@dataclass(frozen=True, slots=True)
class Proved:
    """A checkpoint that the engine holds, and has shown to hold."""

    load_ms: float = 0.0
    proof_ms: float = 0.0
    deviation: float = 0.0


async def load_and_prove(engine: Engine, manifest: Manifest, loading: Awaitable[None]) -> Proved:
    """Wait until the engine is loaded, in place or anew, and have it prove what it holds.

    Raises:
        CheckpointError: it does not prove it.
        Exception: whatever the engine raised while it loaded.
    """
    began = time.perf_counter()
    await loading
    load_ms, loaded = milliseconds_since(began), time.perf_counter()
    if manifest.probes is None:  # only what the service was started on; a swap to one is refused
        return Proved(load_ms)
    worst = await prove(engine, manifest)
    return Proved(load_ms, milliseconds_since(loaded), worst)


async def prove(engine: Engine, manifest: Manifest) -> float:
    """The largest difference between a probe's log-probability and the one found.

    Raises:
        CheckpointError: it is more than repeats explain, or there are no probes.
    """
    if manifest.probes is None:
        raise CheckpointError("the checkpoint carries no probes")
    probes = manifest.probes.questions
    # All at once: the engine reads them as one batch, and tolerances were found alone and in company.
    found = await asyncio.gather(*map(engine.log_probabilities, probes))
    worst = max(map(deviation, probes, found))
    if not worst <= manifest.probes.tolerance:  # so that NaN proves nothing
        raise CheckpointError(f"the engine does not give the checkpoint's log-probabilities: {worst:.3g} off")
    return worst
