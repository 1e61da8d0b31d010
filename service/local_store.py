"""The service's own copies of checkpoints, by digest.

A directory that somebody publishes to can change while it is read, or vanish when it is needed for a roll-back. So a
checkpoint is copied first, the copy is verified, and only the copy is ever loaded.

    STATE/checkpoints/HEX/    verified copies, named by the hex of their digest
    STATE/serving.json        the digest served last, to go on with after a restart
    STATE/refused.json        digests that failed, and why
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

from screening.checkpoint import Manifest, verify
from screening.errors import CheckpointError, CheckpointUnavailable
from screening.weights import check_finite, read_tensors
from service.errors import CheckpointRefused

_INCOMING = "incoming-"


class LocalStore:
    """One service's copies. All methods touch the disk: call them in a thread."""

    def __init__(self, state: Path) -> None:
        """
        Raises:
            CheckpointError: another service uses the directory, or it cannot be written.
        """
        self._root = state / "checkpoints"
        self._serving = state / "serving.json"
        self._refused = state / "refused.json"
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            self._lock = (state / "lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise CheckpointError(f"{state} is in use by another service; give each one its own") from None
        except OSError as error:
            raise CheckpointError(f"{state} cannot be written: {error.strerror}") from error
        for left in self._root.glob(f"{_INCOMING}*"):  # by a service that was killed
            shutil.rmtree(left, ignore_errors=True)

    def close(self) -> None:
        """Let another service use the directory."""
        self._lock.close()

    def take_in(self, source: Path) -> tuple[Path, Manifest]:
        """Copy a checkpoint and verify the copy: files, tensors' headers, finite values.

        Returns:
            The copy's directory and its manifest.

        Raises:
            CheckpointError: it is not whole, holds what must not be loaded, or there is no room for it.
        """
        wanted = verify(source)
        kept = self._root / _hex(wanted.digest)
        if kept.exists():
            try:
                return kept, verify(kept)
            except CheckpointError:  # our copy was damaged since
                shutil.rmtree(kept)
        self._check_room(wanted)
        incoming = Path(tempfile.mkdtemp(prefix=_INCOMING, dir=self._root))
        try:
            # Links stay links, so that one that leads out of the directory is seen and refused.
            shutil.copytree(source, incoming, symlinks=True, dirs_exist_ok=True)
            manifest = verify(incoming)
            read_tensors(incoming, manifest)
            check_finite(incoming, manifest)
            kept = self._root / _hex(manifest.digest)
            if not kept.exists():
                incoming.rename(kept)
        except (OSError, shutil.Error) as error:
            raise CheckpointUnavailable(f"{source} cannot be copied: {error}") from error
        except CheckpointError as error:
            raise type(error)(str(error).replace(str(incoming), str(source))) from error
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
        return kept, manifest

    def keep_only(self, digests: Collection[str]) -> None:
        """Delete all other copies."""
        names = {_hex(digest) for digest in digests}
        for path in self._root.iterdir():
            if path.name not in names and not path.name.startswith(_INCOMING):
                shutil.rmtree(path, ignore_errors=True)

    def remember(self, digest: str) -> None:
        """Note what is served, atomically."""
        _write(self._serving, {"digest": digest})

    def remember_refused(self, reasons: Mapping[str, str]) -> None:
        """Note what failed, digest → reason, in place of what was noted before."""
        if reasons != self.refused():
            _write(self._refused, reasons)

    def refused(self) -> dict[str, str]:
        """What failed, digest → reason; empty where the note cannot be read."""
        try:
            noted = json.loads(self._refused.read_text(encoding="utf-8"))
            return {str(digest): str(reason) for digest, reason in noted.items()}
        except (OSError, ValueError, AttributeError):
            return {}

    def last_served(self) -> tuple[Path, Manifest] | None:
        """The copy that was served last and its manifest, if it is still whole."""
        try:
            digest = json.loads(self._serving.read_text(encoding="utf-8"))["digest"]
            copy = self._root / _hex(str(digest))
            manifest = verify(copy)
            return (copy, manifest) if manifest.digest == digest else None
        except (OSError, ValueError, KeyError, TypeError, CheckpointError):
            return None

    def _check_room(self, manifest: Manifest) -> None:
        needed = sum(entry.size for entry in manifest.files.values())
        free = shutil.disk_usage(self._root).free
        if needed > free:
            raise CheckpointUnavailable(
                f"no room for the checkpoint: {needed} bytes, and {free} are free in {self._root}"
            )


def inside(store: Path, name: str) -> Path:
    """A directory of a store that checkpoints are published to.

    Raises:
        CheckpointRefused: the name leads out of it, by dots or by a link.
    """
    root = store.resolve()
    path = (root / name).resolve()
    if path == root or not path.is_relative_to(root):
        raise CheckpointRefused(f"{name!r} leads out of the store.")
    return path


def _write(path: Path, value: object) -> None:
    """Atomically: a reader sees the old or the new."""
    temporary = path.with_suffix(".partial")
    with temporary.open("w", encoding="utf-8") as handle:
        handle.write(json.dumps(value) + "\n")
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")
