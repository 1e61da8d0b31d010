"""How a command ends that was stopped or found the disk full: one sentence and an exit status, for every command line.

A library reports a full disk in its own way: as an `OSError` without a path, or as an error of another kind with the
system's words in its text.
"""

from __future__ import annotations

import errno
import signal
from collections.abc import Iterator
from pathlib import Path

STOPPED = 128 + signal.SIGINT
"""Exit status after Ctrl-C, as shells have it."""
DISK_FULL = 1
"""Exit status where the disk is full: the same command can be run again."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_WORDS = (
    "no space left on device",
    "disk quota exceeded",
    "os error 28",  # safetensors and tokenizers, which are written in Rust
    "database or disk is full",  # SQLite
    "pytorchstreamwriter failed writing file",  # torch.save
)


def disk_full(error: BaseException, out: Path | None = None) -> str | None:
    """A sentence for an error that comes of a full disk; None for any other.

    Args:
        out: what the command was writing to, where the error names no path.
    """
    for one in _chain(error):
        if isinstance(one, OSError) and one.errno in _FULL:
            return _sentence(one.filename2 or one.filename or out)
        if any(words in str(one).lower() for words in _WORDS):
            return _sentence(out)
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__  # type: ignore[assignment]


def _sentence(path: object) -> str:
    where = path or "a file"
    return f"{where} cannot be written: No space left on device; free some space and run the same command again"
