"""Start-up, drain, and the end of the process."""

from __future__ import annotations

import asyncio
import json
import threading

import httpx
import pytest

from service.scripted_engine import ScriptedEngine


@pytest.mark.anyio
async def test_while_the_engine_loads_the_process_lives_but_takes_nothing(start, sample) -> None:
    async with start(ScriptedEngine(start_ms=60_000), wait=False) as running:
        assert (await running.client.get("/livez")).status_code == 200
        for path in ("/readyz", "/startupz"):
            response = await running.client.get(path)
            assert response.status_code == 503 and int(response.headers["retry-after"]) >= 1
        response = await running.client.post("/screen", json=sample.json())
        assert response.status_code == 503 and response.json()["type"].endswith(":not-ready")


@pytest.mark.anyio
async def test_once_started_all_health_is_green_and_names_the_engine(start) -> None:
    async with start() as running:
        for path in ("/livez", "/readyz", "/startupz"):
            response = await running.client.get(path)
            assert response.status_code == 200 and response.json() == {"status": "ok", "engine": "scripted"}


@pytest.mark.anyio
async def test_a_drain_refuses_the_new_and_finishes_what_is_inside(start, sample) -> None:
    engine = ScriptedEngine(latency_ms=200)
    async with start(engine) as running:
        inside = asyncio.create_task(running.client.post("/screen", json=sample.json()))
        async with asyncio.timeout(60):
            while engine.running() == 0:
                await asyncio.sleep(0.001)
        running.app.state.service.admission.close()
        refused = await running.client.post("/screen", json=sample.json())
        assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1
        assert (await running.client.get("/readyz")).status_code == 503
        assert (await running.client.get("/livez")).status_code == 200
        assert (await running.client.get("/startupz")).status_code == 200
        assert (await inside).status_code == 200


def test_sigterm_finishes_requests_in_flight_refuses_new_ones_and_exits_with_0(
    launch_service, sample, make_sample, wait_until
) -> None:
    with launch_service("--engine", "scripted", "--scripted-latency-ms", "4000") as process:
        statuses: list[int] = []

        def call(seed: int) -> None:
            body = make_sample(seed).json()
            statuses.append(httpx.post(f"{process.base_url}/screen", json=body, timeout=60).status_code)

        with httpx.Client(base_url=process.base_url, timeout=60) as kept_alive:
            kept_alive.get("/readyz")
            threads = [threading.Thread(target=call, args=(seed,)) for seed in range(6)]
            for thread in threads:
                thread.start()
            wait_until(lambda: process.metric("screening_engine_running ") == 6)
            process.popen.terminate()
            wait_until(lambda: kept_alive.get("/readyz").status_code == 503)
            assert kept_alive.post("/screen", json=sample.json()).status_code == 503
        for thread in threads:
            thread.join()
        assert statuses == [200] * 6
        assert process.popen.wait(60) == 0


def test_an_engine_that_cannot_start_ends_the_process_with_an_error(launch_service) -> None:
    with launch_service("--engine", "scripted", "--scripted-failure", "start", ready=False) as process:
        assert process.popen.wait(60) not in (0, None)
        assert any(event["event"] == "start failed" for event in process.events())


def test_every_request_leaves_one_log_line_with_its_id_and_no_picture(launch_service, sample) -> None:
    with launch_service("--engine", "scripted") as process:
        body = sample.json()
        httpx.post(f"{process.base_url}/screen", json=body, headers={"X-Request-Id": "log-me"}, timeout=60)
        assert process.terminate() == 0
        lines = [event for event in process.events() if event.get("request_id") == "log-me"]
    assert len(lines) == 1
    line = lines[0]
    assert line["event"] == "request" and line["status"] == 200 and line["outcome"] == "answered"
    assert {"choice", "checkpoint", "timings", "ms"} <= line.keys()
    assert body["original"][:40] not in json.dumps(line)


def test_a_service_says_where_it_stands_and_goes_on(scripted_service) -> None:
    said = scripted_service.stacks()
    assert "thread 0x" in said and "in _serve" in said, said
    assert httpx.get(f"{scripted_service.base_url}/readyz").status_code == 200
