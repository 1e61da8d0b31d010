"""Safe reading of files that other programs wrote.

A FIFO, a socket or a device in place of a file can block its reader for ever or deliver data without end; these
functions read regular files only. A network file system whose server is gone blocks its reader as well. The functions
therefore call a `Step` before each access, so that the caller can give up a read that makes no progress.
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
"""Number of bytes that are read at a time."""

Step = Callable[[Path], None]
"""Function that is called before each access to a path, and with each chunk read from it. It may raise an exception to
end the read."""


def unwatched(_path: Path) -> None:
    """The `Step` for callers that can wait without a time limit."""


def open_regular(path: Path, step: Step = unwatched) -> BinaryIO:
    """Open a file for reading. A FIFO without a writer does not block the caller.

    Raises:
        CheckpointDamaged: the path is not a regular file.
        OSError: the file cannot be opened.
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
    """Yield the content of a regular file that must have exactly `size` bytes.

    Raises:
        CheckpointDamaged: the path is not a regular file, or the file has another size, before or during the read.
        OSError: the file cannot be read.
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
    """Return the whole content of a regular file of at most `most` bytes.

    Raises:
        CheckpointDamaged: the path is not a regular file, or the file is larger.
        OSError: the file cannot be read.
    """
    with open_regular(path, step) as handle:
        content = handle.read(most + 1)
    step(path)
    if len(content) > most:
        raise CheckpointDamaged(f"{path} is larger than {most} bytes, the limit for such a file")
    return content


def sha256_of(chunks: Iterator[bytes]) -> str:
    """Return the hex SHA-256 of the chunks' content."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def _not_regular(path: Path) -> CheckpointDamaged:
    return CheckpointDamaged(f"{path} is not a regular file. A checkpoint must not hold a FIFO, socket or device")
