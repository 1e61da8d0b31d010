"""What is served: a verified copy of one checkpoint, in one engine; and what all that changes it must share.

    an offer → taken in: copied and verified → loaded and proved → served → every other copy deleted

service/checkpoints/startup.py begins with one, service/checkpoints/hot_swap.py takes up another in its place, and
service/checkpoints/engine_restart.py gives it a new engine.
"""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from screening.checkpoint.manifest import Manifest, read_manifest
from screening.checkpoint.regular_file import Step
from screening.checkpoint.seal import check_seal, judged_as
from screening.errors import CheckpointDamaged
from service.admission.admission import Admission
from service.checkpoints.local_store import LocalStore
from service.checkpoints.store_reads import StoreReads
from service.checkpoints.swap_history import SwapMemory
from service.checkpoints.verification import Prover
from service.config.settings import Settings
from service.engines.protocol import Engine
from service.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Offer:
    """A checkpoint that the registry names."""

    directory: Path
    digest: str


@dataclass(frozen=True, slots=True)
class Copy:
    """A verified copy of a checkpoint."""

    directory: Path
    manifest: Manifest

    @property
    def judged(self) -> str:
        """What a verdict on it is about."""
        return judged_as(self.manifest)


class ServedCheckpoint:
    """One service's, from its start to its end."""

    def __init__(
        self,
        engine: Engine,
        admission: Admission,
        metrics: Metrics,
        settings: Settings,
        configured: Path,
    ) -> None:
        """
        Args:
            configured: the checkpoint to begin with where nothing else is wanted.

        Raises:
            CheckpointError: another service uses the state directory, or it cannot be written.
        """
        self.engine = engine
        self.prover = Prover(engine)
        self.admission = admission
        self.metrics = metrics
        self.settings = settings
        self.configured = configured
        self.taking_up = asyncio.Lock()
        """Held while a checkpoint is taken up, from the first look at it on: only its holder changes what is served,
        and which copies are on disk. Whoever needs both locks takes this one first."""
        self.lock = asyncio.Lock()
        """Held while other weights go into the engine and are proved, and while it is built anew. Not while a
        checkpoint is copied: a lost engine must not wait for a store that hangs."""
        self.copy: Copy | None = None
        self.ending = False
        """No engine is built any more."""
        state = settings.state_dir
        self.temporary: list[Path] = []
        """Directories that should not outlive this process."""
        if state is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="screening-", ignore_cleanup_errors=True)
            state = Path(self._temporary.name)
            self.temporary.append(state)
        self.store = LocalStore(state)
        self.memory = SwapMemory(self.store)
        self.reads = StoreReads(settings.store_read_seconds, metrics)

    @property
    def begun(self) -> bool:
        """Whether anything is served yet."""
        return self.copy is not None

    @property
    def now(self) -> Copy:
        """What is served. Only once the service has started."""
        if self.copy is None:
            raise RuntimeError("nothing is served yet")
        return self.copy

    @property
    def manifest(self) -> Manifest:
        """The manifest of what is served. Only once the service has started."""
        return self.now.manifest

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being taken up, or the engine is being built anew."""
        return self.taking_up.locked() or self.lock.locked()

    async def look(self, source: Path, digest: str | None = None) -> Manifest:
        """The manifest of what lies there, whose seal is whole.

        Args:
            digest: what it must be; None for whatever it is.

        Raises:
            CheckpointError: it cannot be read, was changed after it was published, or is another one.
        """
        return await self.reads.read(source, partial(_read_sealed, source, digest))

    async def take_in(self, source: Path, offered: Manifest | None = None) -> Copy:
        """A verified copy.

        Args:
            offered: what was found there by `look`; None to look now.

        Raises:
            CheckpointError: it is not whole, or not what was offered.
        """
        offered = offered or await self.look(source)
        copy = Copy(*await self.reads.read(source, partial(self.store.take_in, source), name="copy"))
        if copy.manifest != offered:
            raise CheckpointDamaged(f"{source} was replaced while it was copied")
        return copy

    def becomes(self, copy: Copy) -> None:
        """From here on this is what is served: the engine holds it, and has proved it."""
        self.copy = copy
        self.memory.proved(copy.judged)
        self.metrics.serves(self.engine.contract, self.engine)

    async def confirm(self) -> None:
        """What is served is what is wanted: the next start goes on with it too.

        Not while a checkpoint is taken up, whose copy would be deleted; whoever asks again will find it done.
        """
        if self.memory.spared is None or self.taking_up.locked():
            return
        async with self.taking_up:
            self.memory.spared = None
            await self.tidy()

    async def tidy(self) -> None:
        """Note on disk what is served and what is remembered, and delete every other copy.

        The caller holds `taking_up`, or starts the service.
        """
        await self.memory.tidy(self.manifest)

    def end(self) -> None:
        """From here on no engine is built any more: the process is about to end."""
        self.ending = True

    async def close(self, patience: float = 5.0) -> None:
        """Leave the state directory to another process, once a swap that was under way has given up.

        One that does not give up in time keeps it until this process has ended.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(patience), self.taking_up, self.lock:
                self.store.close()


def _read_sealed(source: Path, digest: str | None, step: Step) -> Manifest:
    """See `ServedCheckpoint.look`. In a thread: digests of a large manifest take long enough to hold up requests."""
    manifest = read_manifest(source, step)
    if digest is not None and manifest.digest != digest:
        raise CheckpointDamaged(f"{source} is {manifest.digest}, not {digest} as the registry says")
    try:
        check_seal(manifest)
    except CheckpointDamaged as error:
        raise CheckpointDamaged(f"{source}: {error}") from error
    return manifest
