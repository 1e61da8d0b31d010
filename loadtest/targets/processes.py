"""The processes of a service and their resources. They are found from the service's process, never by name alone."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the place of POSIX shared memory on Linux

ENGINE_CORE = "VLLM::EngineCore"
WORKER = "VLLM::Worker"
"""Titles of vLLM's processes."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """The resources of a tree of processes."""

    processes: int
    memory_bytes: int
    """Proportional set size; shared pages count once."""
    open_files: int
    threads: int


def tree(pid: int) -> list[psutil.Process]:
    """The process and its descendants; empty if it has ended."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def footprint(pid: int) -> Footprint:
    """Measure the processes; a process that ends meanwhile does not count."""
    found = []
    for process in tree(pid):
        with suppress(psutil.NoSuchProcess):
            found.append((process.memory_full_info().pss, process.num_fds(), process.num_threads()))
    return Footprint(
        len(found), sum(memory for memory, *_ in found), sum(f for _, f, _ in found), sum(t for *_, t in found)
    )


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, without processes below it."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def engine_processes(pid: int) -> dict[str, list[psutil.Process]]:
    """Engine core and workers below a service, identified by their titles."""
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
    """The processes that still run. A zombie holds no resources and does not count."""
    return [each for each in processes if each.is_running() and _status(each) != psutil.STATUS_ZOMBIE]


def _status(process: psutil.Process) -> str:
    try:
        return str(process.status())
    except psutil.NoSuchProcess:
        return str(psutil.STATUS_ZOMBIE)


def wait_gone(processes: Iterable[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait until all processes have ended; returns those that still run after the time limit."""
    left, until = alive(processes), time.monotonic() + seconds
    while left and time.monotonic() < until:
        time.sleep(0.1)
        left = alive(left)
    return left


def segments() -> set[str]:
    """Names of all shared memory on this machine."""
    return {path.name for path in SHARED_MEMORY.iterdir()} if SHARED_MEMORY.is_dir() else set()


def held_by(pids: Iterable[int]) -> set[str]:
    """Names of the shared memory that processes have open or mapped, as far as we have permission to see it."""
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
    """Leaked shared memory: it exists although no process has it open or mapped.

    Args:
        once_held: names that the processes in question held, because other programs may leak too.
    """
    left = once_held & segments()
    return sorted(left - held_by(psutil.pids())) if left else []


def wait_not_leaked(once_held: set[str], seconds: float) -> list[str]:
    """Leaked shared memory after a waiting time, in which a helper process may still free it."""
    until = time.monotonic() + seconds
    while (left := leaked(once_held)) and time.monotonic() < until:
        time.sleep(0.2)
    return left


_MAPPED = re.compile(rf"{SHARED_MEMORY}/(.+?)(?: \(deleted\))?$", re.MULTILINE)


def kill(process: psutil.Process) -> None:
    """Kill a process with kill -9. psutil refuses if the process id now belongs to another process."""
    process.kill()
