"""The service's own copies of checkpoints, in its state directory.

A published directory can change while it is read, or be gone when a roll-back needs it. The service therefore copies a
checkpoint first, verifies the copy, and loads nothing but the copy.

    STATE/checkpoints/HEX/    a verified copy, named by the hex part of its digest
    STATE/state.json          what the service remembers over restarts (service/checkpoints/swap_history.py)
    STATE/lock                locked while a service uses the directory
"""

from __future__ import annotations

import fcntl
import logging
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path

from screening.checkpoint.manifest import Manifest, read_manifest, store_manifest, verify
from screening.checkpoint.regular_file import read_chunks
from screening.checkpoint.seal import check_seal
from screening.checkpoint.weights import check_finite, read_tensors
from screening.errors import CheckpointDamaged, CheckpointError, CheckpointUnavailable
from service.checkpoints.store_reads import Watch
from service.logs import log

LOGGER = logging.getLogger("service.checkpoints.local_store")

_INCOMING = "incoming-"
"""Prefix of a directory that a checkpoint is being copied into."""


class LocalStore:
    """One service's copies. All methods access the disk: call them in a thread."""

    def __init__(self, state: Path) -> None:
        """
        Raises:
            CheckpointError: another service uses the directory, or the directory cannot be written.
        """
        self._root = state / "checkpoints"
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            self._lock = (state / "lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise CheckpointError(
                f"The state directory {state} is in use by another service. Give each service its own"
            ) from None
        except OSError as error:
            raise CheckpointError(f"The state directory {state} cannot be written: {error.strerror}") from error
        for unfinished in self._root.glob(f"{_INCOMING}*"):  # left by a service that was killed
            _delete(unfinished)

    def close(self) -> None:
        """Let another service use the directory."""
        self._lock.close()

    def copy_in(self, source: Path, watch: Watch | None = None) -> tuple[Path, Manifest]:
        """Copy a checkpoint and verify the copy: its files, its tensors' headers, and that all values are finite.

        Args:
            watch: called for each access to the source; it may end the copying.

        Returns:
            The copy's directory, and the source's manifest, whose probes may be newer than the copy's. A copy that was
            there before keeps its own manifest until `update_manifest`, because no engine has passed the new probes.

        Raises:
            CheckpointError: the checkpoint is incomplete or must not be loaded, or the disk has no room for it.
        """
        watch = watch or Watch(source)
        wanted = verify(source, watch)
        incoming: Path | None = None
        try:
            if not self._has_whole_copy(wanted):
                self._check_room(wanted)
                incoming = Path(tempfile.mkdtemp(prefix=_INCOMING, dir=self._root))
                self._copy(source, wanted, incoming, watch)
        except OSError as error:
            raise CheckpointUnavailable(f"{source} cannot be copied: {error}") from error
        except CheckpointError as error:
            raise type(error)(str(error).replace(str(incoming), str(source))) from error
        finally:
            if incoming is not None:
                _delete(incoming)
        return self._path_of(wanted.digest), wanted

    def _has_whole_copy(self, wanted: Manifest) -> bool:
        kept = self._path_of(wanted.digest)
        try:
            if verify(kept).digest != wanted.digest:
                return False
            read_tensors(kept, wanted)
        except CheckpointError:  # The damaged copy stays until a whole one takes its place.
            return False
        return True

    def _copy(self, source: Path, wanted: Manifest, incoming: Path, watch: Watch) -> None:
        """Copy the files that the manifest names, verify the copy, and move it to its final place."""
        for name, entry in wanted.files.items():
            target = incoming / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as handle:
                handle.writelines(read_chunks(source / name, entry.size, watch))
        watch.leave_store()
        store_manifest(wanted, incoming)
        verify(incoming)
        read_tensors(incoming, wanted)
        check_finite(incoming, wanted)
        kept = self._path_of(wanted.digest)
        if kept.exists():
            _delete(kept)
        incoming.rename(kept)

    def update_manifest(self, served: Manifest) -> None:
        """Write the manifest whose probes the engine has passed into the copy, unless it is there already.

        Raises:
            OSError: the manifest cannot be written.
        """
        copy = self._path_of(served.digest)
        try:
            if read_manifest(copy) == served:
                return
        except CheckpointError:  # The copy's own manifest is damaged; it is replaced.
            pass
        store_manifest(served, copy)

    def keep_only(self, digests: Collection[str]) -> None:
        """Delete all copies but these."""
        kept = {self._path_of(digest) for digest in digests}
        for path in self._root.iterdir():
            if path not in kept and not path.name.startswith(_INCOMING):
                _delete(path)

    def find(self, digest: str) -> tuple[Path, Manifest] | None:
        """The verified copy of a checkpoint and its manifest; None if there is no copy.

        Raises:
            CheckpointError: the copy is damaged.
            CheckpointUnavailable: the copy cannot be read now.
        """
        copy = self._path_of(digest)
        if copy.parent != self._root or not copy.exists():
            return None
        manifest = verify(copy)
        if manifest.digest != digest:
            raise CheckpointDamaged(f"{copy} holds {manifest.digest}")
        check_seal(manifest)
        return copy, manifest

    def _path_of(self, digest: str) -> Path:
        return self._root / digest.removeprefix("sha256:")

    def _check_room(self, manifest: Manifest) -> None:
        needed = sum(entry.size for entry in manifest.files.values())
        free = shutil.disk_usage(self._root).free
        if needed > free:
            raise CheckpointUnavailable(
                f"{self._root} has no room for the checkpoint: {needed} bytes are needed, {free} are free"
            )


def _delete(directory: Path) -> None:
    try:
        # A copy has the modes of its source, and a directory that must not be written cannot be emptied either.
        for path in [directory, *directory.rglob("*")]:
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o700)
        shutil.rmtree(directory)
    except FileNotFoundError:
        pass
    except OSError as error:
        log(LOGGER, logging.ERROR, "copy not deleted", directory=str(directory), error=str(error))
