"""Temporary directories of a store in which `publish` makes its copy; those of killed publishers are removed.

    STORE/.incoming-…/.lock         locked by the publisher until its process ends
    STORE/.incoming-…/checkpoint/   the copy that is verified and then renamed

The locks separate processes, not threads: two publishers are two processes.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trainer.runs.process_lock import LOCK_NAME, open_lock_file, try_lock

PREFIX = ".incoming-"
UNLOCKED_SECONDS = 24 * 3600
"""Age from which a directory without a lock file is removed. A younger one may have just been made."""


@contextmanager
def incoming(store: Path) -> Iterator[Path]:
    """Make a temporary directory in a store for this publisher alone, and delete it at the end of the block.

    Directories of publishers that have ended are deleted first.

    Raises:
        OSError: the store is not writable.
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
    """Delete the directories of publishers that have ended, except those that cannot be deleted."""
    for directory in store.glob(f"{PREFIX}*"):
        with suppress(OSError):
            _remove_if_abandoned(directory)


def _locked(directory: Path) -> int:
    """Lock a directory until this process ends. Returns the lock's file descriptor.

    The lock file gets its name after it is locked, so another publisher that finds it unlocked knows that its owner has
    ended.
    """
    unnamed = directory / f"{LOCK_NAME}.new"
    lock = open_lock_file(unnamed)
    with suppress(OSError):  # on a file system without locks, other publishers cannot lock it either
        try_lock(lock)
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
        if try_lock(lock):
            shutil.rmtree(directory)
    finally:
        os.close(lock)
