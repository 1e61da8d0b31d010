"""The start of the service: it serves the first of three checkpoints that the engine loads and that passes its probes.

They are tried in this order: the checkpoint of the last run, the one that the registry names, the configured one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from screening.checkpoint.registry import Version
from service.checkpoints.engine_start import start
from service.checkpoints.local_store import Copy
from service.checkpoints.served import ServedCheckpoint
from service.checkpoints.swap_history import proves_a_fault
from service.checkpoints.swap_preparation import copy_offered

LOGGER = logging.getLogger(__name__)

ATTEMPTS = 2
"""Number of attempts at the checkpoint of the last run: an engine that was killed may still hold its memory."""

AskRegistry = Callable[[], Awaitable[Version | None]]


async def start_serving(served: ServedCheckpoint, ask_registry: AskRegistry | None = None) -> None:
    """Start the engine on the first of the three checkpoints that works.

    Raises:
        CheckpointError: the configured checkpoint cannot be served.
    """
    if not (await _start_last_served(served) or await _start_production(served, ask_registry)):
        not_started = served.history.served
        offered = await served.read_published(served.configured)
        await _start_on(served, await served.copy_in(served.configured, offered))
        # The checkpoint of the last run may start next time, and stays the one that is tried first.
        served.history.served = not_started or served.current.key
    served.history.started_on(served.engine.machine)
    await served.settle()


async def _start_last_served(served: ServedCheckpoint) -> bool:
    """Whether the checkpoint of the last run is served now. If not, the next start tries it again unless it is at
    fault."""
    for _ in range(ATTEMPTS):
        if (key := served.history.served) is None:
            break
        try:
            copy = await asyncio.to_thread(served.store.find, key)
            await _start_on(served, copy, inspect=False)
            return True
        except Exception as error:  # Whatever it is, there are other checkpoints.
            LOGGER.exception("checkpoint of the last run not started", extra={"fields": {"error": str(error)}})
            if proves_a_fault(error):
                served.history.served = None
    return False


async def _start_production(served: ServedCheckpoint, ask_registry: AskRegistry | None) -> bool:
    """Whether the checkpoint that the registry names is served now. A start that fails does not count as a loss."""
    try:
        if ask_registry is None or (version := await ask_registry()) is None:
            return False
        offered = await served.read_published(version.directory, version.digest)
        copy = await copy_offered(served, version.directory, offered)
        async with served.history.while_loading(copy.key):
            await _start_on(served, copy)
        return True
    except Exception as error:  # Whatever it is, there is the configured checkpoint.
        LOGGER.exception("checkpoint of the registry not started", extra={"fields": {"error": str(error)}})
        return False


async def _start_on(served: ServedCheckpoint, copy: Copy, *, inspect: bool = True) -> None:
    """Serve a checkpoint. It must be inspected as well unless it was served before."""
    steps: list[Awaitable[object]] = [start(served, copy)]
    if inspect and copy.manifest.probes is not None:
        steps.insert(0, served.engine.inspect(copy.directory, copy.manifest))  # first: its error is more specific
    results = await asyncio.gather(*steps, return_exceptions=True)  # waits for both: no task is left running
    if errors := [result for result in results if isinstance(result, BaseException)]:
        raise errors[0]
    served.becomes(copy)
