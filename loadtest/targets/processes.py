"""The processes of a service and what they hold: found by walking down from its own, never by name alone."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory lives on Linux

ENGINE_CORE = "VLLM::EngineCore"
WORKER = "VLLM::Worker"
"""Titles that vLLM gives its processes."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a tree of processes holds."""

    processes: int
    memory_bytes: int
    """Proportional set size: a page that several share counts once."""
    open_files: int
    threads: int


def tree(pid: int) -> list[psutil.Process]:
    """The process and all below it; empty when it is gone."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def footprint(pid: int) -> Footprint:
    """A process that ends while it is looked at counts nothing."""
    found = []
    for process in tree(pid):
        with suppress(psutil.NoSuchProcess):
            found.append((process.memory_full_info().pss, process.num_fds(), process.num_threads()))
    return Footprint(
        len(found), sum(memory for memory, *_ in found), sum(f for _, f, _ in found), sum(t for *_, t in found)
    )


def engine_processes(pid: int) -> dict[str, list[psutil.Process]]:
    """Engine core and workers below a service, by title."""
    found: dict[str, list[psutil.Process]] = {ENGINE_CORE: [], WORKER: []}
    for process in tree(pid)[1:]:
        title = _title(process)
        for role, members in found.items():
            if title.startswith(role):
                members.append(process)
    return found


def _title(process: psutil.Process) -> str:
    try:
        return str((process.cmdline() or [""])[0])
    except psutil.Error:
        return ""


def alive(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that still run. A process that has ended and was not waited for (a zombie) holds nothing any more."""
    return [each for each in processes if each.is_running() and _status(each) != psutil.STATUS_ZOMBIE]


def _status(process: psutil.Process) -> str:
    try:
        return str(process.status())
    except psutil.NoSuchProcess:
        return str(psutil.STATUS_ZOMBIE)


def wait_gone(processes: Iterable[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait until all have ended; those that have not after so long."""
    left, until = alive(processes), time.monotonic() + seconds
    while left and time.monotonic() < until:
        time.sleep(0.1)
        left = alive(left)
    return left


def segments() -> set[str]:
    """Names of the shared memory of this machine."""
    return {path.name for path in SHARED_MEMORY.iterdir()} if SHARED_MEMORY.is_dir() else set()


def held_by(pids: Iterable[int]) -> set[str]:
    """Names of the shared memory that processes have open or mapped, as far as we may look into them."""
    held: set[str] = set()
    for pid in pids:
        folder = Path("/proc", str(pid))
        with suppress(OSError):
            held |= set(_MAPPED.findall((folder / "maps").read_text(errors="replace")))
            for link in (folder / "fd").iterdir():
                with suppress(OSError):
                    held |= set(_MAPPED.findall(str(link.readlink())))
    return held


def leaked(once_held: set[str]) -> list[str]:
    """What of it is still there although no process has it open or mapped: nobody will ever free it.

    Args:
        once_held: names that the processes in question held. Others on this machine may leak too.
    """
    left = once_held & segments()
    return sorted(left - held_by(psutil.pids())) if left else []


def wait_not_leaked(once_held: set[str], seconds: float) -> list[str]:
    """What is leaked after so long at most: a helper process may be about to free it."""
    until = time.monotonic() + seconds
    while (left := leaked(once_held)) and time.monotonic() < until:
        time.sleep(0.2)
    return left


_MAPPED = re.compile(rf"{SHARED_MEMORY}/(.+?)(?: \(deleted\))?$", re.MULTILINE)


def kill(process: psutil.Process) -> None:
    """kill -9. psutil refuses when the number belongs to another process by now."""
    process.kill()
