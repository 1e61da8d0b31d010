"""Places, slots, and the errors for refused callers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from service.admission.admission import LONGEST, SOON, Admission
from service.engines.scripted_engine import ScriptedEngine
from service.errors import NotReady, Overloaded
from service.metrics import Metrics

pytestmark = pytest.mark.anyio


def opened(max_concurrent: int, max_queue: int) -> Admission:
    admission = Admission(max_concurrent=max_concurrent, max_queue=max_queue, metrics=Metrics())
    admission.open()
    return admission


async def test_admission_is_limited_to_running_and_waiting_requests() -> None:
    admission = opened(2, 1)
    with admission.admit(), admission.admit():
        with admission.admit():
            with pytest.raises(Overloaded), admission.admit():
                pass
            assert admission.inside == 3
        with admission.admit():
            pass
    assert admission.inside == 0


async def test_retry_after_is_queue_times_mean_service_time_over_concurrency() -> None:
    admission = opened(2, 100)
    admission.mean_seconds = 3.0
    places = [admission.admit() for _ in range(9)]
    for place in places:
        place.__enter__()
    # Nine wait and the caller would be the tenth: 10 x 3 s / 2 at a time.
    assert admission.retry_after() == 15
    for place in places:
        place.__exit__(None, None, None)
    admission.mean_seconds = 0.001
    assert admission.retry_after() == 1


async def test_the_wait_for_an_engine_follows_its_last_start_and_is_never_minutes() -> None:
    admission = opened(1, 0)
    admission.restart_seconds = 17.2
    assert admission.ready_in() == 18
    admission.expect_ready(7.5)
    assert 1 <= admission.ready_in() <= 8
    admission.expect_ready(-3)
    assert admission.ready_in() == SOON, "overdue"
    admission.expect_ready(900)
    assert admission.ready_in() == LONGEST
    admission.expect_ready(None)
    assert admission.ready_in() == 18


async def test_a_fast_failure_does_not_shorten_the_estimate() -> None:
    admission = opened(1, 0)
    for _ in range(50):
        with pytest.raises(ValueError, match="no picture"):
            async with admission.slot():
                raise ValueError("no picture")
    assert admission.mean_seconds == 1.0
    async with admission.slot():
        pass
    assert admission.mean_seconds < 1.0


async def test_a_slow_failure_lengthens_the_estimate() -> None:
    admission = opened(1, 0)
    admission.mean_seconds = 0.0
    with pytest.raises(TimeoutError):
        async with admission.slot():
            await asyncio.sleep(0.01)
            raise TimeoutError
    assert admission.mean_seconds > 0.0


async def test_a_closed_door_says_why_and_a_drain_is_not_undone() -> None:
    admission = Admission(max_concurrent=1, max_queue=0, metrics=Metrics())
    with pytest.raises(NotReady, match="starting"), admission.admit():
        pass
    admission.close()
    admission.open()
    with pytest.raises(NotReady, match="draining"), admission.admit():
        pass


async def test_waiting_until_idle_ends_when_the_last_one_leaves() -> None:
    admission = opened(1, 0)
    with admission.admit():
        assert await admission.wait_until_idle(0.01) is False
        waiting = asyncio.create_task(admission.wait_until_idle(30))
        await asyncio.sleep(0)
    assert await waiting is True


async def test_a_full_queue_refuses_before_a_byte_of_the_body_is_read(start, sample) -> None:
    engine = ScriptedEngine(latency_ms=60_000)
    async with start(engine, max_concurrent=1, max_queue=1) as running:
        inside = [asyncio.create_task(running.client.post("/screen", json=sample.json())) for _ in range(2)]
        async with asyncio.timeout(60):
            while running.app.state.service.admission.inside < 2:
                await asyncio.sleep(0.001)
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            raise AssertionError("the body was read")

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "method": "POST", "path": "/screen", "raw_path": b"/screen", "query_string": b"",
            "headers": [(b"content-type", b"application/json")], "http_version": "1.1", "scheme": "http",
            "server": ("test", 80), "client": ("test", 1), "root_path": "",
        }  # fmt: skip
        await running.app(scope, receive, send)
        assert sent[0]["status"] == 429
        assert int(dict(sent[0]["headers"])[b"retry-after"]) >= 1
        assert running.metric("screening_rejected_total", reason="queue_full") == 1
        for task in inside:
            task.cancel()
        await asyncio.gather(*inside, return_exceptions=True)


@pytest.mark.slow
async def test_no_more_than_max_concurrent_are_in_the_engine(start, make_sample) -> None:
    engine, released = ScriptedEngine(latency_ms=0), asyncio.Event()
    generate = engine.generate
    inside = most = 0

    async def held(question: Any) -> Any:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await released.wait()
        try:
            return await generate(question)
        finally:
            inside -= 1

    engine.generate = held  # type: ignore[method-assign]
    async with start(engine, max_concurrent=3, max_queue=40) as running:
        bodies = [make_sample(seed).json() for seed in range(20)]
        calls = [asyncio.create_task(running.client.post("/screen", json=body)) for body in bodies]
        async with asyncio.timeout(60):
            while inside < 3 or running.app.state.service.admission.inside < 20:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.2)  # a fourth would come now
        released.set()
        assert {response.status_code for response in await asyncio.gather(*calls)} == {200}
    assert most == 3


@pytest.mark.slow
async def test_the_deadline_begins_when_the_body_has_arrived(start, sample) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        body = sample.multipart()
        yield body[:100]
        await asyncio.sleep(2.2)
        yield body[100:]

    async with start(deadline_seconds=2) as running:
        response = await running.client.post("/screen", content=slowly(), headers={"Content-Type": sample.content_type})
    assert response.status_code == 200
