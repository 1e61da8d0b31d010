"""Where a publisher copies to before the copy takes its place; and what publishers leave that were killed meanwhile.

    STORE/.incoming-…/.lock         held by the publisher until it ends, however it ends
    STORE/.incoming-…/checkpoint/   what it copies and proves

Locks keep processes apart: two publishers are two processes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trainer.runs.run_directory import LOCK_NAME

PREFIX = ".incoming-"
UNLOCKED_SECONDS = 24 * 3600
"""For how long one without a lock is left alone: it has just been made, or a version from before locks works in it."""


@contextmanager
def incoming(store: Path) -> Iterator[Path]:
    """A directory of a store that is this publisher's alone, and gone with the block. Those of ended ones go first.

    Raises:
        OSError: the store cannot be written.
    """
    remove_abandoned(store)
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=store) as made:
        directory = Path(made)
        lock = _locked(directory)
        try:
            yield directory
        finally:
            os.close(lock)


def remove_abandoned(store: Path) -> None:
    """Delete what publishers left that have ended. What belongs to others, or cannot be deleted, stays."""
    for directory in store.glob(f"{PREFIX}*"):
        with suppress(OSError):
            _remove_if_abandoned(directory)


def _locked(directory: Path) -> int:
    """The file descriptor of a lock that ends with this process; see `run_directory.occupy` for why it is lockf's.

    The file gets its name once it is locked, so a publisher that finds it free knows that its owner has ended.
    """
    unnamed = directory / f"{LOCK_NAME}.new"
    lock = os.open(unnamed, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    with suppress(OSError):  # a file system without locks: nobody can find this one free either
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    unnamed.rename(directory / LOCK_NAME)
    return lock


def _remove_if_abandoned(directory: Path) -> None:
    try:
        lock = os.open(directory / LOCK_NAME, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        if time.time() - directory.stat().st_mtime > UNLOCKED_SECONDS:
            shutil.rmtree(directory)
        return
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(directory)
    finally:
        os.close(lock)
