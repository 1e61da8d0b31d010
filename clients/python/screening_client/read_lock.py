"""A lock for reading what several requests of a bulk run may share: a PIL image or a file object.

Pillow decodes an opened image when its pixels are first used, and a file object has one position. Two threads must not
use either at once. Bytes and paths need no lock.
"""

from __future__ import annotations

import os
import threading

_lock = threading.Lock()


def read_lock() -> threading.Lock:
    """Return the lock of this process."""
    return _lock


def _renew() -> None:
    """Give a forked child its own lock. A lock that another thread holds during a fork stays locked in the child."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_renew)
