"""What a service remembers of checkpoints over restarts, in the one file `STATE/state.json`.

- which checkpoint the next start tries first;
- which checkpoints were refused, and why;
- which checkpoints an engine was loading when it, or the whole process, died. Loading a checkpoint may kill the process
  that notes it, so the note is on disk before the engine is touched.

A verdict holds for everything that was judged: the files, the probes and the rest of the manifest. Its key is therefore
`screening.checkpoint.seal.verdict_key` and not the digest: the verdict on a copy with damaged probes says nothing about
the intact checkpoint of the same digest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from screening.checkpoint.manifest import Manifest
from screening.checkpoint.seal import digest_in
from screening.errors import CheckpointError, CheckpointUnavailable
from screening.runtime.atomic_write import write_atomically
from service.checkpoints.local_store import LocalStore

LOGGER = logging.getLogger("service.checkpoints.swap_history")

MAX_REFUSED = 64
"""Maximum number of refused checkpoints that are remembered."""
MAX_ATTEMPTS = 2
"""Number of times that an engine may be lost while it loads a checkpoint. After that the checkpoint is refused."""


class State(BaseModel):
    """The content of `state.json`."""

    served: str | None = None
    """Digest of the checkpoint that the next start tries first."""
    refused: dict[str, str] = {}
    """Verdict key → reason."""
    attempts: dict[str, int] = {}
    """Verdict key → how often an engine was lost while it loaded that checkpoint, an attempt under way included."""


@dataclass(slots=True)
class Attempt:
    """One attempt at loading a checkpoint."""

    number: int
    """1 for the first."""
    engine_lost: bool = False
    """Whether the engine was lost. If so, the attempt counts against the checkpoint."""

    @property
    def is_last(self) -> bool:
        return self.number >= MAX_ATTEMPTS


class SwapHistory:
    """Keeps `state.json`. A write that fails (a full disk) is logged, and the service continues."""

    def __init__(self, state: Path, store: LocalStore) -> None:
        self._file = state / "state.json"
        self._store = store
        noted = _read(self._file)
        self.next_start = noted.served
        """Digest of the checkpoint that the next start tries first."""
        self.fell_back = False
        """Whether another checkpoint is served only because `next_start` could not be started, for a reason that is not
        the checkpoint's own fault."""
        self.refused = noted.refused
        """Verdict key → reason, the latest last."""
        self._attempts = noted.attempts
        for key, times in list(self._attempts.items()):
            if times >= MAX_ATTEMPTS:
                self.refuse(key, f"the service ended {times} times while it loaded this checkpoint")

    def refuse(self, key: str, reason: str) -> None:
        """Do not try this checkpoint again. `settle` writes the verdict to the disk."""
        self._attempts.pop(key, None)
        self.refused[key] = reason
        if digest_in(key) == self.next_start:
            self.fell_back = False
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
        await asyncio.to_thread(self._save, self._state())
        try:
            yield attempt
        except BaseException:  # also when the service ends and the task is cancelled
            if key in self._attempts and not attempt.engine_lost:
                self._attempts[key] -= 1
                if not self._attempts[key]:
                    del self._attempts[key]
                await asyncio.to_thread(self._save, self._state())
            raise

    async def settle(self, served: Manifest) -> None:
        """Write to the disk what is served and what is remembered, and then delete the copies that nothing needs.

        This may take long, so call it when requests are admitted again.
        """
        if not self.fell_back:
            self.next_start = served.digest
        await asyncio.to_thread(self._settle, served, self._state(), {served.digest, self.next_start or served.digest})

    def _settle(self, served: Manifest, state: State, needed: set[str]) -> None:
        if not self._save(state, served):
            self._store.keep_only(needed)  # That may free enough of a full disk.
            self._save(state, served)
        self._store.keep_only(needed)

    def _state(self) -> State:
        return State(served=self.next_start, refused=dict(self.refused), attempts=dict(self._attempts))

    def _save(self, state: State, served: Manifest | None = None) -> bool:
        """Whether the state, and the manifest of the copy that is served, could be written."""
        try:
            if served is not None:
                self._store.update_manifest(served)
            if state != _read(self._file):
                write_atomically(self._file, state.model_dump_json() + "\n")
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
