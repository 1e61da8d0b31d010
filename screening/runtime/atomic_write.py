"""Atomic replacement of files and directories: a reader sees the old content or the new content, never a part."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


def partial_path(path: Path) -> Path:
    """The temporary path beside `path` that holds the new content until it is complete."""
    return path.with_name(f".{path.name}.partial")


@contextmanager
def replacing(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """Give the block a temporary path to write to, and move that file to `path` when the block has succeeded.

    The content is flushed to the disk before the move, so a power cut leaves the old file or the whole new one. When
    the block fails, `path` stays as it was and the temporary file is removed; only a kill leaves it, and the next
    write replaces it.

    Args:
        shared: whether several processes may write `path` at the same time. Each then has a temporary path of its own,
            and the last one to finish wins.

    Raises:
        OSError: the file cannot be written.
    """
    temporary = partial_path(path.with_name(f"{path.name}.{uuid4().hex}") if shared else path)
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file by `content`; text is written as UTF-8.

    Raises:
        OSError: the file cannot be written. It stays unchanged.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing_directory(path: Path) -> Iterator[Path]:
    """Give the block a temporary path for a new directory, and move that to `path` when the block has succeeded.

    An existing directory is removed just before the move. When the block fails, `path` stays as it was and the
    temporary directory is removed; only a kill leaves it, and the next call removes it.

    Raises:
        OSError: the directory cannot be moved.
    """
    temporary = partial_path(path)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        yield temporary
        shutil.rmtree(path, ignore_errors=True)
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
