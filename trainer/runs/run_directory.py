"""Run directories. Each belongs to one run: the same command continues it, and any other command is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from uuid import uuid4

from screening.errors import UserError
from screening.runtime.atomic_write import partial_path
from trainer.runs.process_lock import LOCK_NAME, open_lock_file, try_lock

ORIGIN_NAME = "run.json"
_HALF_CLAIMED = partial_path(Path(f"{ORIGIN_NAME}*")).name
"""Pattern of the only files that runs leave if they are killed while they claim a directory."""


class RunMismatch(UserError):
    """The directory holds a run with other settings or inputs, or another process is using it."""


_SHOWN, _LONGEST = 3, 40
"""Number of differing settings in a message, and of characters of a value."""

_occupied: dict[Path, int] = {}
"""Locked directory → file descriptor of its lock. This process holds the locks until it ends."""


def claim(directory: Path, origin: dict[str, Any]) -> None:
    """Claim a new or empty directory for this run, or check that the directory already belongs to it.

    Of two runs that claim a directory at the same moment, one gets it.

    Args:
        origin: everything that decides the run's result, as JSON values.

    Raises:
        RunMismatch: the directory belongs to another run, or holds other files.
    """
    see_whose(directory, origin)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / ORIGIN_NAME
    if not path.exists():
        _create(path, json.dumps(origin, indent=1) + "\n")
    see_whose(directory, origin)  # another run may have been faster


def _create(path: Path, content: str) -> None:
    """Create a file as a whole, unless another process creates it meanwhile."""
    own = partial_path(path.with_name(f"{path.name}.{uuid4().hex}"))
    try:
        with own.open("w", encoding="utf-8") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        try:
            os.link(own, path)
        except FileExistsError:
            pass
        except OSError:  # the file system has no hard links; then the last process wins
            own.replace(path)
    finally:
        own.unlink(missing_ok=True)


def see_whose(directory: Path, origin: dict[str, Any]) -> None:
    """Check like `claim`, without writing. For commands that create the directory at the end of their work.

    Raises:
        RunMismatch: as `claim`.
    """
    path = directory / ORIGIN_NAME
    there = _entries(directory)  # before the file is looked for, because another run may claim the directory now
    if path.exists():
        before, now = json.loads(path.read_text(encoding="utf-8")), json.loads(json.dumps(origin))
        if before != now:
            raise RunMismatch(
                f"{directory} holds a run with other settings or data ({_differences(before, now)}). "
                "Give the same as for that run, or name another directory"
            )
    elif others := [name for name in there if not fnmatch(name, _HALF_CLAIMED)]:
        raise RunMismatch(f"{directory} holds other files ({', '.join(others[:3])}); name another directory")


def _entries(directory: Path) -> list[str]:
    """Sorted names in a directory; its own name if it is a file, and none if it does not exist."""
    if directory.is_dir():
        return sorted(entry.name for entry in directory.iterdir())
    return [directory.name] if directory.exists() else []


def _differences(before: object, now: object) -> str:
    """The first settings that differ, such as `shares.testing 3/10 there, 117/32011 now`."""
    old, new = dict(_leaves(before)), dict(_leaves(now))
    differing = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    shown = (f"{name} {_short(old.get(name))} there, {_short(new.get(name))} now" for name in differing[:_SHOWN])
    more = f"; {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
    return "; ".join(shown) + more


def _leaves(node: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Each value of nested objects, with its dotted path."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _leaves(value, f"{path}.{name}" if path else name)
    else:
        yield path, node


def _short(value: object) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def occupy(directory: Path) -> None:
    """Lock a run directory against other processes until this process ends, even by a kill.

    In a distributed training, the process of rank 0 holds the lock for all.

    Raises:
        RunMismatch: another process is using the directory.
    """
    path = directory.resolve()
    if path in _occupied or os.environ.get("RANK", "0") != "0":
        return
    lock = open_lock_file(directory / LOCK_NAME)
    if not try_lock(lock):
        os.close(lock)
        raise RunMismatch(f"another process is using {directory}; wait until it ends, or stop it")
    _occupied[path] = lock
