"""The verified hot swap: the service replaces its checkpoint under load, completely or not at all.

    copy and verify → compare with the served checkpoint → close the gate → wait until no request runs
    → reload the weights in place → verify them by the probes → open the gate

Requests that were admitted wait at the gate while their deadlines run. If the engine rejects the weights or fails the
probes, the swap reloads the old weights and verifies them in the same way; if that fails too, it restarts the engine on
the old checkpoint. A checkpoint that cannot be loaded in place (another tokenizer or architecture), or that may differ
by the rounding of another kind of machine, needs an engine restart. docs/decisions/hot-swap.md has all states.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from screening.errors import CheckpointError
from service.checkpoints.engine_start import restart
from service.checkpoints.local_store import Copy
from service.checkpoints.served import ServedCheckpoint
from service.checkpoints.swap_history import proves_a_fault
from service.checkpoints.swap_preparation import prepare
from service.checkpoints.verification import MayBeRounding, Verified
from service.errors import CheckpointRefused, EngineLost, ServiceError, SwapBusy
from service.logs import log
from service.timings import milliseconds_since

LOGGER = logging.getLogger("service.checkpoints.hot_swap")

MAX_REMEMBERED = 64
"""Maximum number of past swaps that are remembered."""
ENDING = "The service is about to end."

How = Literal["unchanged", "in_place", "restarted"]


class Swap(BaseModel):
    """One swap that succeeded."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    digest: str
    """Digest of the checkpoint that is served since this swap: SHA-256 over everything that decides its answers; probes
    and descriptive fields are left out."""
    version: str
    """Version of that checkpoint."""
    previous: str
    """Digest of the checkpoint that was served before."""
    how: How
    """`in_place`: the running engine loaded the weights; `restarted`: the engine was restarted; `unchanged`: the
    checkpoint was served already."""
    prepare_ms: float
    """Time for copying and verifying, while requests were answered."""
    drain_ms: float
    """Time from closing the gate until no request ran."""
    pause_ms: float
    """Time from then until the gate was open again."""
    load_ms: float
    """Part of `pause_ms` that loading the weights, or restarting the engine, took."""
    verify_ms: float
    """Part of `pause_ms` that verifying the weights took."""
    deviation: float
    """Largest difference between a recorded log-probability of a probe and the one found."""
    at: float
    """Unix time of the end of the swap."""


class HotSwap:
    """Replaces the served checkpoint. Only one swap runs at a time."""

    def __init__(self, served: ServedCheckpoint) -> None:
        self.served = served
        self._engine = served.engine
        self._metrics = served.metrics
        self.swaps: deque[Swap] = deque(maxlen=MAX_REMEMBERED)
        """Swaps that succeeded, the oldest first."""
        self._order: asyncio.Task[Swap] | None = None
        """The last order, from its start until everything is settled."""
        self._work: asyncio.Task[Swap] | None = None
        """The part of it that ends when the service does."""

    @property
    def busy(self) -> bool:
        """Whether a swap or an engine restart is under way."""
        return self.served.engine_lock.locked() or (self._order is not None and not self._order.done())

    async def swap_to(self, source: Path, *, digest: str | None = None, retry: bool = False) -> Swap:
        """Serve the checkpoint that is published in `source`. The swap continues if the caller is cancelled.

        Args:
            digest, retry: see `service.checkpoints.swap_preparation.prepare`.

        Raises:
            SwapBusy: the swap is not possible now.
            CheckpointRefused: the checkpoint cannot be served; the service keeps the one it had.
        """
        if self.busy:
            raise SwapBusy("The service is loading another checkpoint, or the engine is restarting.")
        self._work = asyncio.create_task(self._swap_to(source, digest, retry=retry))
        self._order = asyncio.create_task(self._finish(self._work, source))
        # If the caller is cancelled, no other code asks for the error, and asyncio would log it as never retrieved.
        self._order.add_done_callback(lambda order: order.cancelled() or order.exception())
        return await asyncio.shield(self._order)

    async def end(self) -> None:
        """Give up a swap that is under way, because the service ends. It admits no request any more."""
        if self._work is not None and self._order is not None:
            self._work.cancel()
            await asyncio.wait({self._order})

    async def _finish(self, work: asyncio.Task[Swap], source: Path) -> Swap:
        try:
            return await work
        except CheckpointRefused as error:
            self._metrics.swaps.labels("refused").inc()
            log(LOGGER, logging.WARNING, "checkpoint refused", source=str(source), error=str(error))
            raise
        except asyncio.CancelledError:
            log(LOGGER, logging.INFO, "swap given up: the service ends", source=str(source))
            raise SwapBusy(ENDING) from None
        finally:
            await self.served.settle()  # also deletes the copy of a checkpoint that was refused

    async def _swap_to(self, source: Path, digest: str | None, *, retry: bool) -> Swap:
        served, began, old = self.served, time.perf_counter(), self.served.now
        try:
            new, in_place = await prepare(served, source, digest, retry=retry)
        except CheckpointError as error:
            raise CheckpointRefused(str(error)) from error
        swap = Swap(
            digest=new.manifest.digest, version=new.manifest.version, previous=old.manifest.digest, how="unchanged",
            prepare_ms=milliseconds_since(began), drain_ms=0, pause_ms=0, load_ms=0, verify_ms=0, deviation=0, at=0,
        )  # fmt: skip
        if new.key == old.key:
            served.becomes(old)
        else:
            # From here on, the restart of a lost engine waits for the swap.
            async with served.engine_lock, served.history.while_loading(new.key):
                await self._swap_behind_gate(swap, new, old, in_place=in_place)
        self._record(swap)
        return swap

    async def _swap_behind_gate(self, swap: Swap, new: Copy, old: Copy, *, in_place: bool) -> None:
        """Close the gate, load the new weights, and open it on verified weights: the new ones or the old ones."""
        admission, closing = self.served.admission, time.perf_counter()
        patience = self.served.settings.swap_drain_seconds
        async with admission.gate_closed(patience) as idle:
            if admission.draining:
                raise SwapBusy(ENDING)  # The requests in the service must not wait for a swap.
            if not idle:
                raise SwapBusy(f"Requests in flight did not end within {patience:g} s.")
            if not self._engine.alive:
                raise SwapBusy("The engine was lost and is restarting.", admission.ready_in())
            swap.drain_ms, closed = milliseconds_since(closing), time.perf_counter()
            try:
                verified, swap.how = await self._load_or_roll_back(new, old, in_place=in_place)
            except asyncio.CancelledError:
                await self._engine.stop()  # The service ends. The weights in the engine may not be verified.
                raise
            self.served.becomes(new)
        swap.load_ms, swap.verify_ms, swap.deviation = verified
        swap.pause_ms = milliseconds_since(closed)

    async def _load_or_roll_back(self, new: Copy, old: Copy, *, in_place: bool) -> tuple[Verified, How]:
        """Load and verify the new weights. If that fails, load the old ones again, in place or by an engine restart.

        Raises:
            CheckpointRefused: the checkpoint is at fault, or the engine was lost again while it loaded the checkpoint.
            SwapBusy: the engine was lost, which may have had another cause: a kill, or a slow machine.
        """
        try:
            return await self._load(new, old, in_place=in_place)
        except Exception as error:  # Whatever it is, the old weights must be back before the gate opens.
            _log_failure("swap failed", new, error)
            # An engine that died or hangs would not load the old weights either.
            lost = isinstance(error, TimeoutError | EngineLost) or not self._engine.alive
            rolled_back = in_place and not lost and await self._put_back(old, self._reload(old), "rolled_back")
            lost |= not self._engine.alive  # Its death may be noticed later than its first failure.
            if not rolled_back:
                await self._put_back(old, restart(self.served, old, "rollback"), "rolled_back_by_restart")
            reason = _reason(error)
            if lost and not proves_a_fault(error) and not self.served.history.count_loss(new.key):
                why = "" if isinstance(error, EngineLost) else f" ({reason})"
                raise SwapBusy(f"The engine was lost while it loaded the checkpoint{why}.") from error
            self.served.history.refuse(new.key, reason)
            raise CheckpointRefused(reason) from error

    async def _load(self, new: Copy, old: Copy, *, in_place: bool) -> tuple[Verified, How]:
        if in_place:
            try:
                return await self._reload(new), "in_place"
            except MayBeRounding as error:
                new_probes_only = new.manifest.digest == old.manifest.digest
                if new_probes_only and not self.served.verifier.passed_by_rounding(old.manifest):
                    raise  # The served probes are repeated, which is the stronger verification.
                log(LOGGER, logging.INFO, "engine restart needed", digest=new.manifest.digest, reason=str(error))
        return await restart(self.served, new, "swap"), "restarted"

    async def _reload(self, copy: Copy) -> Verified:
        async with asyncio.timeout(self.served.settings.swap_reload_seconds):
            reloading = self._engine.reload(copy.directory, copy.manifest)
            return await self.served.verifier.load_and_verify(copy.manifest, reloading, allow_rounding=False)

    async def _put_back(self, old: Copy, loading: Awaitable[Verified], result: str) -> bool:
        """Wait until the old weights are loaded and verified. Returns whether this succeeded.

        If an engine restart fails as well, no engine runs, and the supervisor keeps trying.
        """
        try:
            await loading
        except Exception as error:  # noqa: BLE001 - the caller must learn why the new checkpoint was refused
            _log_failure("rollback failed", old, error)
            return False
        self._metrics.swaps.labels(result).inc()
        return True

    def _record(self, swap: Swap) -> None:
        swap.at = time.time()
        self.swaps.append(swap)
        self._metrics.swaps.labels(swap.how).inc()
        if swap.how != "unchanged":
            self._metrics.swap_pause.observe(swap.pause_ms / 1000)
        fields = swap.model_dump(include={"how", "digest", "pause_ms", "drain_ms"})
        log(LOGGER, logging.INFO, "swap", **fields)


def _log_failure(event: str, copy: Copy, error: Exception) -> None:
    fields = {"digest": copy.manifest.digest, "error": str(error)}
    LOGGER.error(event, exc_info=error, extra={"fields": fields})


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "the engine did not load it in time"
    if isinstance(error, EngineLost):  # its own sentence is for callers of /screen
        return "the engine ended while it loaded this checkpoint, perhaps for lack of memory"
    has_sentence = isinstance(error, CheckpointError | ServiceError)
    return str(error) if has_sentence else f"{type(error).__name__}: {error}"
