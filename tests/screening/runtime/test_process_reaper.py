"""Nothing outlives a service that was killed: with processes and shared memory like vLLM's, in place of vLLM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import shared_memory
from pathlib import Path

import pytest

from screening.runtime.process_reaper import SHARED_MEMORY, Process, ProcessReaper
from tests.processes import runs

pytestmark = pytest.mark.slow

FAMILY = """
import multiprocessing, os, signal, sys, time
from multiprocessing import shared_memory
from pathlib import Path
from screening.runtime.process_reaper import guard

def worker(names):
    memory = shared_memory.SharedMemory(create=True, size=4096)
    names.put((os.getpid(), memory.name))
    time.sleep(3600)

def core(names):
    memory = shared_memory.SharedMemory(create=True, size=4096)
    names.put((os.getpid(), memory.name))
    multiprocessing.get_context("spawn").Process(target=worker, args=(names,)).start()
    time.sleep(3600)

if __name__ == "__main__":
    watching = guard(Path(sys.argv[1]))
    if "blind" in sys.argv:
        os.kill(watching.pid, signal.SIGSTOP)
    context = multiprocessing.get_context("spawn")
    names = context.Queue()
    context.Process(target=core, args=(names,)).start()
    print(watching.pid, *(f"{pid} {name}" for pid, name in (names.get(), names.get())), flush=True)
    sys.stdin.read()
    for child in multiprocessing.active_children():
        child.terminate()
"""


@dataclass
class Family:
    """A service with a core and a worker below it, and a guard."""

    popen: subprocess.Popen[str]
    guard: int
    core: int
    worker: int
    memory: list[Path]
    directory: Path

    def gone(self) -> bool:
        pids = (self.guard, self.core, self.worker)
        return not any(map(runs, pids)) and not any(path.exists() for path in (*self.memory, self.directory))


@pytest.fixture
def family(tmp_path: Path, repository: Path, request: pytest.FixtureRequest) -> Iterator[Family]:
    """A test may give the parameter `blind`: the guard is stopped before its first look."""
    script, directory = tmp_path / "family.py", tmp_path / "copies"
    script.write_text(FAMILY)
    directory.mkdir()
    popen = subprocess.Popen(
        [sys.executable, str(script), str(directory), getattr(request, "param", "")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(repository)},
    )  # fmt: skip
    assert popen.stdin and popen.stdout
    guard, core, first, worker, second = popen.stdout.readline().split()
    memory = [SHARED_MEMORY / first, SHARED_MEMORY / second]
    family = Family(popen, int(guard), int(core), int(worker), memory, directory)
    yield family
    for pid in (family.core, family.worker):
        if runs(pid):
            os.kill(pid, signal.SIGKILL)
    popen.kill()
    popen.stdin.close()
    popen.stdout.close()
    popen.wait()


def guarded(family: Family, wait_until: Callable[..., None]) -> None:
    """Wait until the guard has seen the worker. It looks every two seconds; a real service lives longer."""

    def status(field: str) -> str:
        lines = Path(f"/proc/{family.guard}/status").read_text().splitlines()
        return next(line.split()[1] for line in lines if line.startswith(field))

    wait_until(lambda: all(path.exists() for path in family.memory))
    # The guard has started once it ignores signals. It then sleeps once per check: after two more sleeps, one check
    # lies in between.
    wait_until(lambda: int(status("SigIgn"), 16) >> (signal.SIGHUP - 1) & 1)
    slept = int(status("voluntary_ctxt_switches"))
    wait_until(lambda: int(status("voluntary_ctxt_switches")) >= slept + 2)


def test_a_killed_service_takes_everything_with_it(family, wait_until) -> None:
    guarded(family, wait_until)
    family.popen.kill()
    wait_until(family.gone)


@pytest.mark.parametrize("family", ["blind"], indirect=True)
def test_processes_that_started_after_the_last_look_are_found_too(family, wait_until) -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    family.popen.kill()
    family.popen.wait()
    os.kill(family.guard, signal.SIGCONT)
    wait_until(family.gone)
    assert sleeper.poll() is None, "started by another process"
    sleeper.kill()
    sleeper.wait()


def test_hanging_processes_end_too_even_after_a_kill_of_the_core(family, wait_until) -> None:
    guarded(family, wait_until)
    os.kill(family.worker, signal.SIGSTOP)
    os.kill(family.core, signal.SIGKILL)
    family.popen.kill()
    wait_until(family.gone)


def test_the_guard_stays_through_the_signals_that_a_service_gets(family, wait_until) -> None:
    guarded(family, wait_until)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(family.guard, number)
    family.popen.kill()
    wait_until(family.gone)


def test_after_a_normal_end_the_guard_goes_as_well(family, wait_until) -> None:
    guarded(family, wait_until)
    family.popen.stdin.close()
    family.popen.wait(300)
    wait_until(family.gone)


def test_memory_and_processes_of_others_are_left_alone(family, wait_until) -> None:
    ours = shared_memory.SharedMemory(create=True, size=4096)
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    try:
        reaper = ProcessReaper()
        reaper.look(family.popen.pid)
        found = reaper.clear()
        assert {str(family.core), str(family.worker), *(path.name for path in family.memory)} <= set(found)
        wait_until(lambda: not runs(family.worker))
        assert runs(family.guard), "it has a task left"
        assert (SHARED_MEMORY / ours.name).exists() and sleeper.poll() is None
        assert reaper.clear() == []
    finally:
        sleeper.kill()
        sleeper.wait()
        ours.close()
        ours.unlink()


def test_a_later_process_of_the_same_number_is_left_alone() -> None:
    reaper = ProcessReaper()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        reaper._processes = {Process(child.pid, started="0")}
        assert reaper.clear() == [] and child.poll() is None
        child.kill()
