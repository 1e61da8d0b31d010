"""Real vLLM killed: the engine killed or hung, and the service itself killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes import descendants, runs
from tests.service.engine_ends import hurt_and_check, shared_memory, socket_files
from tests.service.swapping import screen

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


@pytest.fixture(scope="module")
def service(launch_service: Callable[..., Any], checkpoint: Path) -> Iterator[Any]:
    with launch_service(
        "--checkpoint", str(checkpoint),
        "--cpu-worker", "apart",  # as on several GPUs: two processes that can die
        "--max-concurrent", "4",
        "--engine-hang-seconds", "20",  # a busy machine is slow and does not hang
        "--deadline-seconds", "900",  # what ends a request is the engine's end, not its deadline
        "--answer-cache-entries", "0",  # a repeated question must be answered by the engine
        "--draft-tokens", "0",  # and in the same way: a new engine has other drafts, which can decide near ties
    ) as process:  # fmt: skip
        yield process


@pytest.mark.parametrize(
    ("title", "blow"),
    [
        ("VLLM::Worker", signal.SIGSTOP),
        # test_vllm_service_ends.py kills an engine core with its worker.
        *(
            pytest.param(title, blow, marks=pytest.mark.exhaustive)
            for title, blow in [
                ("VLLM::Worker", signal.SIGKILL),
                ("VLLM::EngineCore", signal.SIGKILL),
                ("VLLM::EngineCore", signal.SIGSTOP),
            ]
        ),
    ],
    ids=lambda value: value.name if isinstance(value, signal.Signals) else value,
)
def test_an_engine_that_is_killed_or_hangs_restarts(service, make_sample, wait_until, title, blow) -> None:
    before = screen(service, make_sample(99))
    hurt_and_check(service, make_sample, wait_until, title, blow)
    after = screen(service, make_sample(99))
    assert [after[key] for key in ("choice", "reasoning", "checkpoint")] == [
        before[key] for key in ("choice", "reasoning", "checkpoint")
    ]


def test_a_killed_service_leaves_no_process_no_shared_memory_no_socket_and_no_copy(service, wait_until) -> None:
    kill_and_check(service, wait_until)


@pytest.mark.exhaustive  # tests/screening/runtime does the same to a process without an engine
def test_a_service_killed_with_its_children_leaves_nothing_either(launch_service, checkpoint, wait_until) -> None:
    # Its worker runs inside the engine core, which is the default.
    with launch_service("--checkpoint", str(checkpoint)) as process:
        kill_and_check(process, wait_until, with_children=True)


def kill_and_check(process: Any, wait_until: Callable[..., None], *, with_children: bool = False) -> None:
    pid = process.popen.pid
    below, memory, sockets = descendants(pid), shared_memory(pid), {path.parent for path in socket_files(pid)}
    (lock,) = {path for path in map(os.readlink, Path(f"/proc/{pid}/fd").iterdir()) if "/screening-" in path}
    # The guard, multiprocessing's tracker, the engine core, and the worker if it has its own process.
    assert len(below) in (3, 4) and memory and len(sockets) == 1
    process.popen.kill()
    if with_children:  # as the kernel or a person may do it; only the guard is left
        for child in below:
            if "process_reaper.py" not in Path(f"/proc/{child}/cmdline").read_text():
                os.kill(child, signal.SIGKILL)
    wait_until(lambda: not [child for child in below if runs(child)])
    assert not [path for path in memory if path.exists()]
    assert not Path(lock).parent.exists()
    assert not [path for path in sockets if path.exists()]
