"""The ends of real vLLM: the service drained by SIGTERM, its engine killed or hung, and the service itself killed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from screening.runtime.process_reaper import SHARED_MEMORY, ProcessReaper
from tests.processes import descendants, runs

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

REBUILD_SECONDS = 400
"""Alone on two cores it takes 20 seconds."""


def shared_memory(pid: int) -> set[Path]:
    """Files in /dev/shm of the processes below `pid`; other services may run on the same machine."""
    reaper = ProcessReaper()
    reaper.look(pid)
    return {SHARED_MEMORY / name for name, _ in reaper._segments}


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
            self.answers.append(httpx.post(f"{base_url}/screen", json=sample.json(), timeout=REBUILD_SECONDS))
        except httpx.TransportError as error:
            self.answers.append(error)

    def join(self) -> list[httpx.Response | httpx.TransportError]:
        for thread in self._threads:
            thread.join()
        return self.answers


def test_sigterm_loses_no_request_leaves_no_process_and_exits_with_0(
    launch_service, checkpoint, make_sample, wait_until
) -> None:
    with launch_service("--checkpoint", str(checkpoint), "--max-concurrent", "4") as process:
        below, memory = descendants(process.popen.pid), shared_memory(process.popen.pid)
        assert memory
        callers = Callers(process, make_sample, 24)
        wait_until(lambda: process.metric("screening_in_flight ") >= 12)
        process.popen.terminate()
        statuses = [getattr(answer, "status_code", answer) for answer in callers.join()]
        # Requests that came after the signal get an answer that says so; none is cut off.
        assert set(statuses) <= {200, 503} and statuses.count(200) >= 12
        assert process.popen.wait(60) == 0
        assert not [one for one in process.events() if one["level"] in ("error", "critical")]
        assert "Exception ignored" not in process.log.read_text()
        wait_until(lambda: not [pid for pid in below if runs(pid)])
        wait_until(lambda: not [path for path in memory if path.exists()])


@pytest.fixture(scope="module")
def service(launch_service: Callable[..., Any], checkpoint: Path) -> Iterator[Any]:
    with launch_service(
        "--checkpoint", str(checkpoint),
        "--cpu-worker", "apart",  # as on several GPUs: two processes that can die
        "--max-concurrent", "4",
        "--engine-hang-seconds", "20",
        "--deadline-seconds", "900",  # what ends a request is the engine's end, not its deadline
        "--answer-cache-entries", "0",  # a repeated question must be answered by the engine
        "--draft-tokens", "0",  # and in the same way: a new engine has other drafts, which can decide near ties
    ) as process:  # fmt: skip
        yield process


VICTIMS = [
    ("VLLM::Worker", signal.SIGKILL, "died"),
    ("VLLM::EngineCore", signal.SIGKILL, "died"),
    ("VLLM::EngineCore", signal.SIGSTOP, "hung"),
    ("VLLM::Worker", signal.SIGSTOP, "hung"),
]


IN_EVERY_RUN = {"EngineCore-SIGKILL", "Worker-SIGSTOP"}


def victims() -> list[Any]:
    named = [(f"{title[6:]}-{blow.name}", title, blow, cause) for title, blow, cause in VICTIMS]
    return [
        pytest.param(*rest, id=name, marks=[] if name in IN_EVERY_RUN else [pytest.mark.exhaustive])
        for name, *rest in named
    ]


@pytest.mark.parametrize(("title", "blow", "cause"), victims())
def test_an_engine_that_is_killed_or_hangs_restarts(service, make_sample, wait_until, title, blow, cause) -> None:
    before = httpx.post(f"{service.base_url}/screen", json=make_sample(99).json(), timeout=120).json()
    rebuilt = f'screening_engine_rebuilds_total{{cause="{cause}",result="ok"}}'
    rebuilds = service.metric(rebuilt)
    old, memory = descendants(service.popen.pid, "VLLM::"), shared_memory(service.popen.pid)
    (victim,) = descendants(service.popen.pid, title)
    callers = Callers(service, make_sample, 32)
    wait_until(lambda: service.metric("screening_engine_running ") > 0)
    os.kill(victim, blow)
    for answer in callers.join():
        assert isinstance(answer, httpx.Response), answer
        assert answer.status_code in (200, 503), answer.text
        assert answer.status_code == 200 or int(answer.headers["retry-after"]) >= 1
    wait_until(lambda: service.metric(rebuilt) == rebuilds + 1, seconds=REBUILD_SECONDS)
    assert httpx.get(f"{service.base_url}/livez").status_code == 200
    service.wait_ready()
    after = httpx.post(f"{service.base_url}/screen", json=make_sample(99).json(), timeout=120).json()
    assert [after[key] for key in ("choice", "reasoning", "checkpoint")] == [
        before[key] for key in ("choice", "reasoning", "checkpoint")
    ]
    assert not [pid for pid in old if runs(pid)]
    assert not [path for path in memory if path.exists()]


@pytest.mark.parametrize("with_children", [False, True], ids=["alone", "with its children"])
def test_a_killed_service_leaves_no_process_no_shared_memory_and_no_copy(
    service, launch_service, checkpoint, wait_until, with_children
) -> None:
    if service.popen.poll() is None:
        kill_and_check(service, wait_until, with_children=with_children)
    else:  # with the worker inside the engine core, which is the default
        with launch_service("--checkpoint", str(checkpoint)) as process:
            kill_and_check(process, wait_until, with_children=with_children)


def kill_and_check(process: Any, wait_until: Callable[..., None], *, with_children: bool) -> None:
    pid = process.popen.pid
    below, memory = descendants(pid), shared_memory(pid)
    (lock,) = {path for path in map(os.readlink, Path(f"/proc/{pid}/fd").iterdir()) if "/screening-" in path}
    # The guard, multiprocessing's tracker, the engine core, and the worker if it has its own process.
    assert len(below) in (3, 4) and memory
    process.popen.kill()
    if with_children:  # as the kernel or a person may do it; only the guard is left
        for child in below:
            if "process_reaper.py" not in Path(f"/proc/{child}/cmdline").read_text():
                os.kill(child, signal.SIGKILL)
    wait_until(lambda: not [child for child in below if runs(child)])
    assert not [path for path in memory if path.exists()]
    assert not Path(lock).parent.exists()
