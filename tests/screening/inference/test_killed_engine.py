"""Nothing of an offline engine outlives a command that was killed: processes like vLLM's replace vLLM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes import descendants, runs

VLLM = """
import multiprocessing, os, time
from multiprocessing import shared_memory
from pathlib import Path

def worker(queue):
    memory = shared_memory.SharedMemory(create=True, size=4096)
    queue.put((os.getpid(), memory.name))
    time.sleep(3600)

def core(queue):
    Path(os.environ["VLLM_RPC_BASE_PATH"], "socket").touch()
    memory = shared_memory.SharedMemory(create=True, size=4096)
    queue.put((os.getpid(), memory.name))
    multiprocessing.get_context("spawn").Process(target=worker, args=(queue,)).start()
    time.sleep(3600)

class Thing:
    speculative_config = None

class LLM:
    def __init__(self, **_):
        assert os.environ["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
        context = multiprocessing.get_context("spawn")
        queue = context.Queue()
        self._core = context.Process(target=core, args=(queue,))
        self._core.start()
        self.found = [queue.get(), queue.get()]
        self.llm_engine = self.vllm_config = self.engine_core = self
        self.speculative_config = None

    def collective_rpc(self, *_, **__):
        return [None]

    def shutdown(self):
        self._core.kill()
"""

PROGRAM = """
import os, subprocess, sys, time
from pathlib import Path
from types import SimpleNamespace

if __name__ == "__main__":
    import screening.inference.offline_engine as offline
    offline.engine_arguments = lambda *_, **__: {}
    # Without our pipes, or a program that fails would leave its reader waiting.
    nothing = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    other = subprocess.Popen(["sleep", "3600"], **nothing)
    manifest = SimpleNamespace(image=SimpleNamespace(tokens_per_picture=16))
    with offline.start_llm(Path("."), manifest) as llm:
        sockets = os.environ["VLLM_RPC_BASE_PATH"]
        print(other.pid, *(f"{pid} {name}" for pid, name in llm.found), sockets, flush=True)
        if sys.stdin.readline() == "raise\\n":
            raise RuntimeError("as a command might")
    print("left", flush=True)
    sys.stdin.readline()
"""


class Command:
    """A command of the trainer with its engine's processes, and one that it started before."""

    def __init__(self, folder: Path, repository: Path) -> None:
        package = folder / "vllm"
        package.mkdir()
        (package / "__init__.py").write_text(VLLM)
        (package / "platforms.py").write_text("class current_platform:\n    is_cpu = staticmethod(lambda: True)\n")
        (folder / "program.py").write_text(PROGRAM)
        paths = {"PYTHONPATH": f"{folder}:{repository}"}
        self.process = subprocess.Popen(
            [sys.executable, str(folder / "program.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | paths,
        )  # fmt: skip
        assert self.process.stdout is not None
        other, core, first, worker, second, sockets = self.process.stdout.readline().split()
        self.other, self.engine = int(other), (int(core), int(worker))
        self.memory = [Path("/dev/shm") / name for name in (first, second)]
        self.sockets = Path(sockets)

        (self.guard,) = descendants(self.process.pid, "process_reaper.py")

    def gone(self) -> bool:
        return not any(map(runs, self.engine)) and not any(path.exists() for path in (*self.memory, self.sockets))

    def close(self) -> None:
        for pid in (*self.engine, self.other):
            if runs(pid):
                os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_killed_command_takes_its_engine_with_it(
    number: int, tmp_path: Path, repository: Path, wait_until: Callable[..., None]
) -> None:
    command = Command(tmp_path, repository)
    try:
        wait_until(lambda: all(path.exists() for path in command.memory))
        wait_until(lambda: looked(command.guard))
        command.process.send_signal(number)
        wait_until(command.gone)
        wait_until(lambda: not runs(command.guard))
        assert runs(command.other), "what ran before the engine is let be"
    finally:
        command.close()


@pytest.mark.slow
@pytest.mark.parametrize("word", ["raise", "leave"])
def test_leaving_an_engine_ends_its_processes_and_not_the_command(
    word: str, tmp_path: Path, repository: Path, wait_until: Callable[..., None]
) -> None:
    command = Command(tmp_path, repository)
    try:
        assert command.process.stdin is not None
        wait_until(lambda: looked(command.guard))
        command.process.stdin.write(f"{word}\n")
        command.process.stdin.flush()
        wait_until(command.gone)
        if word == "leave":
            assert command.process.stdout is not None and command.process.stdout.readline() == "left\n"
            assert not descendants(command.process.pid, "process_reaper.py") and runs(command.other)
    finally:
        command.close()


def looked(guard: int) -> bool:
    """Whether the guard has checked the processes: it sleeps between two checks."""
    lines = Path(f"/proc/{guard}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt")) >= 4
