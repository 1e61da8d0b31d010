"""How a command ends that was stopped or found the disk full: one sentence and an exit status, for every command line.

A library reports a full disk in its own way: as an `OSError` without a path, or as an error of another kind with the
system's words in its text.
"""

from __future__ import annotations

import errno
import os
import re
import signal
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

STOPPED = 128 + signal.SIGINT
"""Exit status after Ctrl-C, as shells have it."""
DISK_FULL = 1
"""Exit status where the disk is full: the same command can be run again."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The last one is a limit on the size of files (`ulimit -f`, or the file system's own)."""
_WORDS = {os.strerror(number).lower(): number for number in _FULL} | {
    "database or disk is full": errno.ENOSPC,  # SQLite
    "pytorchstreamwriter failed writing file": errno.ENOSPC,  # torch.save
}
_IN_RUST = re.compile(r"\(os error (\d+)\)")
"""How safetensors and tokenizers end their messages."""


def disk_full(error: BaseException, out: Path | None = None) -> str | None:
    """A sentence for an error that comes of a full disk; None for any other.

    Args:
        out: what the command was writing to, where the error names no path.
    """
    for one in _chain(error):
        if isinstance(one, OSError) and one.errno in _FULL:
            return _sentence(one.filename2 or one.filename or out, one.errno)
        said = str(one).lower()
        named = (number for words, number in _WORDS.items() if words in said)
        in_rust = (number for number in map(int, _IN_RUST.findall(said)) if number in _FULL)
        if number := next(chain(named, in_rust), None):
            return _sentence(out, number)
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__  # type: ignore[assignment]


def _sentence(path: object, number: int) -> str:
    remedy = "raise the limit on the size of files" if number == errno.EFBIG else "free some space"
    return f"{path or 'a file'} cannot be written: {os.strerror(number)}; {remedy} and run the same command again"
