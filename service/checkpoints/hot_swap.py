"""The verified hot swap: the service replaces its checkpoint under load, completely or not at all.

    copy and verify → compare with the served checkpoint → close the gate → wait until no request runs
    → reload the weights in place → verify them by the probes → open the gate

Requests that were admitted wait at the gate while their deadlines run. None fails because of the swap, and none is
answered by two sets of weights. If the engine rejects the weights or fails the probes, the swap reloads the old weights
and verifies them in the same way; if that fails too, it restarts the engine on the old checkpoint.

A checkpoint that cannot be loaded in place (another tokenizer or architecture), or that may differ only by the rounding
of another kind of machine, is loaded by an engine restart (service/checkpoints/engine_restart.py).
docs/decisions/hot-swap.md has the diagram of all states.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Literal, NoReturn

from pydantic import ConfigDict

from screening.checkpoint.manifest import Manifest
from screening.checkpoint.seal import verdict_key
from screening.errors import CheckpointDamaged, CheckpointError, CheckpointUnavailable
from service.checkpoints.engine_restart import restart
from service.checkpoints.served import Copy, ServedCheckpoint
from service.checkpoints.swap_history import Attempt, proves_a_fault
from service.checkpoints.swap_preparation import prepare
from service.checkpoints.verification import MayBeRounding, Verified
from service.errors import CheckpointRefused, EngineLost, ServiceError, SwapBusy
from service.logs import log
from service.timings import milliseconds_since

LOGGER = logging.getLogger("service.checkpoints.hot_swap")

MAX_REMEMBERED = 64
"""Maximum number of past swaps that are remembered."""

How = Literal["unchanged", "in place", "rebuilt"]


@dataclass(frozen=True, slots=True)
class Swap:
    """One swap that succeeded."""

    __pydantic_config__: ClassVar = ConfigDict(use_attribute_docstrings=True)

    digest: str
    """SHA-256 of the manifest of the checkpoint that is served since this swap."""
    version: str
    """Version of that checkpoint."""
    previous: str
    """SHA-256 of the manifest of the checkpoint that was served before."""
    how: How
    """`in place`: the running engine loaded the weights; `rebuilt`: the engine was restarted; `unchanged`: the
    checkpoint was served already."""
    prepare_ms: float
    """Time for copying and verifying, while requests were answered."""
    drain_ms: float
    """Time from closing the gate until no request ran."""
    closed_ms: float
    """Time from then until the gate was open again."""
    load_ms: float
    """Part of `closed_ms` that loading the weights, or restarting the engine, took."""
    proof_ms: float
    """Part of `closed_ms` that verifying the weights took."""
    deviation: float
    """Largest difference between a recorded log-probability of a probe and the one found."""
    at: float
    """Unix time of the end of the swap."""


class HotSwap:
    """Replaces the served checkpoint. Only one swap runs at a time."""

    def __init__(self, served: ServedCheckpoint) -> None:
        self.served = served
        self._engine = served.engine
        self._admission = served.admission
        self._metrics = served.metrics
        self._settings = served.settings
        self._history = served.history
        self.swaps: deque[Swap] = deque(maxlen=MAX_REMEMBERED)
        """Swaps that succeeded, the oldest first."""

    async def swap_to(self, source: Path, *, digest: str | None = None, retry: bool = False) -> Swap:
        """Serve another checkpoint.

        Args:
            source: the published directory.
            digest: the digest that the registry gives; a checkpoint that is at fault is then remembered as refused.
            retry: whether to try a checkpoint that was refused before.

        Raises:
            SwapBusy: the swap is not possible now.
            CheckpointRefused: the checkpoint cannot be served; the service keeps the one it had.
        """
        if self.served.busy:
            raise SwapBusy("The service is loading another checkpoint, or the engine is restarting.")
        self._require_not_ending()
        async with self.served.swap_lock:
            try:
                return await self._swap_to(source, digest, retry=retry)
            except CheckpointRefused as error:
                self._metrics.swaps.labels("refused").inc()
                log(LOGGER, logging.WARNING, "checkpoint refused", source=str(source), error=str(error))
                raise
            finally:
                await self.served.settle()  # also deletes the copy of a checkpoint that was refused

    async def _swap_to(self, source: Path, digest: str | None, *, retry: bool) -> Swap:
        began, old = time.perf_counter(), self.served.now
        offered: Manifest | None = None
        try:
            offered = await self.served.look(source, digest)
            new, in_place = await prepare(self.served, source, offered, retry=retry)
        except CheckpointError as error:
            # Another copy of the same checkpoint, or this one once it is complete, may be good.
            may_heal = isinstance(error, CheckpointUnavailable | CheckpointDamaged)
            if digest is not None and offered is not None and not may_heal:
                self._history.refuse(verdict_key(offered), str(error))
            raise CheckpointRefused(str(error)) from error
        prepare_ms = milliseconds_since(began)
        async with self.served.engine_lock:  # From here on, the restart of a lost engine waits for the swap.
            if new.manifest.digest == old.manifest.digest:
                await self._update_probes(new, old)
                self._history.fell_back = False
                return self._record("unchanged", new, old, prepare_ms=prepare_ms)
            try:
                async with self._history.attempt(new.key) as attempt:
                    return await self._load_behind_gate(new, old, attempt, in_place=in_place, prepare_ms=prepare_ms)
            except CheckpointRefused as error:
                self._history.refuse(new.key, str(error))
                raise

    async def _update_probes(self, new: Copy, old: Copy) -> None:
        """Take over probes that were recorded again for the served checkpoint, if the engine passes them.

        Raises:
            CheckpointRefused: the engine fails them; the old probes stay.
            SwapBusy: the engine was lost meanwhile, or is too slow.
        """
        if new.manifest.probes == old.manifest.probes:
            return
        verifier, before = self.served.verifier, old.manifest
        # Probes that pass by rounding replace those that do no better, and never those that are repeated.
        allow_rounding = before.probes is None or verifier.passed_by_rounding(before)
        try:
            async with asyncio.timeout(self._settings.swap_reload_seconds):
                await verifier.verify(new.manifest, allow_rounding=allow_rounding)
        except Exception as error:  # Whatever it is, the old probes stay.
            lost = isinstance(error, TimeoutError | EngineLost) or not self._engine.alive
            if lost and not proves_a_fault(error):
                raise SwapBusy(f"The engine did not answer the new probes ({_reason(error)}).") from error
            reason = _reason(error)
            raise CheckpointRefused(f"It is served already, and it fails its new probes: {reason}") from error
        self.served.copy = new

    async def _load_behind_gate(
        self, new: Copy, old: Copy, attempt: Attempt, *, in_place: bool, prepare_ms: float
    ) -> Swap:
        """Close the gate, load the new weights, and open it on verified weights: the new ones or the old ones."""
        patience, closing = self._settings.swap_drain_seconds, time.perf_counter()
        async with self._admission.gate_closed(patience) as idle:
            self._require_not_ending()
            if not idle:
                raise SwapBusy(f"Requests in flight did not end within {patience:g} s.")
            if not self._engine.alive:
                raise SwapBusy("The engine was lost and is restarting.", self._admission.ready_in())
            drain_ms, closed = milliseconds_since(closing), time.perf_counter()
            try:
                verified, in_place = await self._load(new, in_place=in_place)
            except Exception as error:  # noqa: BLE001 - the old weights must be back before the gate opens
                await self._roll_back(new, old, attempt, error, in_place=in_place)
            self.served.becomes(new)
        times = {"prepare_ms": prepare_ms, "drain_ms": drain_ms, "closed_ms": milliseconds_since(closed)}
        return self._record("in place" if in_place else "rebuilt", new, old, verified, **times)

    async def _load(self, new: Copy, *, in_place: bool) -> tuple[Verified, bool]:
        """Load and verify the new weights; also returns whether this succeeded in place."""
        if in_place:
            try:
                return await self._reload(new), True
            except MayBeRounding as error:
                log(LOGGER, logging.INFO, "engine restart needed", digest=new.manifest.digest, reason=str(error))
        return await restart(self.served, new, "swap"), False

    async def _reload(self, copy: Copy) -> Verified:
        async with asyncio.timeout(self._settings.swap_reload_seconds):
            reloading = self._engine.reload(copy.directory, copy.manifest)
            return await self.served.verifier.load_and_verify(copy.manifest, reloading, allow_rounding=False)

    async def _roll_back(self, new: Copy, old: Copy, attempt: Attempt, error: Exception, *, in_place: bool) -> NoReturn:
        """Load the old weights again after the new ones failed, and say why those failed.

        Raises:
            CheckpointRefused: the checkpoint is at fault, or the engine was lost again while it loaded the checkpoint.
            SwapBusy: the engine was lost, which may have had another cause: a kill, or a slow machine.
        """
        self._log_failure("swap failed", new, error)
        # An engine that died or hangs would not load the old weights either.
        lost = isinstance(error, TimeoutError) or not self._engine.alive
        lost |= await self._load_old(old, in_place=in_place and not lost)
        if lost and not proves_a_fault(error):
            attempt.engine_lost = not self.served.ending
            self._require_not_ending()
            if not attempt.is_last:
                raise SwapBusy(f"The engine was lost while it loaded the checkpoint ({_reason(error)}).") from error
        raise CheckpointRefused(_reason(error)) from error

    async def _load_old(self, old: Copy, *, in_place: bool) -> bool:
        """Load and verify the old weights: in place if possible, else by an engine restart.

        If the restart fails as well, no engine runs, and the supervisor keeps trying.

        Returns:
            Whether the engine turned out to be dead. Its death may be noticed later than its first failure.
        """
        died = False
        if in_place:
            try:
                await self._reload(old)
                self._metrics.swaps.labels("rolled_back").inc()
                return died
            except Exception as error:  # noqa: BLE001 - whatever it is, the engine restarts
                died = not self._engine.alive
                self._log_failure("roll-back failed", old, error)
        try:
            await restart(self.served, old, "roll_back")
            self._metrics.swaps.labels("rebuilt_back").inc()
        except Exception as error:  # noqa: BLE001 - the caller must learn why the new checkpoint was refused
            self._log_failure("engine restart failed", old, error)
        return died

    def _require_not_ending(self) -> None:
        """
        Raises:
            SwapBusy: the service is about to end; the requests in it must not wait for a swap.
        """
        if self.served.ending or self._admission.draining:
            raise SwapBusy("The service is about to end.")

    def _log_failure(self, event: str, copy: Copy, error: Exception) -> None:
        """Log a failure with its traceback, or, if the end of the service caused it, one line for all that follows."""
        if not self.served.ending:
            fields = {"digest": copy.manifest.digest, "error": str(error)}
            LOGGER.error(event, exc_info=error, extra={"fields": fields})
        elif event == "swap failed":
            log(LOGGER, logging.INFO, "swap given up: the service ends", digest=copy.manifest.digest)

    def _record(self, how: How, new: Copy, old: Copy, verified: Verified | None = None, **times: float) -> Swap:
        """Remember a swap that succeeded, and put it into the metrics and the log.

        Args:
            times: `prepare_ms`, `drain_ms` and `closed_ms`.
        """
        fields = {"drain_ms": 0.0, "closed_ms": 0.0} | times | asdict(verified or Verified())
        identity = new.manifest.digest, new.manifest.version, old.manifest.digest
        swap = Swap(*identity, how, at=time.time(), **fields)
        self.swaps.append(swap)
        self._metrics.swaps.labels(how.replace(" ", "_")).inc()
        if how != "unchanged":
            self._metrics.swap_closed.observe(swap.closed_ms / 1000)
        log(LOGGER, logging.INFO, "swap", how=how, digest=swap.digest, closed_ms=swap.closed_ms, drain_ms=swap.drain_ms)
        return swap


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "the engine did not load it in time"
    has_sentence = isinstance(error, CheckpointError | ServiceError)
    return str(error) if has_sentence else f"{type(error).__name__}: {error}"
