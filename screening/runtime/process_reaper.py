"""What an engine leaves behind when it does not end by itself: processes and shared memory.

vLLM's engine core does not notice that the process which started it was killed: it stays, with its worker and 400 MB of
address space in /dev/shm. A killed worker leaves its part of /dev/shm to the end of the service. So both are looked up
in /proc while the engine lives, and cleared away afterwards:

- by the service itself, when it ends or rebuilds an engine;
- by `guard`, a process of its own that outlives the service, or a command of the trainer, when that was killed.

Why not a signal at the parent's death (PR_SET_PDEATHSIG): it would need code in each of vLLM's processes, is tied to
the *thread* that started them, and cleans no memory. Why not a thread in them that watches a pipe: it stands still with
a process that hangs. A mark in the environment is not enough: vLLM's processes overwrite theirs with their title.
They do so seconds after their start, so the mark finds those that were born after the last look.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory lies on Linux
_OURS = ("psm_", "sem.mp-")
"""What Python's multiprocessing calls its segments and semaphores. Others (CUDA's, say) may have other users."""
_LET_BE = (b"resource_tracker", Path(__file__).name.encode())
"""In the command line of our own helpers, which end by themselves."""
_MARK = "GUARDED_BY_SCREENING"
"""Environment variable of what a guarded process starts: its process number, its start time and the guard's. Its name
does not begin with `SCREENING_`: the service refuses unknown settings, and may be started by a guarded process."""
_ROUNDS = 3
"""Most times that the guard looks and clears: a process may start another while it is being killed."""
_LOOK_SECONDS = 2.0
_FIRST_LOOKS = 0.25
"""Seconds to the first look; the wait doubles from look to look. Many processes are killed soon after their start."""
_END_SECONDS = 10.0
"""For killed processes to be gone."""


class Process(NamedTuple):
    """One process; its start time tells it from a later one of the same number."""

    pid: int
    started: str


class Remains:
    """The processes below some others, and the shared memory they use. Linux only."""

    def __init__(self, spared: frozenset[Process] = frozenset()) -> None:
        """
        Args:
            spared: processes that are let be, with everything below them.
        """
        self._spared = spared
        self._processes: set[Process] = set()
        self._segments: set[tuple[str, int]] = set()
        """Name and inode: the name alone could be given anew."""

    def look(self, root: int) -> None:
        """Remember what runs below `root` or below a process remembered before, and the shared memory of it all.

        Takes some milliseconds: it reads /proc.
        """
        self._look(root, _by_pid(), set())

    def look_for_orphans(self, parent: str) -> None:
        """As `look`, after the end of the parent: also what it started since the last look.

        Args:
            parent: process number and start time, as in the mark that `guard` puts into the environment.
        """
        mark, processes = f"{_MARK}={parent}".encode(), _by_pid()
        self._look(int(parent.partition(":")[0]), processes, {pid for pid in processes if _has(mark, pid)})

    def _look(self, root: int, parents: dict[int, tuple[int, str]], orphans: set[int]) -> None:
        spared = {pid for pid, started in self._spared if parents.get(pid, (0, ""))[1] == started}
        below = {root} | {process.pid for process in self._alive(parents)} | (orphans - spared)
        while more := {pid for pid, (parent, _) in parents.items() if parent in below} - below - spared:
            below |= more
        below = {pid for pid in below - {root} if not _is_helper(pid)}
        self._processes = {Process(pid, parents[pid][1]) for pid in below}
        inodes = set[int]().union(*map(_shared_inodes, below))
        self._segments = {segment for segment in _segments() if segment in self._segments or segment[1] in inodes}

    def clear(self) -> list[str]:
        """Kill what is remembered and still there, and delete the shared memory. Returns what it found, for the log."""
        found = []
        for process in self._alive(_by_pid()):
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
                found.append(str(process.pid))
        until = time.monotonic() + _END_SECONDS
        while self._alive(_by_pid()) and time.monotonic() < until:  # what they hold is free only then
            time.sleep(0.02)
        for name, _ in self._segments & set(_segments()):
            with suppress(FileNotFoundError):
                (SHARED_MEMORY / name).unlink()
                found.append(name)
        self._processes.clear()
        self._segments.clear()
        return found

    def _alive(self, parents: dict[int, tuple[int, str]]) -> list[Process]:
        return [process for process in self._processes if parents.get(process.pid, (0, ""))[1] == process.started]


def _by_pid() -> dict[int, tuple[int, str]]:
    """Parent and start time of every process that runs."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):
                # The name in brackets may hold anything; the numbers come after it (proc_pid_stat(5)).
                fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
                if fields[0] not in "ZX":
                    found[int(folder.name)] = int(fields[1]), fields[19]
    return found


def _is_helper(pid: int) -> bool:
    with suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        return any(word in command for word in _LET_BE)
    return False


def _has(mark: bytes, pid: int) -> bool:
    """Whether a process was started with this entry in its environment."""
    with suppress(OSError):
        return mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return False


def _segments() -> list[tuple[str, int]]:
    if not SHARED_MEMORY.is_dir():
        return []
    with os.scandir(SHARED_MEMORY) as entries:
        return [(entry.name, entry.inode()) for entry in entries if entry.name.startswith(_OURS)]


def _shared_inodes(pid: int) -> set[int]:
    """By inode and not by name: a semaphore is mapped under the name it had before it got its own."""
    with suppress(OSError), Path(f"/proc/{pid}/maps").open(encoding="utf-8", errors="replace") as lines:
        return {int(line.split()[4]) for line in lines if str(SHARED_MEMORY) in line}
    return set()


def guard(*directories: Path) -> subprocess.Popen[bytes]:
    """Start the process that clears up when this one is gone, however it ends, or when the block is left.

    It ends what this process starts from now on, and nothing that runs already.

    Args:
        directories: temporary ones, to be deleted then.
    """
    # This file alone: without the package and site-packages it starts in 20 ms and holds 10 MB. In a session of its
    # own, so that what is sent to the service's group does not reach it.
    running = _by_pid()
    spared = [f"{pid}:{started}" for pid, (parent, started) in running.items() if parent == os.getpid()]
    # Of this guard alone: another one of the same process lets be what is started now.
    this = os.environ[_MARK] = f"{os.getpid()}:{running[os.getpid()][1]}:{time.monotonic_ns()}"
    command = [sys.executable, "-I", "-S", __file__, this, ",".join(spared), *map(str, directories)]
    return subprocess.Popen(  # noqa: S603 - this very file
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )


def _stand_guard(guarded: str, spared: str, directories: Iterable[str]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # systemd sends them to all processes of a service, which needs its guard while it drains.
        signal.signal(number, signal.SIG_IGN)
    children = (one.split(":") for one in spared.split(",") if one)
    remains = Remains(frozenset(Process(int(pid), started) for pid, started in children))
    # Nothing is written to standard input: it ends with the guarded process, which alone holds its other end.
    root, wait = int(guarded.partition(":")[0]), _FIRST_LOOKS
    while not select.select([sys.stdin], [], [], wait)[0]:
        remains.look(root)
        wait = min(2 * wait, _LOOK_SECONDS)
    found: list[str] = []
    for _ in range(_ROUNDS):
        remains.look_for_orphans(guarded)
        if not (cleared := remains.clear()):
            break
        found += cleared
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)
    if found:
        line = {
            "level": "warning",
            "logger": "screening.runtime.process_reaper",
            "event": "cleared up after the service",
        }
        print(json.dumps({**line, "found": found}), file=sys.stderr)


if __name__ == "__main__":
    _stand_guard(sys.argv[1], sys.argv[2], sys.argv[3:])
