"""Helpers for tests that end an engine or a service: callers that wait for any answer, and what must be gone."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil

from screening.runtime.process_reaper import SHARED_MEMORY, ProcessReaper
from tests.processes import descendants, runs

RESTART_SECONDS = 400
"""Alone on two cores it takes 20 seconds."""


class NoReaper:
    """Replaces the reaper of an engine whose vLLM is a fake: it ends no processes.

    The children of this process are the services of other tests, which a real reaper would kill.
    """

    def look(self, _pid: int) -> None: ...

    def clear(self) -> list[str]:
        return []


def shared_memory(pid: int) -> set[Path]:
    """Files in /dev/shm of the processes below `pid`; other services may run on the same machine."""
    reaper = ProcessReaper()
    reaper.look(pid)
    return {SHARED_MEMORY / name for name, _ in reaper._segments}


def socket_files(pid: int) -> set[Path]:
    """Files of the Unix sockets that `pid` and the processes below it have bound."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    bound = {one.laddr for process in family for one in process.net_connections("unix")}
    return {Path(name) for name in bound if name.startswith("/")}


def hurt_and_check(
    process: Any, make_sample: Callable[[int], Any], wait_until: Callable[..., None], title: str, blow: signal.Signals
) -> None:
    """Send a signal to a process of a busy engine, and check that the service restarts the engine and loses nothing."""
    cause = "died" if blow == signal.SIGKILL else "hung"
    metric = f'screening_engine_restarts_total{{cause="{cause}",result="ok"}}'
    restarts = process.metric(metric)
    old, memory = descendants(process.popen.pid, "VLLM::"), shared_memory(process.popen.pid)
    (victim,) = descendants(process.popen.pid, title)
    callers = Callers(process, make_sample, 12)
    wait_until(lambda: process.metric("screening_engine_running ") > 0)
    os.kill(victim, blow)
    for answer in callers.join():
        assert isinstance(answer, httpx.Response), answer
        assert answer.status_code in (200, 503), answer.text
        assert answer.status_code == 200 or int(answer.headers["retry-after"]) >= 1
    wait_until(lambda: process.metric(metric) == restarts + 1, seconds=RESTART_SECONDS)
    assert httpx.get(f"{process.base_url}/livez").status_code == 200
    process.wait_ready()
    assert not [pid for pid in old if runs(pid)]
    assert not [path for path in memory if path.exists()]


class Callers:
    """Threads that each send one request, and the responses."""

    def __init__(self, process: Any, make_sample: Callable[[int], Any], count: int) -> None:
        self.answers: list[httpx.Response | httpx.TransportError] = []
        self._threads = [
            threading.Thread(target=self._call, args=(process.base_url, make_sample(i))) for i in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def _call(self, base_url: str, sample: Any) -> None:
        try:
            self.answers.append(httpx.post(f"{base_url}/screen", json=sample.json(), timeout=RESTART_SECONDS))
        except httpx.TransportError as error:
            self.answers.append(error)

    def join(self) -> list[httpx.Response | httpx.TransportError]:
        for thread in self._threads:
            thread.join()
        return self.answers
