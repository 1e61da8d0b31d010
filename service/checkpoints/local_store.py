"""The service's own copies of checkpoints. The service loads nothing but a verified copy, because a published directory
can change while it is read, or be gone when a rollback needs it.

    STATE/checkpoints/HEX/    a verified copy, named by the SHA-256 of its whole manifest. It never changes
    STATE/state.json          what the service remembers over restarts (service/checkpoints/swap_history.py)
    STATE/lock                locked while a service uses the directory
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from filelock import FileLock, Timeout

from screening.checkpoint.manifest import Manifest, store_manifest, verify
from screening.checkpoint.regular_file import Step, read_chunks, unwatched
from screening.checkpoint.seal import check_seal, verdict_key
from screening.checkpoint.weights import check_finite, read_tensors
from screening.errors import CheckpointDamaged, CheckpointError, CheckpointUnavailable
from service.checkpoints.store_reads import Watch
from service.logs import log

LOGGER = logging.getLogger("service.checkpoints.local_store")

_INCOMING = "incoming-"
"""Prefix of a directory that a checkpoint is being copied into."""


@dataclass(frozen=True)
class Copy:
    """A verified copy of a checkpoint."""

    directory: Path
    manifest: Manifest

    @cached_property
    def key(self) -> str:
        """Key of the copy, and of everything that is remembered about it; see `screening.checkpoint.seal`."""
        return verdict_key(self.manifest)


class LocalStore:
    """One service's copies. All methods access the disk, so call them in a thread."""

    def __init__(self, state: Path) -> None:
        """
        Raises:
            CheckpointError: another service uses the directory, or the directory cannot be written.
        """
        self._root = state / "checkpoints"
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(state / "lock", timeout=0, thread_local=False)
            self._lock.acquire()
        except Timeout:
            raise CheckpointError(
                f"The state directory {state} is in use by another service. Give each service its own"
            ) from None
        except OSError as error:
            raise CheckpointError(f"The state directory {state} cannot be written: {error.strerror}") from error
        for unfinished in self._root.glob(f"{_INCOMING}*"):  # left by a service that was killed
            _delete(unfinished)

    def close(self) -> None:
        """Let another service use the directory."""
        self._lock.release()

    def copy_in(self, source: Path, watch: Watch | None = None) -> Copy:
        """Copy a checkpoint and verify the copy: its files, its tensors' headers, and that all values are finite.

        Args:
            watch: called for each access to the source; it may end the copying.

        Raises:
            CheckpointError: the checkpoint is incomplete or must not be loaded, or the disk has no room for it.
        """
        watch = watch or Watch(source)
        manifest = verify(source, watch)
        key = verdict_key(manifest)
        with suppress(CheckpointError):  # A damaged copy stays until a whole one takes its place.
            return self.find(key, watch)
        try:
            self._check_room(manifest)
            with tempfile.TemporaryDirectory(prefix=_INCOMING, dir=self._root, ignore_cleanup_errors=True) as incoming:
                copy = Copy(self._path_of(key), manifest)
                _fill(Path(incoming), source, manifest, watch)
                _delete(copy.directory)
                Path(incoming).rename(copy.directory)
                return copy
        except OSError as error:
            raise CheckpointUnavailable(f"{source} cannot be copied: {error}") from error

    def find(self, key: str, step: Step = unwatched) -> Copy:
        """The verified copy of a checkpoint.

        Raises:
            CheckpointDamaged: there is no copy, or it is damaged.
            CheckpointUnavailable: the copy cannot be read now.
        """
        if not (directory := self._path_of(key)).exists():
            raise CheckpointDamaged(f"{directory} does not exist")
        copy = Copy(directory, verify(directory, step))
        if copy.key != key:
            raise CheckpointDamaged(f"{directory} holds {copy.key}")
        check_seal(copy.manifest)
        return copy

    def keep_only(self, keys: Collection[str]) -> None:
        """Delete all copies but these."""
        kept = {self._path_of(key) for key in keys}
        for path in self._root.iterdir():
            if path not in kept and not path.name.startswith(_INCOMING):
                _delete(path)

    def _path_of(self, key: str) -> Path:
        return self._root / key.rpartition(":")[2]

    def _check_room(self, manifest: Manifest) -> None:
        needed = sum(entry.size for entry in manifest.files.values())
        free = shutil.disk_usage(self._root).free
        if needed > free:
            raise CheckpointUnavailable(
                f"{self._root} has no room for the checkpoint: {needed} bytes are needed, {free} are free"
            )


def _fill(incoming: Path, source: Path, manifest: Manifest, watch: Watch) -> None:
    """Copy the files that the manifest names into an empty directory, and verify the copy."""
    for name, entry in manifest.files.items():
        target = incoming / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as handle:
            handle.writelines(read_chunks(source / name, entry.size, watch))
    watch.leave_store()
    store_manifest(manifest, incoming)
    try:
        verify(incoming)
        read_tensors(incoming, manifest)
        check_finite(incoming, manifest)
    except CheckpointError as error:
        raise type(error)(str(error).replace(str(incoming), str(source))) from error


def _delete(directory: Path) -> None:
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        pass
    except OSError as error:
        log(LOGGER, logging.ERROR, "copy not deleted", directory=str(directory), error=str(error))
