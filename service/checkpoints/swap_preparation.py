"""The preparation of a swap: everything that can be found out before the engine is touched.

Requests are answered meanwhile. A checkpoint that fails here costs nothing but the time of the order.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from screening.checkpoint.manifest import Manifest
from screening.checkpoint.seal import verdict_key
from screening.checkpoint.weights import changed_for_engine, compare_tensors, read_tensors
from screening.errors import CheckpointDamaged, CheckpointError, CheckpointUnavailable
from service.checkpoints.local_store import Copy
from service.checkpoints.served import ServedCheckpoint
from service.logs import log

LOGGER = logging.getLogger(__name__)


async def copy_offered(served: ServedCheckpoint, source: Path, offered: Manifest, *, retry: bool = False) -> Copy:
    """Return a verified copy of a checkpoint, unless it has no probes, or was refused before and is not tried again.

    Raises:
        CheckpointError: there is no such copy.
    """
    reason = served.history.refused.get(verdict_key(offered))
    if reason is not None and not retry:
        raise CheckpointError(f"{offered.digest} was refused before: {reason}")
    if offered.probes is None:
        raise CheckpointDamaged(f"{source} has no probes. Publish it with `python -m trainer publish`")
    return await served.copy_in(source, offered)


async def prepare(
    served: ServedCheckpoint, source: Path, digest: str | None = None, *, retry: bool = False
) -> tuple[Copy, bool]:
    """Copy a published checkpoint, compare it with the served one, and inspect it where that is necessary.

    Args:
        digest: the digest that the registry gives; a checkpoint that is at fault is then remembered as refused.
        retry: whether to try a checkpoint that was refused before.

    Returns:
        The copy, and whether the engine can load it in place.

    Raises:
        CheckpointError: the checkpoint cannot be served, or not now.
    """
    offered = await served.read_published(source, digest)
    try:
        new = await copy_offered(served, source, offered, retry=retry)
        return new, new.key == served.current.key or await _can_be_reloaded(served, source, new)
    except (CheckpointDamaged, CheckpointUnavailable):
        raise  # Another copy of the same checkpoint, or this one once it is complete, may be good.
    except CheckpointError as error:
        if digest is not None:
            served.history.refuse(verdict_key(offered), str(error))
        raise


async def _can_be_reloaded(served: ServedCheckpoint, source: Path, new: Copy) -> bool:
    """Whether the engine can load a checkpoint in place. Raises the error of `prepare` if no engine could load it."""
    old = served.current
    changed = changed_for_engine(old.manifest, new.manifest)
    if changed:
        log(LOGGER, logging.INFO, "engine restart needed", digest=new.manifest.digest, changed=changed)
    else:
        await _compare_tensors(source, new, old)
    if changed or _reads_differently(old.manifest, new.manifest):
        try:
            await served.engine.inspect(new.directory, new.manifest)
        except CheckpointError as error:  # The operator knows the source, and not the copy.
            raise type(error)(str(error).replace(str(new.directory), str(source))) from error
    if changed:
        return False
    try:
        async with asyncio.timeout(served.settings.swap_reload_seconds):
            await served.engine.expect(new.manifest)
    except Exception:  # Without it, the verification only takes longer, or finds the same fault.
        LOGGER.exception("verification not prepared", extra={"fields": {"digest": new.manifest.digest}})
    return True


async def _compare_tensors(source: Path, new: Copy, old: Copy) -> None:
    """Compare names, shapes and types, because an engine that loads in place does not notice most differences."""
    try:
        before = await asyncio.to_thread(read_tensors, old.directory, old.manifest)
    except CheckpointError as error:
        raise CheckpointUnavailable(f"The copy of the served checkpoint cannot be read: {error}") from error
    if difference := compare_tensors(before, await asyncio.to_thread(read_tensors, new.directory, new.manifest)):
        raise CheckpointError(
            f"{source} has the configuration of the served checkpoint but different tensors: {difference}"
        )


def _reads_differently(old: Manifest, new: Manifest) -> bool:
    """Whether a question may become other tokens, or an answer longer, than with the served checkpoint.

    With the same files this takes another prompt, or a manifest that is wrong about how the checkpoint reads text.
    """
    if old.probes is None or new.probes is None or old.probes.reading != new.probes.reading:
        return True
    return old.prompt != new.prompt or old.decoding != new.decoding
