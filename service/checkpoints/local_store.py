"""The service's own copies of checkpoints, by digest.

A directory that somebody publishes to can change while it is read, or vanish when it is needed for a roll-back. So a
checkpoint is copied first, the copy is verified, and only the copy is ever loaded.

    STATE/checkpoints/HEX/    verified copies, named by the hex of their digest
    STATE/serving.json        the digest served last, to go on with after a restart
    STATE/refused.json        what failed, and why; named as by `screening.checkpoint.seal.judged_as`
    STATE/deaths.json         what an engine is taking up or died with, and how often
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from screening.checkpoint.manifest import Manifest, read_manifest, store_manifest, verify
from screening.checkpoint.regular_file import read_chunks
from screening.checkpoint.seal import check_seal
from screening.checkpoint.weights import check_finite, read_tensors
from screening.errors import CheckpointDamaged, CheckpointError, CheckpointUnavailable
from service.checkpoints.store_reads import Watch
from service.errors import CheckpointRefused
from service.logs import log

LOGGER = logging.getLogger("service.checkpoints.local_store")

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
        self._deaths = state / "deaths.json"
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
            _delete(left)

    def close(self) -> None:
        """Let another service use the directory."""
        self._lock.close()

    def take_in(self, source: Path, watch: Watch | None = None) -> tuple[Path, Manifest]:
        """Copy a checkpoint and verify the copy: files, tensors' headers, finite values.

        Args:
            watch: hears of each access to the source, and may end it.

        Returns:
            The copy's directory, and the source's manifest: its probes may have been recorded again. A copy that was
            there already keeps its own manifest until `remember`, for nothing has proved these probes yet.

        Raises:
            CheckpointError: it is not whole, holds what must not be loaded, or there is no room for it.
        """
        watch = watch or Watch(source)
        wanted = verify(source, watch)
        incoming: Path | None = None
        try:
            if not self._is_kept(wanted):
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
        return self._root / _hex(wanted.digest), wanted

    def _is_kept(self, wanted: Manifest) -> bool:
        """Whether a whole copy is there already."""
        kept = self._root / _hex(wanted.digest)
        try:
            if verify(kept).digest != wanted.digest:
                return False
            read_tensors(kept, wanted)
        except CheckpointError:  # it stays until another one is whole
            return False
        return True

    def _copy(self, source: Path, wanted: Manifest, incoming: Path, watch: Watch) -> None:
        """Copy what the manifest names, verify the copy, and put it into its place."""
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
        kept = self._root / _hex(wanted.digest)
        if kept.exists():
            _delete(kept)
        incoming.rename(kept)

    def settle(self, served: Manifest) -> None:
        """Note what is served, atomically, and delete every other copy.

        Raises:
            OSError: it could not be noted, though the others are gone and have left room.
        """
        try:
            self.remember(served)
        except OSError:
            self.keep_only({served.digest})
            self.remember(served)
        else:
            self.keep_only({served.digest})

    def keep_only(self, digests: Collection[str]) -> None:
        """Delete all other copies."""
        names = {_hex(digest) for digest in digests}
        for path in self._root.iterdir():
            if path.name not in names and not path.name.startswith(_INCOMING):
                _delete(path)

    def remember(self, served: Manifest) -> None:
        """Note what is served, atomically; and in its copy the probes that have proved it."""
        copy = self._root / _hex(served.digest)
        try:
            described = read_manifest(copy) == served
        except CheckpointError:  # it is served all the same
            described = False
        if not described:
            store_manifest(served, copy)
        _write(self._serving, {"digest": served.digest})

    def remember_refused(self, reasons: Mapping[str, str]) -> None:
        """Note what failed and why, in place of what was noted before."""
        if reasons != self.refused():
            _write(self._refused, reasons)

    def refused(self) -> dict[str, str]:
        """What failed → reason; empty where the note cannot be read."""
        return {judged: str(reason) for judged, reason in _noted(self._refused).items()}

    def remember_deaths(self, times: Mapping[str, int]) -> None:
        """Note what an engine is taking up, or died with: the whole process may be the next to die."""
        if times != self.deaths():
            _write(self._deaths, times)

    def deaths(self) -> dict[str, int]:
        """What an engine died with → how often; empty where the note cannot be read."""
        return {judged: times for judged, times in _noted(self._deaths).items() if isinstance(times, int)}

    def last_digest(self) -> str | None:
        """The digest that was served last."""
        digest = _noted(self._serving).get("digest")
        return digest if isinstance(digest, str) else None

    def last_served(self) -> tuple[Path, Manifest] | None:
        """The copy that was served last and its manifest; None where there is none.

        Raises:
            CheckpointError: it is not whole any more.
            CheckpointUnavailable: it cannot be read now.
        """
        digest = self.last_digest()
        copy = self._root / _hex(digest) if digest else None
        if digest is None or copy is None or copy.parent != self._root or not copy.exists():
            return None
        manifest = verify(copy)
        if manifest.digest != digest:
            raise CheckpointDamaged(f"{copy} holds {manifest.digest}")
        check_seal(manifest)
        return copy, manifest

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
        CheckpointRefused: the name leads out of it, by dots or by a link, or is a link to itself.
    """
    root = store.resolve()
    try:
        path = (root / name).resolve()
    except RuntimeError as error:
        raise CheckpointRefused(f"{name!r} is a symbolic link that leads to itself.") from error
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


def _noted(path: Path) -> dict[str, Any]:
    """A note that was written here; empty where it is missing or not one."""
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return noted if isinstance(noted, dict) else {}


def _make_writable(directory: Path) -> None:
    """A copy has the modes of what was copied; a directory that must not be written cannot be emptied either."""
    for path in [directory, *directory.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)


def _delete(directory: Path) -> None:
    try:
        _make_writable(directory)
        shutil.rmtree(directory)
    except FileNotFoundError:
        pass
    except OSError as error:
        log(LOGGER, logging.ERROR, "copy not deleted", directory=str(directory), error=str(error))


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")
