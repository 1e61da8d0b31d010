"""What a service remembers of checkpoints over restarts, in the one file `STATE/state.json`.

Checkpoints are named by `screening.checkpoint.seal.verdict_key` and not by their digest: a verdict on a copy with
damaged probes says nothing about the intact checkpoint of the same digest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import BaseModel

from screening.errors import CheckpointError, CheckpointUnavailable
from screening.runtime.atomic_write import write_atomically

LOGGER = logging.getLogger("service.checkpoints.swap_history")

MAX_REFUSED = 64
"""Maximum number of refused checkpoints that are remembered."""
MAX_LOSSES = 2
"""Number of times that an engine may be lost while it loads a checkpoint. After that the checkpoint is refused."""


class SwapHistory(BaseModel):
    """The content of the file."""

    served: str | None = None
    """Key of the checkpoint that the next start tries first."""
    refused: dict[str, str] = {}
    """Key → reason, the latest last."""
    machine: str | None = None
    """Kind of machine on which they were refused; see `screening.runtime.machine`."""
    loading: str | None = None
    """Key of the checkpoint that an engine loads now and that was not served before."""
    losses: dict[str, int] = {}
    """Key → how often an engine, or the whole service, was lost while it loaded that checkpoint."""
    _file: Path

    @classmethod
    def of(cls, state: Path) -> SwapHistory:
        """The history of an earlier run in this state directory; an empty one if the file is missing or damaged."""
        file = state / "state.json"
        try:
            history = cls.model_validate_json(file.read_bytes())
        except (OSError, ValueError):
            history = cls()
        history._file = file
        key, history.loading = history.loading, None
        if key is not None and history.count_loss(key):
            history.refuse(key, f"the service or its engine ended {MAX_LOSSES} times while it loaded this checkpoint")
        return history

    def started_on(self, machine: str) -> None:
        """Forget the refusals of another kind of machine: another version of vLLM, for example, may pass the probes."""
        if self.machine not in (None, machine):
            self.refused.clear()
        self.machine = machine

    def refuse(self, key: str, reason: str) -> None:
        """Do not try this checkpoint again."""
        self.losses.pop(key, None)
        self.refused[key] = reason
        if key == self.served:
            self.served = None
        while len(self.refused) > MAX_REFUSED:
            del self.refused[next(iter(self.refused))]

    def accept(self, key: str) -> None:
        """Begin the next start with this checkpoint, and forget its faults: an engine has passed its probes."""
        self.refused.pop(key, None)
        self.losses.pop(key, None)
        self.served = key

    def count_loss(self, key: str) -> bool:
        """Count that an engine was lost while it loaded this checkpoint. Returns whether this was once too often."""
        self.losses[key] = self.losses.get(key, 0) + 1
        return self.losses[key] >= MAX_LOSSES

    @asynccontextmanager
    async def while_loading(self, key: str) -> AsyncIterator[None]:
        """Note on disk that an engine loads this checkpoint, for the time of the block.

        Loading it may kill the process that notes it, so the note is on disk before the engine is touched.
        """
        self.loading = key
        await self.save()
        try:
            yield
        finally:  # also when the service ends and the task is cancelled
            self.loading = None
            await self.save()

    async def save(self) -> bool:
        """Write the file. Returns whether this succeeded; if not (a full disk), the service continues without it."""
        try:
            await asyncio.to_thread(write_atomically, self._file, self.model_dump_json() + "\n")
        except OSError as error:
            LOGGER.exception("state not written", extra={"fields": {"error": str(error)}})
            return False
        return True


def proves_a_fault(error: Exception) -> bool:
    """Whether an error shows that the checkpoint itself is at fault, on every machine and at every moment."""
    return isinstance(error, CheckpointError) and not isinstance(error, CheckpointUnavailable)
