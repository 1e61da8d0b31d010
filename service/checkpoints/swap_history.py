"""What a service remembers of checkpoints over restarts, in the one file `STATE/state.json`.

- which checkpoint the next start tries first;
- which checkpoints were refused, and why;
- which checkpoints an engine was loading when it, or the whole process, died. Loading a checkpoint may kill the process
  that notes it, so the note is on disk before the engine is touched.

Checkpoints are named by `screening.checkpoint.seal.verdict_key` and not by their digest: a verdict on a copy with
damaged probes says nothing about the intact checkpoint of the same digest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from screening.errors import CheckpointError, CheckpointUnavailable
from screening.runtime.atomic_write import write_atomically

LOGGER = logging.getLogger("service.checkpoints.swap_history")

MAX_REFUSED = 64
"""Maximum number of refused checkpoints that are remembered."""
MAX_ATTEMPTS = 2
"""Number of times that an engine may be lost while it loads a checkpoint. After that the checkpoint is refused."""


class State(BaseModel):
    """The content of `state.json`."""

    served: str | None = None
    """Key of the checkpoint that the next start tries first."""
    refused: dict[str, str] = {}
    """Key → reason, the latest last."""
    attempts: dict[str, int] = {}
    """Key → how often an engine was lost while it loaded that checkpoint, an attempt under way included."""


@dataclass(slots=True)
class Attempt:
    """One attempt at loading a checkpoint."""

    number: int
    """1 for the first."""
    engine_lost: bool = False
    """Whether the engine was lost. If so, the attempt counts against the checkpoint."""


class SwapHistory:
    """Keeps `state.json`. A write that fails (a full disk) is logged, and the service continues."""

    def __init__(self, state: Path) -> None:
        self._file = state / "state.json"
        noted = _read(self._file)
        self.next_start = noted.served
        """Key of the checkpoint that the next start tries first; None for the one that is served."""
        self.refused = noted.refused
        """Key → reason, the latest last."""
        self._attempts = noted.attempts
        for key, times in list(self._attempts.items()):
            if times >= MAX_ATTEMPTS:
                self.refuse(key, f"the service ended {times} times while it loaded this checkpoint")

    def refuse(self, key: str, reason: str) -> None:
        """Do not try this checkpoint again."""
        self._attempts.pop(key, None)
        self.refused[key] = reason
        if key == self.next_start:
            self.next_start = None
        while len(self.refused) > MAX_REFUSED:
            del self.refused[next(iter(self.refused))]

    def accept(self, key: str) -> None:
        """Forget the refusal and the attempts of this checkpoint: an engine has loaded it and passed its probes."""
        self.refused.pop(key, None)
        self._attempts.pop(key, None)

    @asynccontextmanager
    async def attempt(self, key: str) -> AsyncIterator[Attempt]:
        """Note on disk that an engine is about to load this checkpoint, for the time of the block.

        If the block fails, the note is taken back unless the block has set `engine_lost`.
        """
        attempt = Attempt(self._attempts.get(key, 0) + 1)
        self._attempts[key] = attempt.number
        await self.save()
        try:
            yield attempt
        except BaseException:  # also when the service ends and the task is cancelled
            if key in self._attempts and not attempt.engine_lost:
                self._attempts[key] -= 1
                await self.save()
            raise

    async def save(self) -> bool:
        """Write everything to the disk. Returns whether this succeeded."""
        attempts = {key: times for key, times in self._attempts.items() if times}
        state = State(served=self.next_start, refused=self.refused, attempts=attempts)
        try:
            await asyncio.to_thread(write_atomically, self._file, state.model_dump_json() + "\n")
        except OSError as error:
            LOGGER.exception("state not written", extra={"fields": {"error": str(error)}})
            return False
        return True


def proves_a_fault(error: Exception) -> bool:
    """Whether an error shows that the checkpoint itself is at fault, on every machine and at every moment."""
    return isinstance(error, CheckpointError) and not isinstance(error, CheckpointUnavailable)


def _read(file: Path) -> State:
    """The state of an earlier run; an empty one if the file is missing or damaged."""
    try:
        return State.model_validate_json(file.read_bytes())
    except (OSError, ValueError):
        return State()
