"""The two ends of a service on real vLLM: drained by SIGTERM, or robbed of its engine. Each needs its own process."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from typing import Any

import httpx
import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def children(pid: int) -> list[int]:
    """Process ids below `pid`, nearest first."""
    listing = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in listing.splitlines()]
    found, below = [], [pid]
    while below:
        below = [child for child, parent in pairs if parent in below]
        found += below
    return found


def running(pid: int) -> bool:
    listing = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return bool(listing.stdout.strip()) and not listing.stdout.strip().startswith("Z")


def test_sigterm_loses_no_request_leaves_no_process_and_exits_with_0(
    launch_service, checkpoint, make_sample, wait_until
) -> None:
    with launch_service("--checkpoint", str(checkpoint), "--max-concurrent", "4") as process:
        below = children(process.popen.pid)
        statuses: list[Any] = []

        def call(seed: int) -> None:
            try:
                body = make_sample(seed).json()
                statuses.append(httpx.post(f"{process.base_url}/screen", json=body, timeout=120).status_code)
            except httpx.TransportError as error:
                statuses.append(error)

        threads = [threading.Thread(target=call, args=(seed,)) for seed in range(24)]
        for thread in threads:
            thread.start()
        wait_until(lambda: process.metric("screening_in_flight ") >= 12)
        process.popen.terminate()
        for thread in threads:
            thread.join()
        # Those that came after the signal are told so; none is cut off.
        assert set(statuses) <= {200, 503} and statuses.count(200) >= 12
        assert process.popen.wait(60) == 0
        assert not [pid for pid in below if running(pid)]


def test_a_killed_engine_turns_livez_red_and_requests_503(launch_service, checkpoint, sample, wait_until) -> None:
    with launch_service("--checkpoint", str(checkpoint)) as process:
        for pid in children(process.popen.pid):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: httpx.get(f"{process.base_url}/livez").status_code == 503)
        response = httpx.post(f"{process.base_url}/screen", json=sample.json(), timeout=60)
        assert response.status_code == 503 and int(response.headers["retry-after"]) >= 1
        assert httpx.get(f"{process.base_url}/readyz").status_code == 503
