"""Append-only logs that survive a kill: one JSON object per line.

Results that cost minutes or money (a teacher's reply, a model's answer) are written as soon as they are known. A kill
can leave an incomplete last line, which is removed when the log is opened again.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from screening.errors import UserError

Line = TypeVar("Line", bound=BaseModel)


class LogError(UserError):
    """A log cannot be used: another process is writing it, or a line before the last one is damaged."""


class JsonLog(Generic[Line]):
    """An open log. Its lock keeps other processes from writing it."""

    def __init__(self, handle: int, written: list[Line], sync_every: float) -> None:
        self.written = written
        """Lines of earlier runs, in order."""
        self._handle = handle
        self._sync_every = sync_every
        self._sync_at = time.monotonic() + sync_every

    def append(self, lines: Iterable[Line]) -> None:
        """Write whole lines. A later kill of the process does not lose them."""
        for line in lines:
            data = line.model_dump_json(exclude_defaults=True).encode() + b"\n"
            while data:
                data = data[os.write(self._handle, data) :]
        if time.monotonic() >= self._sync_at:  # protects against a power cut
            os.fsync(self._handle)
            self._sync_at = time.monotonic() + self._sync_every


@contextmanager
def open_log(path: Path, kind: type[Line], *, sync_every: float = 0.0) -> Iterator[JsonLog[Line]]:
    """Open a log for appending, and create it if it does not exist.

    Args:
        kind: type of a line; messages contain its name in lower case.
        sync_every: maximum age in seconds of lines that a power cut may lose. Syncing blocks the calling thread.

    Raises:
        LogError: another process is writing the log, or it is damaged.
        OSError: the file cannot be opened or written.
    """
    with path.open("ab", buffering=0) as file, _locked(file.fileno(), path):
        data = path.read_bytes()
        file.truncate(_whole(data))
        yield JsonLog(file.fileno(), _parse(path, data, kind), sync_every)
        os.fsync(file.fileno())


@contextmanager
def _locked(handle: int, path: Path) -> Iterator[None]:
    """Lock an open log. The lock is on the log itself: some versions of filelock would empty it.

    It is released at the end of the block, although processes that were forked meanwhile may still hold the file open.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise LogError(f"{path} is being written by another process; wait for it to end") from None
    try:
        yield
    finally:
        fcntl.flock(handle, fcntl.LOCK_UN)


def read_log(path: Path, kind: type[Line]) -> list[Line]:
    """Read the complete lines of a log without changing it.

    Raises:
        LogError: a line is damaged.
        OSError: the file cannot be read.
    """
    return _parse(path, path.read_bytes(), kind)


def _whole(data: bytes) -> int:
    """Number of bytes in complete lines."""
    return data.rfind(b"\n") + 1


def _parse(path: Path, data: bytes, kind: type[Line]) -> list[Line]:
    lines = []
    for number, line in enumerate(data[: _whole(data)].splitlines(), 1):
        try:
            lines.append(kind.model_validate_json(line))
        except ValidationError as error:
            raise LogError(
                f"{path}, line {number} is damaged or not a {kind.__name__.lower()} of this version; "
                "remove the line to have it computed again, or name another --out"
            ) from error
    return lines
