"""Cleans up processes and shared memory that an engine leaves when it does not shut down cleanly.

vLLM's engine core does not notice that its parent process was killed. It keeps running with its worker, and keeps
400 MB of /dev/shm mapped. A killed worker also leaves its shared memory allocated. Therefore this module records both
from /proc while the engine runs, and two parties clean them up:

- the service itself, when it stops or restarts an engine;
- `guard`, a separate process that outlives the service or a command of the trainer if that was killed.

Alternatives do not work. A signal at the parent's death (PR_SET_PDEATHSIG) would need code in each of vLLM's processes,
depends on the *thread* that started them, and frees no memory. A thread in them that watches a pipe stops working in a
process that hangs. A mark in the environment does not suffice, because vLLM's processes overwrite their environment
with their title. They do so seconds after their start, so the mark does find those that started after the last scan.
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

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - Linux keeps POSIX shared memory there
_OURS = ("psm_", "sem.mp-")
"""Prefixes of the segments and semaphores of Python's multiprocessing. Other segments may have other users."""
_LET_BE = (b"resource_tracker", Path(__file__).name.encode())
"""Parts of the command lines of our own helper processes, which end by themselves."""
_MARK = "GUARDED_BY_SCREENING"
"""Environment variable that the children of a guarded process inherit: its process id, its start time and the start
time of the guard. The name does not begin with `SCREENING_`, because a guarded process may start the service, which
refuses unknown settings."""
_ROUNDS = 3
"""Maximum number of scans and clean-ups by the guard. A process may start another one while it is being killed."""
_LOOK_SECONDS = 2.0
"""Maximum time between two scans of the guard."""
_FIRST_LOOKS = 0.25
"""Time to the guard's first scan in seconds. It doubles with each scan, because many processes are killed early."""
_END_SECONDS = 10.0
"""Maximum time to wait for killed processes to disappear."""


class Process(NamedTuple):
    """A process. Its start time distinguishes it from a later process with the same id."""

    pid: int
    started: str


class ProcessReaper:
    """Records the descendants of a process and the shared memory that they use, and removes both. Linux only."""

    def __init__(self, spared: frozenset[Process] = frozenset()) -> None:
        """
        Args:
            spared: processes that are left alone, together with their descendants.
        """
        self._spared = spared
        self._processes: set[Process] = set()
        self._segments: set[tuple[str, int]] = set()
        """Name and inode of each segment. The name alone could be reused."""

    def look(self, root: int) -> None:
        """Record the descendants of `root` and of the recorded processes, and the shared memory of all of them.

        This takes some milliseconds, because it reads /proc.
        """
        self._look(root, _by_pid(), set())

    def look_for_orphans(self, parent: str) -> None:
        """Do the same as `look` after the parent has ended, and also record what it started since the last scan.

        Args:
            parent: process id and start time, as in the mark that `guard` puts into the environment.
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
        """Kill the recorded processes and delete their shared memory. Returns their ids and names for the log."""
        found = []
        for process in self._alive(_by_pid()):
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
                found.append(str(process.pid))
        until = time.monotonic() + _END_SECONDS
        while self._alive(_by_pid()) and time.monotonic() < until:  # their resources are not free before
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
    """Return the parent and the start time of every running process."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):
                # The name in parentheses may contain anything; the numbers follow it (proc_pid_stat(5)).
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
    """Return the inodes of the shared memory that a process maps. Names do not work, because a semaphore is mapped
    under the temporary name that it had before it was renamed."""
    with suppress(OSError), Path(f"/proc/{pid}/maps").open(encoding="utf-8", errors="replace") as lines:
        return {int(line.split()[4]) for line in lines if str(SHARED_MEMORY) in line}
    return set()


def guard(*directories: Path) -> subprocess.Popen[bytes]:
    """Start a process that cleans up as soon as this one has ended in any way, or the `with` block is left.

    It kills the processes that this process starts from now on, and none that already run.

    Args:
        directories: temporary directories to delete at the end.
    """
    # The guard runs this file alone. Without the package and site-packages, it starts in 20 ms and uses 10 MB. Its own
    # session protects it from signals to the process group of the service.
    running = _by_pid()
    spared = [f"{pid}:{started}" for pid, (parent, started) in running.items() if parent == os.getpid()]
    # The mark names this guard. Another guard of the same process ends no process that carries it.
    this = os.environ[_MARK] = f"{os.getpid()}:{running[os.getpid()][1]}:{time.monotonic_ns()}"
    command = [sys.executable, "-I", "-S", __file__, this, ",".join(spared), *map(str, directories)]
    return subprocess.Popen(  # noqa: S603 - this very file
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )


def _stand_guard(guarded: str, spared: str, directories: Iterable[str]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # systemd sends these signals to all processes of a service, but the service needs its guard while it drains.
        signal.signal(number, signal.SIG_IGN)
    children = (one.split(":") for one in spared.split(",") if one)
    reaper = ProcessReaper(frozenset(Process(int(pid), started) for pid, started in children))
    # The guarded process alone holds the other end of standard input and writes nothing, so the pipe closes with it.
    root, wait = int(guarded.partition(":")[0]), _FIRST_LOOKS
    while not select.select([sys.stdin], [], [], wait)[0]:
        reaper.look(root)
        wait = min(2 * wait, _LOOK_SECONDS)
    found: list[str] = []
    for _ in range(_ROUNDS):
        reaper.look_for_orphans(guarded)
        if not (cleared := reaper.clear()):
            break
        found += cleared
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)
    if found:
        line = {
            "level": "warning",
            "logger": "screening.runtime.process_reaper",
            "event": "cleaned up after the service",
        }
        print(json.dumps({**line, "found": found}), file=sys.stderr)


if __name__ == "__main__":
    _stand_guard(sys.argv[1], sys.argv[2], sys.argv[3:])
