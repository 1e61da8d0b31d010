"""The checkpoint that is served, and what every part that changes it shares: locks, copies and history."""

from __future__ import annotations

import asyncio
import tempfile
from functools import partial
from pathlib import Path

from screening.checkpoint.manifest import Manifest, read_manifest
from screening.checkpoint.regular_file import Step
from screening.checkpoint.seal import check_seal
from screening.errors import CheckpointDamaged
from service.admission.admission import Admission
from service.checkpoints.local_store import Copy, LocalStore
from service.checkpoints.store_reads import StoreReads
from service.checkpoints.swap_history import SwapHistory
from service.checkpoints.verification import Verifier
from service.config.settings import Settings
from service.engines.protocol import Engine
from service.metrics import Metrics


class ServedCheckpoint:
    """The checkpoint that one service serves, from the service's start to its end."""

    def __init__(
        self, engine: Engine, admission: Admission, metrics: Metrics, settings: Settings, configured: Path
    ) -> None:
        """
        Args:
            configured: the checkpoint to start on if neither the last run nor the registry names another one.

        Raises:
            CheckpointError: another service uses the state directory, or the directory cannot be written.
        """
        self.engine = engine
        self.verifier = Verifier(engine)
        self.admission = admission
        self.metrics = metrics
        self.settings = settings
        self.configured = configured
        self.swap_lock = asyncio.Lock()
        """Held during a whole swap, the copying included. Only its holder may change which checkpoint is served and
        which copies are on disk. A task that needs both locks takes this one first."""
        self.engine_lock = asyncio.Lock()
        """Held while the engine loads and verifies weights, and while it restarts. Nothing holds it while a checkpoint
        is copied: the restart of a lost engine must not wait for a store that hangs."""
        self.copy: Copy | None = None
        """The checkpoint that is served; None before the service has started."""
        state = settings.state_dir
        self.temporary: list[Path] = []
        """Directories that must be deleted when this process ends."""
        if state is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="screening-", ignore_cleanup_errors=True)
            state = Path(self._temporary.name)
            self.temporary.append(state)
        self.store = LocalStore(state)
        self.history = SwapHistory(state)
        self.reads = StoreReads(settings.store_read_seconds, metrics)

    @property
    def now(self) -> Copy:
        """The checkpoint that is served. Only after the start."""
        if self.copy is None:
            raise RuntimeError("No checkpoint is served yet.")
        return self.copy

    @property
    def manifest(self) -> Manifest:
        """The manifest of the checkpoint that is served. Only after the start."""
        return self.now.manifest

    @property
    def busy(self) -> bool:
        """Whether a swap or an engine restart is under way."""
        return self.swap_lock.locked() or self.engine_lock.locked()

    async def read_published(self, source: Path, digest: str | None = None) -> Manifest:
        """Read the manifest of a published checkpoint and check its seal.

        Args:
            digest: the digest that the checkpoint must have; None accepts any.

        Raises:
            CheckpointError: the manifest cannot be read, was changed after publishing, or has another digest.
        """
        return await self.reads.read(source, partial(_read_sealed, source, digest))

    async def copy_in(self, source: Path, offered: Manifest) -> Copy:
        """Copy a published checkpoint into the local store and verify the copy.

        Args:
            offered: the manifest that `read_published` returned.

        Raises:
            CheckpointError: the checkpoint is incomplete, or was replaced since `read_published`.
        """
        copy = await self.reads.read(source, partial(self.store.copy_in, source), name="copy")
        if copy.manifest != offered:
            raise CheckpointDamaged(f"{source} was replaced while it was copied")
        return copy

    def becomes(self, copy: Copy, *, wanted: bool = True) -> None:
        """Serve this checkpoint from now on. The engine has loaded it and passed its probes.

        Args:
            wanted: whether the next start begins with it too. False if it is served only because another one, which
                the next start tries again, could not be started.
        """
        self.copy = copy
        self.history.accept(copy.key)
        if wanted:
            self.history.next_start = copy.key
        self.metrics.serves(self.engine.checkpoint, self.engine)

    async def confirm(self) -> None:
        """Note that the served checkpoint is the one that is wanted, so that the next start begins with it.

        During a swap this does nothing, because it would delete the copy that is being loaded. The caller asks again.
        """
        if self.history.next_start == self.now.key or self.swap_lock.locked():
            return
        async with self.swap_lock:
            self.history.next_start = self.now.key
            await self.settle()

    async def settle(self) -> None:
        """Write to the disk what is served and remembered, and then delete the copies that nothing needs.

        The caller holds `swap_lock`, or starts the service. This may take long, so requests must be admitted already.
        """
        self.history.next_start = self.history.next_start or self.now.key
        written = await self.history.save()
        await asyncio.to_thread(self.store.keep_only, {self.now.key, self.history.next_start})
        if not written:
            await self.history.save()  # The disk may have been full of those copies.


def _read_sealed(source: Path, digest: str | None, step: Step) -> Manifest:
    """See `ServedCheckpoint.read_published`. It runs in a thread: hashing a large manifest would delay requests."""
    manifest = read_manifest(source, step)
    if digest is not None and manifest.digest != digest:
        raise CheckpointDamaged(f"{source} is {manifest.digest}, not {digest} as the registry says")
    try:
        check_seal(manifest)
    except CheckpointDamaged as error:
        raise CheckpointDamaged(f"{source}: {error}") from error
    return manifest
