"""The files of a checkpoint's directory: they are hashed into its manifest, and compared with it later."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from screening.checkpoint.manifest import (
    CARD_NAME,
    MANIFEST_NAME,
    MOST_FILES,
    FileEntry,
    Manifest,
    read_manifest,
    store_manifest,
)
from screening.checkpoint.regular_file import Step, read_chunks, sha256_of, unwatched
from screening.errors import CheckpointDamaged, CheckpointUnavailable
from screening.runtime.atomic_write import partial_path
from screening.runtime.digests import file_sha256
from screening.runtime.utc_time import utc_now_text

_UNLISTED = (MANIFEST_NAME, partial_path(Path(MANIFEST_NAME)).name, CARD_NAME)
"""Files in the root that no manifest lists. A crash while scores are stored leaves a partial manifest."""


def write_manifest(directory: Path, **fields: Any) -> Manifest:
    """Hash every file in `directory`, then write the manifest atomically.

    Args:
        fields: all fields of `Manifest` except `files` and `created`.
    """
    unlisted = {directory / name for name in _UNLISTED}
    files = {
        path.relative_to(directory).as_posix(): FileEntry(size=path.stat().st_size, sha256=file_sha256(path))
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path not in unlisted
    }
    manifest = Manifest(files=files, created=utc_now_text(), **fields)
    store_manifest(manifest, directory)
    return manifest


def verify(directory: Path, step: Step = unwatched) -> Manifest:
    """Read the manifest and compare every file with it.

    Args:
        step: is called before each access, and may end the read.

    Raises:
        CheckpointDamaged: a file is missing, was added, differs in size or content, lies outside the directory, or is
            not a regular file.
        CheckpointUnavailable: a file cannot be read.
    """
    manifest = read_manifest(directory, step)
    try:
        _compare(directory, manifest, step)
    except RuntimeError as error:  # a symbolic link that points to itself
        raise CheckpointDamaged(f"{directory} cannot be read completely: {error}") from error
    except OSError as error:
        raise CheckpointUnavailable(f"{directory} cannot be read completely: {error}") from error
    return manifest


def _compare(directory: Path, manifest: Manifest, step: Step) -> None:
    unlisted = {directory / name for name in _UNLISTED}
    present = {path.relative_to(directory).as_posix() for path in _walk(directory, step) if path not in unlisted}
    if added := sorted(present - manifest.files.keys()):
        raise CheckpointDamaged(f"{directory} holds files that its manifest does not list: {', '.join(added[:10])}")
    root = directory.resolve()
    for name in (MANIFEST_NAME, *manifest.files):
        if not (directory / name).resolve().is_relative_to(root):
            raise CheckpointDamaged(f"{directory / name} points outside the checkpoint's directory")
    for name, entry in manifest.files.items():
        path = directory / name
        try:
            found = sha256_of(read_chunks(path, entry.size, step))
        except FileNotFoundError:
            raise CheckpointDamaged(f"{path} is missing") from None
        if found != entry.sha256:
            raise CheckpointDamaged(f"{path} is not the file that its manifest describes (sha256 differs)")


def _walk(directory: Path, step: Step) -> Iterator[Path]:
    """Yield the files and links at any depth below a directory."""
    for count, path in enumerate(directory.rglob("*")):
        if count >= 2 * MOST_FILES:
            raise CheckpointDamaged(f"{directory} holds more than {2 * MOST_FILES} entries")
        step(path)
        if path.is_symlink() or not path.is_dir():
            yield path
