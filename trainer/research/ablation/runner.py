"""Run tasks in parallel, each in its own process with a share of the cores.

Every trainer command continues a killed run, so this module stores no state: the same call skips finished tasks and
continues the others. When it receives a stop signal, it stops its tasks first. After a kill -9, a task may keep
running. It keeps the lock of its run directory, and the same call fails until that task has ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from screening.runtime.cpus import usable_cpus
from trainer.research.ablation.tasks import Task

LOOK_EVERY = 1.0
"""Seconds."""
_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
GRACE = 60.0
"""Maximum time in seconds for a task to stop, in which an engine stops its processes."""


def run(tasks: Sequence[Task], logs: Path, jobs: int) -> list[str]:
    """Run the unfinished tasks, `jobs` at once, in their order as far as their dependencies allow.

    Args:
        logs: directory for one log file per task.

    Raises:
        SystemExit: a signal ended the run, after all tasks have stopped.

    Returns:
        One line per unfinished task with the reason; empty if all are finished.
    """
    waiting = [task for task in tasks if not task.done]
    running: dict[str, tuple[Task, subprocess.Popen[bytes]]] = {}
    failures: list[str] = []
    done = len(tasks) - len(waiting)
    with (
        _told_to_end() as told,
        tqdm(total=len(tasks), initial=done, desc="ablation", unit="task") as bar,
    ):
        try:
            while (waiting or running) and not told:
                while len(running) < jobs and (task := next((t for t in waiting if _ready(t)), None)):
                    waiting.remove(task)
                    running[task.name] = task, _start(task, logs, jobs)
                    bar.set_postfix_str(", ".join(running))
                if not running:
                    failures += [f"{task.name}: not run, because an earlier task has no result" for task in waiting]
                    break
                time.sleep(LOOK_EVERY)
                for name, (task, process) in list(running.items()):
                    if (status := process.poll()) is None:
                        continue
                    del running[name]
                    if status or not task.done:
                        failures.append(f"{name}: exit status {status}; see {_log(logs, task)}")
                        bar.write(failures[-1])
                    bar.update()
                    bar.set_postfix_str(", ".join(running))
        finally:
            _end([process for _, process in running.values()])
    if told:
        print("stopped; run the same command again to continue", file=sys.stderr)
        raise SystemExit(128 + told[0])
    return failures


def _ready(task: Task) -> bool:
    return all(path.exists() for path in task.needs)


def _start(task: Task, logs: Path, jobs: int) -> subprocess.Popen[bytes]:
    path = _log(logs, task)
    path.parent.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ)
    if jobs > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cpus() // jobs)))
    with path.open("ab") as log:
        command = [sys.executable, "-m", "trainer", *task.command]
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)  # noqa: S603 - our own command


def _log(logs: Path, task: Task) -> Path:
    return logs / f"{task.name.replace('/', '-')}.log"


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    limit = time.monotonic() + GRACE
    for process in processes:
        try:
            process.wait(max(0.0, limit - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()


@contextmanager
def _told_to_end() -> Iterator[list[int]]:
    """Collects signals that ask this process to stop.

    The handler only records them, because an exception could come between the start of a task and its registration.
    """
    told: list[int] = []
    before = {number: signal.signal(number, lambda got, _frame: told.append(got)) for number in _ENDING}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
