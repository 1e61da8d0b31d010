"""The start of the service: it serves the first of three checkpoints that the engine loads and that passes its probes.

    the checkpoint of the last run → the one that the registry names → the configured one

If the checkpoint of the last run cannot be started, the service tries it once more, and keeps its copy for the next
start unless the checkpoint itself is at fault. The checkpoint that the registry names may kill the whole process when
it is loaded, so the attempt is noted on disk first.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from screening.checkpoint.seal import verdict_key
from screening.errors import CheckpointError
from service.checkpoints.served import Copy, Offer, ServedCheckpoint
from service.checkpoints.swap_history import proves_a_fault

LOGGER = logging.getLogger("service.checkpoints.hot_swap")  # one logger for everything that changes the checkpoint

ATTEMPTS = 2
"""Number of attempts at the checkpoint of the last run: an engine that was killed may still hold its memory."""

AskRegistry = Callable[[], Awaitable[Offer | None]]


async def start_serving(served: ServedCheckpoint, ask_registry: AskRegistry | None = None) -> None:
    """Start the engine on the first of the three checkpoints that works.

    Raises:
        CheckpointError: the configured checkpoint cannot be served.
    """
    if await _start_last_served(served) or await _start_production(served, ask_registry):
        return
    await _start_on(served, await served.copy_in(served.configured), wanted=False)


async def _start_last_served(served: ServedCheckpoint) -> bool:
    """Whether the checkpoint of the last run is served now."""
    if (digest := served.history.next_start) is None:
        return False
    for _ in range(ATTEMPTS):
        try:
            if (copy := await asyncio.to_thread(served.store.find, digest)) is None:
                return False
            await _start_on(served, Copy(*copy), inspect=False)
            return True
        except Exception as error:  # Whatever it is, there are other checkpoints.
            LOGGER.exception("checkpoint of the last run not started", extra={"fields": {"error": str(error)}})
            await served.engine.stop()
            if proves_a_fault(error):
                return False
    served.history.fell_back = True
    return False


async def _start_production(served: ServedCheckpoint, ask_registry: AskRegistry | None) -> bool:
    """Whether the checkpoint that the registry names is served now.

    Only a death of this process counts as an attempt against the checkpoint. A failure does not.
    """
    try:
        if (copy := await _copy_production(served, ask_registry)) is None:
            return False
        async with served.history.attempt(copy.key):
            await _start_on(served, copy)
            return True
    except Exception as error:  # Whatever it is, there is the configured checkpoint.
        LOGGER.exception("checkpoint of the registry not started", extra={"fields": {"error": str(error)}})
        await served.engine.stop()
        return False


async def _copy_production(served: ServedCheckpoint, ask_registry: AskRegistry | None) -> Copy | None:
    """A verified copy of the checkpoint that the registry names; None if it names none, or a refused one."""
    offer = await ask_registry() if ask_registry else None
    if offer is None:
        return None
    offered = await served.look(offer.directory, offer.digest)
    if verdict_key(offered) in served.history.refused:
        return None
    if offered.probes is None:
        raise CheckpointError(f"{offer.directory} has no probes")
    return await served.copy_in(offer.directory, offered)


async def _start_on(served: ServedCheckpoint, copy: Copy, *, inspect: bool = True, wanted: bool = True) -> None:
    """Start the engine on a checkpoint and verify it; from then on the checkpoint is served.

    Args:
        inspect: whether the checkpoint was not served before, and must be inspected as well.
        wanted: see `ServedCheckpoint.becomes`.
    """
    began, manifest = time.monotonic(), copy.manifest
    start = served.engine.start(copy.directory)
    steps: list[Awaitable[object]] = [served.verifier.load_and_verify(manifest, start, allow_rounding=True)]
    if inspect and manifest.probes is not None:
        steps.insert(0, served.engine.inspect(copy.directory, manifest))  # first: its error is more specific
    results = await asyncio.gather(*steps, return_exceptions=True)  # waits for both: no task is left running
    if errors := [result for result in results if isinstance(result, BaseException)]:
        raise errors[0]
    served.admission.rebuild_seconds = time.monotonic() - began
    served.becomes(copy, wanted=wanted)
    await served.settle()
