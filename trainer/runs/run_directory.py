"""A run directory belongs to one run: the same command continues it, any other is refused."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from screening.errors import UserError
from screening.runtime.atomic_write import partial_path, write_atomically

ORIGIN_NAME = "run.json"
_HALF_CLAIMED = partial_path(Path(ORIGIN_NAME)).name
"""All that a run leaves which is killed while it claims its directory."""
LOCK_NAME = ".lock"


class RunMismatch(UserError):
    """The directory holds a run with other settings or inputs, or another process works in it; name another."""


_occupied: dict[Path, int] = {}
"""Locks of this process, as file descriptors, held until it ends."""


def claim(directory: Path, origin: dict[str, Any]) -> None:
    """Make the directory this run's, or see that it is.

    Args:
        origin: everything that decides the run's result, as JSON values.

    Raises:
        RunMismatch: it is another run's, or holds files of something else.
    """
    see_whose(directory, origin)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / ORIGIN_NAME
    if not path.exists():
        write_atomically(path, json.dumps(origin, indent=1) + "\n")


def see_whose(directory: Path, origin: dict[str, Any]) -> None:
    """As `claim`, and writes nothing: for before the work, where the directory is made at its end.

    Raises:
        RunMismatch: as `claim`.
    """
    path = directory / ORIGIN_NAME
    if path.exists():
        if json.loads(path.read_text(encoding="utf-8")) != json.loads(json.dumps(origin)):
            raise RunMismatch(
                f"{directory} holds a run with other settings or data; name another directory or remove it"
            )
    elif directory.exists():
        entries = list(directory.iterdir()) if directory.is_dir() else [directory]
        others = sorted(entry.name for entry in entries if entry.name != _HALF_CLAIMED)
        if others:
            raise RunMismatch(f"{directory} holds something else ({', '.join(others[:3])}); name another directory")


def occupy(directory: Path) -> None:
    """Keep other processes out of a run directory until this one ends, however it ends.

    Of the processes of one distributed training the first does it for all.

    Raises:
        RunMismatch: another process works in it.
    """
    path = directory.resolve()
    if path in _occupied or os.environ.get("RANK", "0") != "0":
        return
    lock = os.open(directory / LOCK_NAME, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        # A record lock, not filelock's flock: a flock survives in the processes that a killed run had forked.
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        os.close(lock)
        raise RunMismatch(f"another process works in {directory}; wait for it, or end it") from None
    _occupied[path] = lock
