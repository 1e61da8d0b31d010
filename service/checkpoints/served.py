"""The checkpoint that is served, and what every part that changes it shares."""

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
        self.history = SwapHistory.of(state)
        self.reads = StoreReads(settings.store_read_seconds, metrics)

    @property
    def current(self) -> Copy:
        """The checkpoint that is served. Only after the start."""
        if self.copy is None:
            raise RuntimeError("No checkpoint is served yet.")
        return self.copy

    @property
    def manifest(self) -> Manifest:
        """The manifest of the checkpoint that is served. Only after the start."""
        return self.current.manifest

    async def read_published(self, source: Path, digest: str | None = None) -> Manifest:
        """Read the manifest of a published checkpoint, and check its seal and its digest unless that is None.

        Raises:
            CheckpointDamaged, CheckpointUnavailable: the manifest is not there, not readable or not the wanted one.
        """

        def read(step: Step) -> Manifest:
            manifest = read_manifest(source, step)
            if digest is not None and manifest.digest != digest:
                raise CheckpointDamaged(f"{source} is {manifest.digest}, not {digest} as the registry says")
            try:
                check_seal(manifest)
            except CheckpointDamaged as error:
                raise CheckpointDamaged(f"{source}: {error}") from error
            return manifest

        return await self.reads.read(source, read)

    async def copy_in(self, source: Path, offered: Manifest) -> Copy:
        """Copy a published checkpoint, whose manifest is `offered`, into the local store and verify the copy.

        Raises:
            CheckpointError: see `LocalStore.copy_in`, or the checkpoint was replaced since its manifest was read.
        """
        copy = await self.reads.read(source, partial(self.store.copy_in, source), name="copy")
        if copy.manifest != offered:
            raise CheckpointDamaged(f"{source} was replaced while it was copied")
        return copy

    def becomes(self, copy: Copy) -> None:
        """Serve this checkpoint from now on. The engine has loaded it and passed its probes."""
        self.copy = copy
        self.history.accept(copy.key)
        self.metrics.serves(self.engine.checkpoint, self.engine)

    async def settle(self) -> None:
        """Write to the disk what is served and remembered, and then delete the copies that nothing needs.

        Only the start and a swap call this, when no other copy is in use. A swap admits requests before, because it may
        take long.
        """
        self.history.served = self.history.served or self.current.key
        written = await self.history.save()
        await asyncio.to_thread(self.store.keep_only, {self.current.key, self.history.served})
        if not written:
            await self.history.save()  # The disk may have been full of those copies.
