"""Lists processes, for tests that end one and check what it leaves running."""

from __future__ import annotations

from contextlib import suppress

import psutil


def runs(pid: int) -> bool:
    """Whether a process exists and has not ended. One that ended and was not waited for is a zombie."""
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def descendants(pid: int, word: str = "") -> list[int]:
    """Process ids of the children of a process, their children and so on, whose command line has this word."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if word in " ".join(process.cmdline()):
                found.append(process.pid)
    return found
