"""Another checkpoint goes live like a transaction: proved before anyone is let in, or not at all.

    copy and verify → compare with what is served → close the gate → wait until nothing runs
    → reload the weights in place → prove them by the probes → open the gate

Requests that are inside wait at the gate, their deadlines running; none fails, and none sees two sets of weights. When
the engine refuses the weights or the probes differ, the old weights go back and are proved in the same way; when that
fails too, the engine is built anew on the old checkpoint. A checkpoint that cannot be taken up in place (another
tokenizer, another architecture), or is not proved there because another kind of machine recorded its probes, is taken
up by building the engine anew (service/checkpoints/engine_restart.py).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import ConfigDict

from screening.checkpoint.manifest import Manifest
from screening.checkpoint.seal import judged_as
from screening.checkpoint.weights import changed_files, compare_tensors, read_tensors
from screening.errors import CheckpointDamaged, CheckpointError, CheckpointUnavailable
from service.checkpoints.engine_restart import rebuild
from service.checkpoints.served import Copy, ServedCheckpoint
from service.checkpoints.swap_history import proves_a_fault
from service.checkpoints.verification import NotRepeated, Proved
from service.errors import CheckpointRefused, EngineLost, ServiceError, SwapBusy
from service.logs import log
from service.timings import milliseconds_since

LOGGER = logging.getLogger("service.checkpoints.hot_swap")

REMEMBERED = 64
"""Past swaps that are remembered."""

How = Literal["unchanged", "in place", "rebuilt"]


@dataclass(frozen=True, slots=True)
class Swap:
    """One swap that succeeded."""

    __pydantic_config__: ClassVar = ConfigDict(use_attribute_docstrings=True)

    digest: str
    """SHA-256 of the manifest of the checkpoint served since."""
    version: str
    """Its version."""
    previous: str
    """SHA-256 of the manifest of the checkpoint served before."""
    how: How
    """`in place`: weights loaded into the running engine; `rebuilt`: a new engine; `unchanged`: served already."""
    prepare_ms: float
    """Copying and verifying, while requests were answered."""
    drain_ms: float
    """From closing the gate until nothing ran."""
    closed_ms: float
    """From then until the gate was open again."""
    load_ms: float
    """Of that, loading the weights, or a new engine."""
    proof_ms: float
    """And proving them."""
    deviation: float
    """Largest difference between a probe's log-probability and the one found."""
    at: float
    """Unix time of its end."""


class HotSwap:
    """Swaps, one at a time."""

    def __init__(self, served: ServedCheckpoint) -> None:
        self.served = served
        self._engine = served.engine
        self._admission = served.admission
        self._metrics = served.metrics
        self._settings = served.settings
        self._memory = served.memory
        self.swaps: deque[Swap] = deque(maxlen=REMEMBERED)
        """Those that succeeded, oldest first."""

    async def take_up(self, source: Path, *, digest: str | None = None, retry: bool = False) -> Swap:
        """Make a checkpoint the one that is served.

        Args:
            digest: what the registry says that it is; a directory that is at fault is then remembered as refused.
            retry: try it even if it was refused before.

        Raises:
            SwapBusy: not now.
            CheckpointRefused: it is not taken up; what was served is served on.
        """
        if self.served.busy:
            raise SwapBusy("Another checkpoint is being taken up, or the engine is being built anew.")
        self._refuse_to_drain()
        async with self.served.taking_up:
            try:
                return await self._take_up(source, digest, retry=retry)
            except CheckpointRefused as error:
                self._metrics.swaps.labels("refused").inc()
                log(LOGGER, logging.WARNING, "checkpoint refused", source=str(source), error=str(error))
                raise
            finally:
                await self.served.tidy()  # it was taken up, or only copied

    def needs_new_engine(self, offered: Manifest) -> bool:
        """Whether it cannot go in place, as its manifest tells.

        Where weights in place turn out not to repeat their probes a new engine is built as well; nothing tells before.
        """
        return bool(_changed(self.served.manifest, offered))

    async def _take_up(self, source: Path, digest: str | None, *, retry: bool) -> Swap:
        began, old = time.perf_counter(), self.served.now
        offered: Manifest | None = None
        try:
            offered = await self.served.look(source, digest)
            new, in_place = await self._prepare(source, offered, retry=retry)
        except CheckpointError as error:
            # Another copy of the same checkpoint, or this one when it is whole, may be good.
            may_heal = isinstance(error, CheckpointUnavailable | CheckpointDamaged)
            if digest is not None and offered is not None and not may_heal:
                self._memory.refuse(judged_as(offered), str(error))
            raise CheckpointRefused(str(error)) from error
        prepare_ms = milliseconds_since(began)
        async with self.served.lock:  # from here on an engine that is lost waits to be built anew
            if new.manifest.digest == old.manifest.digest:
                await self._adopt(new, old)
                self._memory.spared = None
                return self._done("unchanged", new, old, Proved(), prepare_ms)
            try:
                await self._memory.attempt(new.judged)
                return await self._switch(new, old, in_place=in_place, prepare_ms=prepare_ms)
            except asyncio.CancelledError:  # the process ends, and not because of this checkpoint
                self._memory.survived(new.judged)
                raise
            except CheckpointRefused as error:
                self._memory.refuse(new.judged, str(error))
                raise

    async def _prepare(self, source: Path, offered: Manifest, *, retry: bool) -> tuple[Copy, bool]:
        """Everything that can be known before the engine is touched; and whether the weights can go in place."""
        refused = self._memory.refused.get(judged_as(offered))
        if refused is not None and not retry:
            raise CheckpointError(f"{offered.digest} was refused before: {refused}")
        if offered.probes is None:
            raise CheckpointDamaged(f"{source} carries no probes; publish it with `python -m trainer publish`")
        new, old = await self.served.take_in(source, offered), self.served.now
        if changed := _changed(old.manifest, new.manifest):
            log(LOGGER, logging.INFO, "not in place", digest=new.manifest.digest, changed=changed)
            await self._inspect(source, new)
            return new, False
        try:
            before = await asyncio.to_thread(read_tensors, old.directory, old.manifest)
        except CheckpointError as error:
            raise CheckpointUnavailable(f"The copy of what is served cannot be compared with: {error}") from error
        if difference := compare_tensors(before, await asyncio.to_thread(read_tensors, new.directory, new.manifest)):
            raise CheckpointError(f"{source} has the configuration of what is served and other tensors: {difference}")
        if _reads_otherwise(old.manifest, new.manifest):
            await self._inspect(source, new)
        try:
            async with asyncio.timeout(self._settings.swap_reload_seconds):
                await self._engine.expect(new.manifest)
        except Exception:  # whatever it is: only the proof takes longer, or finds the same fault
            LOGGER.exception("proof not prepared", extra={"fields": {"digest": new.manifest.digest}})
        return new, True

    async def _inspect(self, source: Path, new: Copy) -> None:
        """Find what would fail in any engine, while the one that serves goes on.

        Raises:
            CheckpointError: it would fail.
        """
        try:
            await self._engine.inspect(new.directory, new.manifest)
        except CheckpointError as error:
            raise type(error)(str(error).replace(str(new.directory), str(source))) from error

    async def _adopt(self, new: Copy, old: Copy) -> None:
        """What is served, with probes that were recorded anew: taken over if they prove it.

        Raises:
            CheckpointRefused: they do not; those that did are kept.
            SwapBusy: the engine was lost meanwhile, or is too slow.
        """
        if new.manifest.probes == old.manifest.probes:
            return
        prover, before = self.served.prover, old.manifest
        try:
            async with asyncio.timeout(self._settings.swap_reload_seconds):
                # What rounding alone proves takes the place of what does no better, and of nothing that is repeated.
                await prover.prove(new.manifest, may_round=before.probes is None or prover.rounded(before))
        except Exception as error:  # whatever it is, the old probes stay
            lost = isinstance(error, TimeoutError | EngineLost) or not self._engine.alive
            if lost and not proves_a_fault(error):
                raise SwapBusy(f"Its new probes were not answered ({_reason(error)}).") from error
            reason = _reason(error)
            raise CheckpointRefused(f"It is served already, and its new probes do not prove it: {reason}") from error
        self.served.copy = new

    async def _switch(self, new: Copy, old: Copy, *, in_place: bool, prepare_ms: float) -> Swap:
        """Behind the closed gate. Leaves it open on what is proved, the new weights or the old."""
        judged, patience = new.judged, self._settings.swap_drain_seconds
        closing = time.perf_counter()
        async with self._admission.gate_closed(patience) as idle:
            try:
                self._refuse_to_drain()
                if not idle:
                    raise SwapBusy(f"Requests in flight did not end within {patience:g} s.")
                if not self._engine.alive:
                    raise SwapBusy("The engine was lost and is built anew.", self._admission.ready_in())
            except SwapBusy:
                self._memory.survived(judged)  # it has not been touched
                raise
            drain_ms, closed = milliseconds_since(closing), time.perf_counter()
            try:
                proved, in_place = await self._load(new, in_place=in_place)
            except Exception as error:  # whatever went wrong, the old weights must be back before the gate opens
                self._log_failure("swap failed", new, error)
                # An engine that is dead or hangs would not take the old weights either. Neither is a fault of the new
                # ones yet: somebody may have killed it at that very moment, or the machine was slow.
                lost = isinstance(error, TimeoutError) or not self._engine.alive
                lost |= await self._go_back(old, in_place=in_place and not lost)
                if lost and not proves_a_fault(error):
                    if self.served.ending:
                        self._memory.survived(judged)
                    self._refuse_to_drain()
                    if self._memory.may_try_again(judged):
                        raise SwapBusy(f"The engine was lost while it took it up ({_reason(error)}).") from error
                raise CheckpointRefused(_reason(error)) from error
            self.served.becomes(new)
            self._memory.spared = None
        how: How = "in place" if in_place else "rebuilt"
        return self._done(how, new, old, proved, prepare_ms, drain_ms, milliseconds_since(closed))

    async def _load(self, copy: Copy, *, in_place: bool) -> tuple[Proved, bool]:
        """Have the engine take and prove it; and whether it did in place in the end."""
        if in_place:
            try:
                return await self._reload(copy), True
            except NotRepeated as error:
                log(LOGGER, logging.INFO, "not repeated", digest=copy.manifest.digest, reason=str(error))
        return await rebuild(self.served, copy, "swap"), False

    def _refuse_to_drain(self) -> None:
        """
        Raises:
            SwapBusy: the service is about to end; those inside must not wait for a swap.
        """
        if self.served.ending or self._admission.draining:
            raise SwapBusy("The service is about to end.")

    async def _reload(self, copy: Copy) -> Proved:
        async with asyncio.timeout(self._settings.swap_reload_seconds):
            reloading = self._engine.reload(copy.directory, copy.manifest)
            return await self.served.prover.load_and_prove(copy.manifest, reloading, may_round=False)

    async def _go_back(self, old: Copy, *, in_place: bool) -> bool:
        """The old weights again, proved; by a new engine if they cannot be put back into this one.

        When that fails as well the engine is lost, and the supervisor goes on trying.

        Returns:
            Whether the engine was found dead on the way: its death may be heard of later than its first failure.
        """
        died = False
        if in_place and old.manifest.probes is not None:
            try:
                await self._reload(old)
                self._metrics.swaps.labels("rolled_back").inc()
                return died
            except Exception as error:  # noqa: BLE001 - an engine that takes neither is beyond repair
                died = not self._engine.alive
                self._log_failure("roll-back failed", old, error)
        try:
            await rebuild(self.served, old, "roll_back")
        except Exception as error:  # noqa: BLE001 - the caller must hear why the new checkpoint was refused
            self._log_failure("rebuild failed", old, error)
            return died
        self._metrics.swaps.labels("rebuilt_back").inc()
        return died

    def _log_failure(self, event: str, copy: Copy, error: Exception) -> None:
        """With a traceback; at the end of the service, which stops the engine under a swap, as one plain line."""
        if not self.served.ending:
            fields = {"digest": copy.manifest.digest, "error": str(error)}
            LOGGER.error(event, exc_info=error, extra={"fields": fields})
        elif event == "swap failed":  # what follows from it is said with it
            log(LOGGER, logging.INFO, "swap given up: the service ends", digest=copy.manifest.digest)

    def _done(
        self,
        how: How,
        new: Copy,
        old: Copy,
        proved: Proved,
        prepare_ms: float,
        drain_ms: float = 0.0,
        closed_ms: float = 0.0,
    ) -> Swap:
        """Remember it, and say so in metrics and log."""
        digest, version = new.manifest.digest, new.manifest.version
        swap = Swap(
            digest,
            version,
            old.manifest.digest,
            how,
            prepare_ms,
            drain_ms,
            closed_ms,
            proved.load_ms,
            proved.proof_ms,
            proved.deviation,
            time.time(),
        )
        self.swaps.append(swap)
        self._metrics.swaps.labels(how.replace(" ", "_")).inc()
        if how != "unchanged":
            self._metrics.swap_closed.observe(closed_ms / 1000)
        log(LOGGER, logging.INFO, "swap", how=how, digest=digest, closed_ms=closed_ms, drain_ms=drain_ms)
        return swap


def _reason(error: Exception) -> str:
    ours = isinstance(error, CheckpointError | ServiceError)  # sentences that a person can read
    if isinstance(error, TimeoutError):
        return "the engine did not take it up in time"
    return str(error) if ours else f"{type(error).__name__}: {error}"


def _changed(old: Manifest, new: Manifest) -> list[str]:
    """What an engine learns at its start only."""
    # How pictures become tiles is told to it then.
    return changed_files(old, new) or (["image"] if old.image != new.image else [])


def _reads_otherwise(old: Manifest, new: Manifest) -> bool:
    """Whether questions become other tokens, or may have longer answers, than with what is served.

    With the same files they do not, unless the prompt differs or one of the manifests is wrong about it.
    """
    if old.probes is None or new.probes is None or old.probes.reading != new.probes.reading:
        return True
    return old.prompt != new.prompt or old.decoding != new.decoding
