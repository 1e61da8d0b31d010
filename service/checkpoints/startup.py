"""How the service starts on a checkpoint: the first of three that an engine takes and proves.

    what was served last → what the registry names → what is configured

What was served last is not given up lightly: it is tried again, and stays for the next start unless it is itself at
fault. What the registry names may take the whole process with it, so the attempt is noted on disk first.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from screening.checkpoint.seal import judged_as
from screening.errors import CheckpointError
from service.checkpoints.served import Copy, Offer, ServedCheckpoint
from service.checkpoints.swap_history import proves_a_fault
from service.logs import log

LOGGER = logging.getLogger(
    "service.checkpoints.hot_swap"
)  # what becomes of the served checkpoint is one story in the log

ATTEMPTS = 2
"""With what was served last, before something else is served: an engine that was killed may still hold its memory."""

Production = Callable[[], Awaitable[Offer | None]]
"""Asks the registry."""


async def start_serving(served: ServedCheckpoint, production: Production | None = None) -> None:
    """Load what was served last, or what the registry names, or the configured checkpoint, and prove it.

    Raises:
        CheckpointError: the configured checkpoint cannot be served.
    """
    if await _start_last_served(served):
        return
    if not await _start_production(served, production):
        await _start_on(served, await served.take_in(served.configured))


async def _start_last_served(served: ServedCheckpoint) -> bool:
    """Whether it is served now. Unless it is itself at fault, it stays what the next start tries first."""
    for _ in range(ATTEMPTS):
        try:
            if (last := await asyncio.to_thread(served.store.last_served)) is None:
                return False
            await _start_on(served, Copy(*last), inspected=True)
            return True
        except Exception as error:  # whatever it is, there are other checkpoints
            LOGGER.exception("last served failed", extra={"fields": {"error": str(error)}})
            await served.engine.stop()
            if proves_a_fault(error):
                return False
    served.memory.spared = served.store.last_digest()
    return False


async def _start_production(served: ServedCheckpoint, production: Production | None) -> bool:
    """Whether what the registry names is served now."""
    memory = served.memory
    spared, memory.spared = memory.spared, None
    attempted = None
    try:
        if (copy := await _offered(served, production)) is not None:
            attempted = copy.judged
            await memory.attempt(attempted)
            await _start_on(served, copy)
            return True
    except asyncio.CancelledError:  # the service is told to end
        if attempted:
            memory.survived(attempted)
            memory.write_deaths()
        raise
    except Exception as error:  # whatever it is, the configured checkpoint is still there
        LOGGER.exception("production failed", extra={"fields": {"error": str(error)}})
        await served.engine.stop()
        if attempted:
            memory.survived(attempted)  # this process, that is
            await asyncio.to_thread(memory.write_deaths)
    memory.spared = spared
    return False


async def _offered(served: ServedCheckpoint, production: Production | None) -> Copy | None:
    """A verified copy of what the registry names; None where it names nothing, or what was refused before."""
    offer = await production() if production else None
    if offer is None:
        return None
    offered = await served.look(offer.directory, offer.digest)
    if judged_as(offered) in served.memory.refused:
        return None
    if offered.probes is None:
        raise CheckpointError(f"{offer.directory} carries no probes")
    return await served.take_in(offer.directory, offered)


async def _start_on(served: ServedCheckpoint, copy: Copy, *, inspected: bool = False) -> None:
    """Load it and have it proved, where it carries probes; from then on it is served.

    Args:
        inspected: it was served before.
    """
    began = time.monotonic()
    steps = [served.engine.start(copy.directory)]
    if not inspected and copy.manifest.probes is not None:
        steps.insert(0, served.engine.inspect(copy.directory, copy.manifest))  # first, because it says more
    results = await asyncio.gather(*steps, return_exceptions=True)  # both end, so that nothing is left behind
    if errors := [result for result in results if isinstance(result, BaseException)]:
        raise errors[0]
    if copy.manifest.probes is None:
        log(LOGGER, logging.WARNING, "checkpoint without probes", digest=copy.manifest.digest)
    else:
        await served.prover.prove(copy.manifest, may_round=True)
    served.admission.rebuild_seconds = time.monotonic() - began
    served.becomes(copy)
    await served.tidy()
