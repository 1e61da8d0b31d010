"""Locks on files that end with the process that holds them, even by a kill.

They are record locks (`lockf`). The locks of filelock (`flock`) survive in the processes that a killed run had forked.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

LOCK_NAME = ".lock"
"""Name of the lock file in a directory."""


def open_lock_file(path: Path) -> int:
    """Open a lock file, or create it. Returns its file descriptor; closing that releases the lock."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)


def try_lock(descriptor: int) -> bool:
    """Lock an open file. Returns False if another process holds the lock.

    Raises:
        OSError: the file system keeps no locks.
    """
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def wait_for_lock(descriptor: int) -> None:
    """Lock an open file, after the process that holds the lock has released it or ended.

    Raises:
        OSError: the file system keeps no locks.
    """
    fcntl.lockf(descriptor, fcntl.LOCK_EX)
