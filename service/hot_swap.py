"""Another checkpoint goes live like a transaction: proved before anyone is let in, or not at all.

    copy and verify → compare with what is served → close the gate → wait until nothing runs
    → reload the weights in place → prove them by the probes → open the gate

Requests that are inside wait at the gate, their deadlines running; none fails, and none sees two sets of weights. When
the engine refuses the weights or the probes differ, the old weights go back and are proved in the same way; when that
fails too, the engine is built anew on the old checkpoint. A checkpoint that cannot be taken up in place (another
tokenizer, another architecture) is taken up by building the engine anew, which `/readyz` announces. An engine that died
on its own is built anew in the same way (`recover`, called by service/supervisor.py).
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from screening.checkpoint import Manifest, read_manifest, store_manifest
from screening.errors import CheckpointDamaged, CheckpointError, CheckpointUnavailable
from screening.probes import deviation
from screening.weights import changed_files, compare_tensors, read_tensors
from service.admission import Admission
from service.config import Settings
from service.engine import Engine
from service.errors import CheckpointRefused, EngineLost, ServiceError, SwapBusy
from service.local_store import LocalStore
from service.logs import log
from service.metrics import Metrics
from service.swap_memory import SwapMemory

LOGGER = logging.getLogger("service.hot_swap")

REMEMBERED = 64
"""Past swaps that are remembered."""
START_ATTEMPTS = 2
"""With what was served last, before something else is served: an engine that was killed may still hold its memory."""

SWITCHING = "The service takes up another checkpoint."
LOST = "The engine was lost and is being built anew."


How = Literal["unchanged", "in place", "rebuilt"]
Cause = Literal["swap", "roll_back", "died", "hung"]
"""Why an engine is built anew."""


@dataclass(frozen=True, slots=True)
class Swap:
    """One swap that succeeded."""

    digest: str
    version: str
    previous: str
    how: How
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


@dataclass(frozen=True, slots=True)
class Proved:
    """A checkpoint that the engine holds, and has shown to hold."""

    load_ms: float = 0.0
    proof_ms: float = 0.0
    deviation: float = 0.0


@dataclass(frozen=True, slots=True)
class Copy:
    """A verified copy of a checkpoint."""

    directory: Path
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Offer:
    """A checkpoint that the registry names."""

    directory: Path
    digest: str


class HotSwap:
    """What is served, and how it changes."""

    def __init__(
        self,
        engine: Engine,
        admission: Admission,
        metrics: Metrics,
        settings: Settings,
        checkpoint: Path,
    ) -> None:
        self._engine = engine
        self._admission = admission
        self._metrics = metrics
        self._settings = settings
        self._configured = checkpoint
        self._lock = asyncio.Lock()
        state = settings.state_dir
        self.temporary: list[Path] = []
        """Directories that should not outlive this process."""
        if state is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="screening-", ignore_cleanup_errors=True)
            state = Path(self._temporary.name)
            self.temporary.append(state)
        self._store = LocalStore(state)
        self._served: Copy | None = None
        self.swaps: deque[Swap] = deque(maxlen=REMEMBERED)
        self._memory = SwapMemory(self._store)
        self._ending = False

    @property
    def serving(self) -> Manifest:
        """The manifest of what is served. Only after `start`."""
        return self._now.manifest

    @property
    def _now(self) -> Copy:
        if self._served is None:
            raise RuntimeError("nothing is served yet")
        return self._served

    @property
    def serves(self) -> bool:
        """Whether anything is served yet."""
        return self._served is not None

    @property
    def refused(self) -> dict[str, str]:
        """Digest → reason."""
        return self._memory.refused

    @property
    def busy(self) -> bool:
        return self._lock.locked()

    def end(self) -> None:
        """From here on no engine is built any more: the process is about to end."""
        self._ending = True

    async def close(self, patience: float = 5.0) -> None:
        """Leave the state directory to another process, once a swap that was under way has given up.

        One that does not give up in time keeps it until this process has ended.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(patience), self._lock:
                self._store.close()

    async def start(self, production: Callable[[], Awaitable[Offer | None]] | None = None) -> None:
        """Load what was served last, or what the registry names, or the configured checkpoint, and prove it.

        Args:
            production: asks the registry.

        Raises:
            CheckpointError: the configured checkpoint cannot be served.
        """
        if await self._start_last_served():
            return
        if not await self._start_production(production):
            await self._start(await self._take_in(self._configured))

    async def _start_last_served(self) -> bool:
        """Whether it is served now. Unless it is itself at fault, it stays what the next start tries first."""
        for _ in range(START_ATTEMPTS):
            try:
                if (last := await asyncio.to_thread(self._store.last_served)) is None:
                    return False
                await self._start(Copy(*last))
                return True
            except Exception as error:  # whatever it is, there are other checkpoints
                LOGGER.exception("last served failed", extra={"fields": {"error": str(error)}})
                await self._engine.stop()
                if _proves_a_fault(error):
                    return False
        self._memory.spared = self._store.last_digest()
        return False

    async def _start_production(self, production: Callable[[], Awaitable[Offer | None]] | None) -> bool:
        """Whether what the registry names is served now."""
        spared, self._memory.spared = self._memory.spared, None
        attempted = None
        try:
            if (copy := await self._offered(production)) is not None:
                attempted = copy.manifest.digest
                await self._memory.attempt(attempted)
                await self._start(copy)
                return True
        except asyncio.CancelledError:  # the service is told to end
            if attempted:
                self._memory.survived(attempted)
                self._memory.write_deaths()
            raise
        except Exception as error:  # whatever it is, the configured checkpoint is still there
            LOGGER.exception("production failed", extra={"fields": {"error": str(error)}})
            await self._engine.stop()
            if attempted:
                self._memory.survived(attempted)  # this process, that is
                await asyncio.to_thread(self._memory.write_deaths)
        self._memory.spared = spared
        return False

    async def _offered(self, production: Callable[[], Awaitable[Offer | None]] | None) -> Copy | None:
        offer = await production() if production else None
        if offer is None or offer.digest in self.refused:
            return None
        copy = await self._take_in(offer.directory, offer.digest)
        if copy.manifest.probes is None:
            raise CheckpointError(f"{offer.directory} carries no probes")
        return copy

    async def _start(self, copy: Copy) -> None:
        began = time.monotonic()
        await self._engine.start(copy.directory)
        if copy.manifest.probes is None:
            log(LOGGER, logging.WARNING, "checkpoint without probes", digest=copy.manifest.digest)
        else:
            await self._prove(copy.manifest)
        self._admission.rebuild_seconds = time.monotonic() - began
        self._serve(copy)
        await self._tidy()

    async def _take_in(self, source: Path, digest: str | None = None) -> Copy:
        """A verified copy.

        Args:
            digest: what it must be; None for whatever it is.

        Raises:
            CheckpointError: it is not whole, or another one.
        """
        if digest is not None and (found := (await asyncio.to_thread(read_manifest, source)).digest) != digest:
            raise _other(source, found, digest)
        copy = Copy(*await asyncio.to_thread(self._store.take_in, source))
        if digest is not None and copy.manifest.digest != digest:  # replaced while it was copied
            raise _other(source, copy.manifest.digest, digest)
        return copy

    async def take_up(self, source: Path, *, digest: str | None = None, retry: bool = False) -> Swap:
        """Make a checkpoint the one that is served.

        Args:
            digest: what the registry says that it is; a directory that is at fault is then remembered as refused.
            retry: try it even if it was refused before.

        Raises:
            SwapBusy: not now.
            CheckpointRefused: it is not taken up; what was served is served on.
        """
        if self._lock.locked():
            raise SwapBusy("Another checkpoint is being taken up, or the engine is being built anew.")
        self._refuse_to_drain()
        async with self._lock:
            began, old = time.perf_counter(), self._now
            try:
                new, in_place = await self._prepare(source, digest, retry=retry)
            except CheckpointError as error:
                self._metrics.swaps.labels("refused").inc()
                log(LOGGER, logging.WARNING, "checkpoint refused", source=str(source), error=str(error))
                # Another copy of the same checkpoint, or this one when it is whole, may be good.
                if digest is not None and not isinstance(error, CheckpointUnavailable | CheckpointDamaged):
                    self._memory.refuse(digest, str(error))
                await self._tidy()  # it may have been copied
                raise CheckpointRefused(str(error)) from error
            prepare_ms = _ms_since(began)
            if new.manifest.digest == old.manifest.digest:
                await self._adopt(new, old)
                await self.confirm()
                return self._done("unchanged", new, old, prepare_ms)
            try:
                return await self._switch(new, old, in_place=in_place, prepare_ms=prepare_ms)
            except CheckpointRefused as error:
                self._metrics.swaps.labels("refused").inc()
                self._memory.refuse(new.manifest.digest, str(error))
                raise
            finally:
                await self._tidy()

    async def _prepare(self, source: Path, digest: str | None, *, retry: bool) -> tuple[Copy, bool]:
        """Everything that can be known before the engine is touched; and whether the weights can go in place."""
        new, old = await self._take_in(source, digest), self._now
        digest = new.manifest.digest
        if digest in self.refused and not retry:
            raise CheckpointError(f"{digest} was refused before: {self.refused[digest]}")
        if new.manifest.probes is None:
            raise CheckpointDamaged(f"{source} carries no probes; publish it with `python -m trainer publish`")
        if changed := changed_files(old.manifest, new.manifest) or _changed_pictures(old.manifest, new.manifest):
            log(LOGGER, logging.INFO, "not in place", digest=digest, changed=changed)
            return new, False
        try:
            before = await asyncio.to_thread(read_tensors, old.directory, old.manifest)
        except CheckpointError as error:
            raise CheckpointUnavailable(f"The copy of what is served cannot be compared with: {error}") from error
        if difference := compare_tensors(before, await asyncio.to_thread(read_tensors, new.directory, new.manifest)):
            raise CheckpointError(f"{source} has the configuration of what is served and other tensors: {difference}")
        return new, True

    async def _adopt(self, new: Copy, old: Copy) -> None:
        """What is served, with probes that were recorded anew: taken over if they prove it.

        Raises:
            CheckpointRefused: they do not; those that did are kept.
        """
        if new.manifest.probes == old.manifest.probes:
            return
        try:
            async with asyncio.timeout(self._settings.swap_reload_seconds):
                await self._prove(new.manifest)
        except Exception as error:
            await asyncio.to_thread(store_manifest, old.manifest, old.directory)
            raise CheckpointRefused(f"It is served already, and its new probes do not prove it: {error}") from error
        self._served = new

    async def _switch(self, new: Copy, old: Copy, *, in_place: bool, prepare_ms: float) -> Swap:
        """Behind the closed gate. Leaves it open on what is proved, the new weights or the old."""
        digest, patience = new.manifest.digest, self._settings.swap_drain_seconds
        await self._memory.attempt(digest)
        closing = time.perf_counter()
        async with self._admission.gate_closed(patience) as idle:
            try:
                self._refuse_to_drain()
                if not idle:
                    raise SwapBusy(f"Requests in flight did not end within {patience:g} s.")
                if not self._engine.alive:
                    raise SwapBusy("The engine was lost and is built anew.", self._admission.ready_in())
            except SwapBusy:
                self._memory.survived(digest)  # it has not been touched
                raise
            drain_ms, closed = _ms_since(closing), time.perf_counter()
            try:
                proved = await (self._reload(new) if in_place else self._rebuild(new, "swap"))
            except Exception as error:  # whatever went wrong, the old weights must be back before the gate opens
                LOGGER.exception("swap failed", extra={"fields": {"digest": digest, "error": str(error)}})
                # An engine that is dead or hangs would not take the old weights either. Neither is a fault of the new
                # ones yet: somebody may have killed it at that very moment, or the machine was slow.
                lost = isinstance(error, TimeoutError) or not self._engine.alive
                lost |= await self._go_back(old, in_place=in_place and not lost)
                if lost and not _proves_a_fault(error):
                    if self._ending:
                        self._memory.survived(digest)
                    self._refuse_to_drain()
                    if self._memory.may_try_again(digest):
                        raise SwapBusy(f"The engine was lost while it took it up ({_reason(error)}).") from error
                raise CheckpointRefused(_reason(error)) from error
            self._serve(new)
            self._memory.spared = None
        how: How = "in place" if in_place else "rebuilt"
        return self._done(how, new, old, prepare_ms, drain_ms, _ms_since(closed), proved)

    async def confirm(self) -> None:
        """What is served is what is wanted: the next start goes on with it too."""
        if self._memory.spared is not None:
            self._memory.spared = None
            await self._tidy()

    def _refuse_to_drain(self) -> None:
        """
        Raises:
            SwapBusy: the service is about to end; those inside must not wait for a swap.
        """
        if self._ending or self._admission.draining:
            raise SwapBusy("The service is about to end.")

    async def _reload(self, copy: Copy) -> Proved:
        async with asyncio.timeout(self._settings.swap_reload_seconds):
            return await self._load_and_prove(copy, self._engine.reload(copy.directory, copy.manifest))

    async def _load_and_prove(self, copy: Copy, loading: Awaitable[None]) -> Proved:
        began = time.perf_counter()
        await loading
        load_ms, loaded = _ms_since(began), time.perf_counter()
        if copy.manifest.probes is None:  # only what the service was started on; a swap to one is refused
            return Proved(load_ms)
        worst = await self._prove(copy.manifest)
        return Proved(load_ms, _ms_since(loaded), worst)

    async def recover(self, cause: Cause) -> None:
        """Build a lost engine anew on what is served. Nothing to do when a swap has done it meanwhile.

        Raises:
            Exception: whatever the engine raised; nothing is loaded then.
        """
        async with self._lock:
            if not self._engine.alive:
                await self._rebuild(self._now, cause)

    async def _rebuild(self, copy: Copy, cause: Cause) -> Proved:
        """Stop the engine, start it on a checkpoint and prove it. New requests are refused meanwhile: it takes long.

        The one way in which an engine is built anew. Until it is proved nobody reaches it: behind a swap's gate those
        who are inside wait, otherwise they are sent away.
        """
        if self._ending:
            raise EngineLost
        planned, began = cause in ("swap", "roll_back"), time.monotonic()
        with self._admission.suspended(SWITCHING if planned else LOST, evict=not planned):
            try:
                self._admission.expect_ready(self._admission.rebuild_seconds)
                await self._engine.stop()
                if self._ending:  # meanwhile
                    raise EngineLost
                async with asyncio.timeout(self._settings.engine_rebuild_seconds):
                    proved = await self._load_and_prove(copy, self._engine.start(copy.directory))
            except Exception:
                self._metrics.rebuilds.labels(cause, "failed").inc()
                await self._engine.stop()  # what is not proved must not answer
                raise
            seconds = time.monotonic() - began
            self._admission.expect_ready(None)
            self._admission.rebuild_seconds = seconds
            self._metrics.rebuilds.labels(cause, "ok").inc()
            self._metrics.rebuild_seconds.observe(seconds)
            log(LOGGER, logging.INFO, "engine rebuilt", cause=cause, seconds=round(seconds, 1))
            return proved

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
            except Exception as error:  # an engine that takes neither is beyond repair
                died = not self._engine.alive
                LOGGER.exception(
                    "roll-back failed", extra={"fields": {"digest": old.manifest.digest, "error": str(error)}}
                )
        try:
            await self._rebuild(old, "roll_back")
        except Exception as error:  # whatever it is, the caller must hear why the new checkpoint was refused
            LOGGER.exception("rebuild failed", extra={"fields": {"digest": old.manifest.digest, "error": str(error)}})
            return died
        self._metrics.swaps.labels("rebuilt_back").inc()
        return died

    async def _prove(self, manifest: Manifest) -> float:
        """The largest difference between a probe's log-probability and the one found.

        Raises:
            CheckpointError: it is more than repeats explain, or there are no probes.
        """
        if manifest.probes is None:
            raise CheckpointError("the checkpoint carries no probes")
        probes = manifest.probes.questions
        # All at once: the engine reads them as one batch, and tolerances were found alone and in company.
        found = await asyncio.gather(*map(self._engine.log_probabilities, probes))
        worst = max(map(deviation, probes, found))
        if not worst <= manifest.probes.tolerance:  # so that NaN proves nothing
            raise CheckpointError(f"the engine does not give the checkpoint's log-probabilities: {worst:.3g} off")
        return worst

    def _serve(self, copy: Copy) -> None:
        """From here on this is what is served."""
        self._served = copy
        self._memory.proved(copy.manifest.digest)
        self._metrics.serves(self._engine.contract, self._engine)

    async def _tidy(self) -> None:
        await self._memory.tidy(self.serving.digest)

    def _done(
        self,
        how: How,
        new: Copy,
        old: Copy,
        prepare_ms: float,
        drain_ms: float = 0.0,
        closed_ms: float = 0.0,
        proved: Proved = Proved(),
    ) -> Swap:
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


def _proves_a_fault(error: Exception) -> bool:
    """Whether the checkpoint itself is at fault, whatever the moment and the machine."""
    return isinstance(error, CheckpointError) and not isinstance(error, CheckpointUnavailable)


def _reason(error: Exception) -> str:
    ours = isinstance(error, CheckpointError | ServiceError)  # sentences that a person can read
    if isinstance(error, TimeoutError):
        return "the engine did not take it up in time"
    return str(error) if ours else f"{type(error).__name__}: {error}"


def _other(source: Path, found: str, wanted: str) -> CheckpointDamaged:
    return CheckpointDamaged(f"{source} is {found}, not {wanted} as the registry says")


def _changed_pictures(old: Manifest, new: Manifest) -> list[str]:
    """An engine is told at its start how pictures become tiles."""
    return ["image"] if old.image != new.image else []


def _ms_since(moment: float) -> float:
    return round(1000 * (time.perf_counter() - moment), 3)
