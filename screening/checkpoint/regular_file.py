"""Reading files that others put there: only regular files, in chunks, and a watcher hears of each.

A FIFO, a socket or a device in the place of a file would hold its reader up for ever or never end, and so would a
network file system whose server is gone. The first are refused here. For the last, each step of a read is announced to
a `Step`, so that the caller can give up a read that stands still.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from screening.errors import CheckpointDamaged

CHUNK = 2**20
"""Bytes that are read at a time."""

Step = Callable[[Path], None]
"""Called before each access to a path, and with each chunk read from it. It may raise to end the read."""


def unwatched(_path: Path) -> None:
    """The `Step` for callers who can wait as long as it takes."""


def open_regular(path: Path, step: Step = unwatched) -> BinaryIO:
    """Open a file for reading, without waiting for the other end of a FIFO.

    Raises:
        CheckpointDamaged: it is not a regular file.
        OSError: it cannot be opened.
    """
    step(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise _not_regular(path) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_regular(path)
    return os.fdopen(descriptor, "rb")


def read_chunks(path: Path, size: int, step: Step = unwatched) -> Iterator[bytes]:
    """The content of a regular file that must have this many bytes.

    Raises:
        CheckpointDamaged: it is not a regular file, or it has another size, also while it is read.
        OSError: it cannot be read.
    """
    with open_regular(path, step) as handle:
        if (found := os.fstat(handle.fileno()).st_size) != size:
            raise CheckpointDamaged(f"{path} has {found} bytes; its manifest says {size}")
        left = size
        while left and (chunk := handle.read(min(CHUNK, left))):
            left -= len(chunk)
            step(path)
            yield chunk
        if left:
            raise CheckpointDamaged(f"{path} was cut off while it was read; its manifest says {size} bytes")


def read_small(path: Path, most: int, step: Step = unwatched) -> bytes:
    """The whole content of a regular file of at most `most` bytes.

    Raises:
        CheckpointDamaged: it is not a regular file, or larger.
        OSError: it cannot be read.
    """
    with open_regular(path, step) as handle:
        content = handle.read(most + 1)
    step(path)
    if len(content) > most:
        raise CheckpointDamaged(f"{path} is larger than {most} bytes, the most that is read of such a file")
    return content


def sha256_of(chunks: Iterator[bytes]) -> str:
    """Hex sha256 of what the chunks hold."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def _not_regular(path: Path) -> CheckpointDamaged:
    return CheckpointDamaged(f"{path} is not a regular file: a checkpoint holds no FIFO, socket, device or directory")
