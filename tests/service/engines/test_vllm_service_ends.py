"""The shared service on real vLLM restarts a killed engine, and one for another tokenizer, and ends with SIGTERM.

These tests come after the others of that service (its file name does this), so that no other test waits for a restart.
"""

from __future__ import annotations

import shutil
import signal

import pytest

from screening.checkpoint.manifest import read_manifest
from screening.inference.inspection import inspect
from tests.processes import descendants, runs
from tests.service.damage import describe
from tests.service.engine_ends import Callers, hurt_and_check, shared_memory, socket_files
from tests.service.swapping import screen, take_up

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def test_an_engine_that_is_killed_restarts(vllm_service, make_sample, wordy_sample, wait_until) -> None:
    before = screen(vllm_service, wordy_sample(0))
    hurt_and_check(vllm_service, make_sample, wait_until, "VLLM::EngineCore", signal.SIGKILL)
    after = screen(vllm_service, wordy_sample(0))
    assert [after[key] for key in ("choice", "checkpoint")] == [before[key] for key in ("choice", "checkpoint")]


def test_another_tokenizer_needs_an_engine_restart(vllm_service, published, make_sample) -> None:
    changed = published / "retold"
    shutil.copytree(published / "two", changed)
    config = changed / "tokenizer_config.json"
    config.write_text(config.read_text().rstrip() + "\n\n")
    before = describe(changed, read_manifest(changed))
    assert before.probes is not None
    # As `publish` does, which reads the changed files again.
    reading = inspect(changed, before)
    describe(changed, before, probes=before.probes.model_copy(update={"reading": reading}))
    response = take_up(vllm_service, "retold")
    assert response.status_code == 200 and response.json()["how"] == "restarted"
    assert screen(vllm_service, make_sample(1))["checkpoint"]["digest"] == before.digest


def test_sigterm_loses_no_request_leaves_no_process_and_exits_with_0(
    start_vllm_service, make_sample, wait_until
) -> None:
    process = start_vllm_service()  # not `vllm_service`, which would restart the engine for the first tokenizer
    earlier = len(process.events())
    below, memory = descendants(process.popen.pid), shared_memory(process.popen.pid)
    sockets = socket_files(process.popen.pid)
    assert memory and sockets
    callers = Callers(process, make_sample, 12)
    wait_until(lambda: process.metric("screening_in_flight ") >= 6)
    process.popen.terminate()
    statuses = [getattr(answer, "status_code", answer) for answer in callers.join()]
    # Requests that came after the signal get an answer that says so; none is cut off.
    assert set(statuses) <= {200, 503} and statuses.count(200) >= 6
    assert process.popen.wait(60) == 0
    assert not [one for one in process.events()[earlier:] if one["level"] in ("error", "critical")]
    assert "Exception ignored" not in process.log.read_text()
    wait_until(lambda: not [pid for pid in below if runs(pid)])
    wait_until(lambda: not [path for path in memory if path.exists()])
    assert not [path for path in sockets if path.parent.exists()]
