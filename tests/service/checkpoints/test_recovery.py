"""The restart of an engine that died or hangs, with an engine that fails at the points that the test chooses.

tests/service/engines/test_vllm_end.py does the same to the real engine.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from screening.checkpoint.probes import Probe
from service.checkpoints import supervisor
from service.checkpoints.local_store import LocalStore
from service.checkpoints.supervisor import wait_before
from service.errors import EngineLost
from service.pipeline import screen
from tests.service.obedient_engine import ObedientEngine, version

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(supervisor, "FIRST_WAIT", 0.01)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def ready(running: Any) -> None:
    async with asyncio.timeout(60):
        while await running.status("/readyz") != 200:
            await asyncio.sleep(0.005)


async def test_a_dead_engine_restarts_on_the_served_checkpoint(serve, sample, make_sample) -> None:
    engine = ObedientEngine(latency_ms=60_000)
    async with serve(engine) as running:
        assert (await running.take_up("two")).status_code == 200
        bodies = [make_sample(seed).json() for seed in range(2, 5)]
        inside = [asyncio.create_task(running.client.post("/screen", json=body)) for body in bodies]
        await until(lambda: engine.running() == 3)
        engine.seconds = 0.3
        engine.die()
        for response in await asyncio.gather(*inside):
            assert response.status_code == 503 and int(response.headers["retry-after"]) >= 1
        await until(lambda: engine.history[-1] == "start 2")
        refused = await running.client.post("/screen", json=sample.json())
        assert refused.status_code == 503 and refused.json()["type"].endswith(":not-ready")
        assert await running.status("/readyz") == 503
        assert await running.status("/livez") == 200, "a restart would take longer"
        await ready(running)
        assert engine.history == ["start 1", "reload 2", "stop", "start 2"]
        assert running.metric("screening_engine_restarts_total", cause="died", result="ok") == 1
        engine.answer_at_once()
        answer = await running.client.post("/screen", json=sample.json())
        assert answer.status_code == 200 and answer.json()["checkpoint"]["version"] == "2"


async def test_retry_after_is_the_time_that_the_last_start_took(serve, sample) -> None:
    engine = ObedientEngine(latency_ms=60_000)
    engine.seconds = 1.5
    async with serve(engine) as running:
        inside = asyncio.create_task(running.client.post("/screen", json=sample.json()))
        await until(lambda: engine.running() == 1)
        engine.die()
        assert int((await inside).headers["retry-after"]) >= 2
        await until(lambda: len(engine.history) == 3)
        assert int((await running.client.post("/screen", json=sample.json())).headers["retry-after"]) >= 1
        assert int((await running.client.get("/readyz")).headers["retry-after"]) >= 1


async def test_an_engine_that_hangs_is_killed_and_restarts(serve, sample) -> None:
    engine = ObedientEngine()
    async with serve(engine, engine_hang_seconds=0.2) as running:
        engine.hang()
        response = await running.client.post("/screen", json=sample.json())
        assert response.status_code == 503 and "retry-after" in response.headers
        await ready(running)
        assert engine.history == ["start 1", "kill", "stop", "start 1"]
        assert running.metric("screening_engine_restarts_total", cause="hung", result="ok") == 1
        assert (await running.client.post("/screen", json=sample.json())).status_code == 200


async def test_a_slow_engine_that_still_answers_is_not_killed(serve, make_sample) -> None:
    engine = ObedientEngine(latency_ms=30)
    async with serve(engine, engine_hang_seconds=0.5, max_concurrent=1) as running:
        calls = [running.client.post("/screen", json=make_sample(seed).json()) for seed in range(40)]
        assert {response.status_code for response in await asyncio.gather(*calls)} == {200}
        assert engine.history == ["start 1"]


async def test_an_idle_engine_is_not_killed(serve) -> None:
    engine = ObedientEngine()
    async with serve(engine, engine_hang_seconds=0.05):
        await asyncio.sleep(0.3)
        assert engine.history == ["start 1"]


async def test_no_admitted_request_reaches_an_engine_that_is_not_verified(serve, make_sample) -> None:
    engine = ObedientEngine(latency_ms=60_000)
    async with serve(engine, max_concurrent=1, max_queue=4) as running:
        bodies = [make_sample(seed).json() for seed in range(5)]
        calls = [asyncio.create_task(running.client.post("/screen", json=body)) for body in bodies]
        admission = running.app.state.service.admission
        await until(lambda: engine.running() == 1 and admission.inside == 5)
        engine.seconds = 60
        engine.die()
        await until(lambda: engine.history[-1] == "start 1" and len(engine.history) == 3)
        assert {response.status_code for response in await asyncio.gather(*calls)} == {503}
        reached = engine.reached
        with pytest.raises(EngineLost):  # as one whose body was slow
            async with admission.slot():
                pass
        assert engine.reached == reached


@pytest.fixture
def slow_decoder(monkeypatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """A decoder that sets the first event when it begins, and continues when the second one is set."""
    prepare, began, release = screen._prepare, threading.Event(), threading.Event()

    def held(index, picture, image):
        began.set()
        assert release.wait(60)
        return prepare(index, picture, image)

    monkeypatch.setattr(screen, "_prepare", held)
    yield began, release
    release.set()


async def test_a_request_that_was_decoding_does_not_reach_an_engine_that_is_not_verified(
    serve, sample, slow_decoder, monkeypatch
) -> None:
    began, release = slow_decoder
    engine = ObedientEngine()
    log_probabilities, asked, verify = engine.log_probabilities, asyncio.Event(), asyncio.Event()

    async def held(probe: Probe, /) -> list[float]:
        asked.set()
        await verify.wait()
        return await log_probabilities(probe)

    async with serve(engine) as running:
        monkeypatch.setattr(engine, "log_probabilities", held)
        inside = asyncio.create_task(running.client.post("/screen", json=sample.json()))
        await until(began.is_set)
        engine.die()
        await until(asked.is_set)
        assert engine.alive, "it has loaded its weights"
        release.set()
        response = await inside
        assert response.status_code == 503 and int(response.headers["retry-after"]) >= 1
        assert engine.reached == 0
        verify.set()
        await ready(running)
        answer = await running.client.post("/screen", json=sample.json())
        assert answer.status_code == 200 and answer.json()["source"] == "engine"


async def test_a_restart_that_fails_is_tried_again(serve, sample) -> None:
    engine = ObedientEngine()
    async with serve(engine) as running:
        engine.fails["start"] = lambda _: engine.history.count("start 1") < 3
        engine.die()
        await until(lambda: engine.history.count("start 1") == 3)
        await ready(running)
        assert running.metric("screening_engine_restarts_total", cause="died", result="failed") == 1
        assert (await running.client.post("/screen", json=sample.json())).status_code == 200


async def test_an_engine_that_dies_during_a_restart_is_restarted_again(serve) -> None:
    engine = ObedientEngine()
    async with serve(engine) as running:
        engine.seconds = 3600
        engine.die()
        await until(lambda: engine.history.count("start 1") == 2)
        engine.seconds = 0
        engine.die()
        await until(lambda: engine.history.count("start 1") == 3)
        await ready(running)
        assert running.metric("screening_engine_restarts_total", cause="died", result="failed") == 1


async def test_a_restart_that_takes_too_long_is_ended_and_tried_again(serve) -> None:
    engine = ObedientEngine()
    async with serve(engine, engine_restart_seconds=1) as running:
        engine.seconds = 3600
        engine.die()
        await until(lambda: engine.history.count("start 1") == 2)
        engine.seconds = 0
        await ready(running)
        assert engine.history.count("start 1") == 3


async def test_a_new_engine_that_fails_the_probes_answers_no_request(serve, sample) -> None:
    engine = ObedientEngine()
    async with serve(engine) as running:
        engine.fails["probe"] = lambda _: True
        engine.die()
        await until(lambda: engine.history.count("start 1") >= 3)
        assert (await running.client.post("/screen", json=sample.json())).status_code == 503
        assert engine.reached == 0
        engine.fails.clear()
        await ready(running)


async def test_livez_fails_after_some_failed_restarts_in_a_row_and_recovers(serve) -> None:
    engine = ObedientEngine()
    async with serve(engine, engine_restart_attempts=3) as running:
        engine.fails["start"] = lambda _: True
        engine.die()
        async with asyncio.timeout(60):
            while await running.status("/livez") != 503:
                assert engine.history.count("start 1") <= 4, "three restarts have failed"
                await asyncio.sleep(0.001)
        assert engine.history.count("start 1") >= 4
        assert await running.status("/readyz") == 503
        engine.fails.clear()  # whatever it was, it passed before the process was restarted
        await ready(running)
        assert await running.status("/livez") == 200


async def test_livez_fails_for_an_engine_that_dies_again_and_again(serve) -> None:
    engine = ObedientEngine()
    async with serve(engine, engine_restart_attempts=3) as running:
        for restarts in range(1, 4):
            engine.die()
            await until(lambda wanted=restarts: engine.history.count("start 1") == 1 + wanted)
            await ready(running)
        engine.seconds = 0.5
        engine.die()
        async with asyncio.timeout(60):
            while await running.status("/livez") != 503:
                await asyncio.sleep(0.005)


async def test_a_healthy_period_ends_the_row_of_failures(serve, monkeypatch) -> None:
    monkeypatch.setattr(supervisor, "HEALTHY_SECONDS", 0.0)
    engine = ObedientEngine()
    async with serve(engine, engine_restart_attempts=1) as running:
        for restarts in range(1, 4):
            engine.die()
            await until(lambda wanted=restarts: engine.history.count("start 1") == 1 + wanted)
            assert await running.status("/livez") == 200
            await ready(running)


def test_waits_double_to_a_minute(monkeypatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_WAIT", 1.0)
    assert [wait_before(attempts) for attempts in (0, 1, 2, 3, 6, 7, 8, 5000)] == [0, 1, 2, 4, 32, 60, 60, 60]


async def test_an_engine_that_dies_in_a_swap_restarts_once_on_the_old_checkpoint(serve, sample) -> None:
    engine = ObedientEngine()
    async with serve(engine) as running:
        engine.seconds = 0.3
        swapping = asyncio.create_task(running.take_up("two"))
        await until(lambda: engine.history[-1] == "reload 2")
        engine.die()
        first = await swapping
        assert first.status_code == 503 and "retry-after" in first.headers
        await ready(running)
        assert engine.history == ["start 1", "reload 2", "stop", "start 1"], "the supervisor leaves it to the swap"
        assert (await running.state())["refused"] == [], "it may have been killed at that very moment"
        answer = await running.client.post("/screen", json=sample.json())
        assert answer.json()["checkpoint"]["version"] == "1"

        swapping = asyncio.create_task(running.take_up("two"))
        await until(lambda: engine.history[-1] == "reload 2")
        engine.die()
        assert (await swapping).status_code == 409, "twice is no accident"
        assert len((await running.state())["refused"]) == 1


async def test_a_hang_while_a_swap_waits_for_requests_is_not_the_checkpoints_fault(serve, sample) -> None:
    engine = ObedientEngine()
    async with serve(engine, engine_hang_seconds=0.3) as running:
        engine.hang()
        inside = asyncio.create_task(running.client.post("/screen", json=sample.json()))
        await until(lambda: engine.running() == 1)
        response = await running.take_up("two")
        assert response.status_code == 503 and (await inside).status_code == 503
        await ready(running)
        assert engine.history == ["start 1", "kill", "stop", "start 1"]
        assert (await running.take_up("two")).status_code == 200


@pytest.fixture
def slow_store(monkeypatch) -> Iterator[threading.Event]:
    """A store that `two` is not copied from before this is set."""
    real, there = LocalStore.copy_in, threading.Event()

    def copy_in(self: LocalStore, source: Path, watch: Any = None) -> Any:
        assert source.name != "two" or there.wait(60)
        return real(self, source)

    monkeypatch.setattr(LocalStore, "copy_in", copy_in)
    yield there
    there.set()


async def test_a_dead_engine_does_not_wait_for_a_store_that_hangs(serve, sample, slow_store) -> None:
    engine = ObedientEngine()
    async with serve(engine) as running:
        taking = asyncio.create_task(running.take_up("two"))
        while not (await running.state())["busy"]:
            await asyncio.sleep(0.005)
        engine.die()
        await until(lambda: engine.history == ["start 1", "stop", "start 1"])
        await ready(running)
        assert (await running.client.post("/screen", json=sample.json())).status_code == 200
        assert (await running.take_up("one")).status_code == 503, "one at a time"
        assert not taking.done()
        slow_store.set()
        assert (await taking).status_code == 200 and engine.history[-1] == "reload 2"


async def test_a_checkpoint_that_was_copied_during_a_restart_is_loaded_afterwards(serve, slow_store) -> None:
    engine = ObedientEngine()
    async with serve(engine) as running:
        taking = asyncio.create_task(running.take_up("two"))
        while not (await running.state())["busy"]:
            await asyncio.sleep(0.005)
        engine.seconds = 0.3
        engine.die()
        await until(lambda: engine.history == ["start 1", "stop", "start 1"])
        slow_store.set()
        assert (await taking).status_code == 200
        assert engine.history == ["start 1", "stop", "start 1", "reload 2"]


async def test_a_checkpoint_that_was_copied_for_an_engine_that_cannot_start_is_postponed(serve, slow_store) -> None:
    engine = ObedientEngine()
    async with serve(engine) as running:
        taking = asyncio.create_task(running.take_up("two"))
        while not (await running.state())["busy"]:
            await asyncio.sleep(0.005)
        engine.fails["start"] = lambda _: True
        engine.die()
        await until(lambda: engine.history.count("start 1") >= 3)
        slow_store.set()
        assert (await taking).status_code == 503
        engine.fails.clear()
        await ready(running)
        assert (await running.take_up("two")).status_code == 200


async def test_when_a_roll_back_fails_the_supervisor_takes_over(serve, sample) -> None:
    engine = ObedientEngine()
    async with serve(engine) as running:
        engine.fails["reload"] = lambda _: True
        engine.fails["start"] = lambda _: engine.history.count("start 1") < 4
        response = await running.take_up("two")
        assert response.status_code == 409, "the operator hears why it was refused"
        await until(lambda: engine.history.count("start 1") == 4)
        await ready(running)
        assert await running.version() == "1"
        assert (await running.client.post("/screen", json=sample.json())).status_code == 200


async def test_a_checkpoint_that_no_engine_starts_on_is_refused(serve, store) -> None:
    (store / "two" / "tokenizer.json").write_text('{"other": 1}')
    from tests.service.obedient_engine import describe

    describe(store / "two", version="2")
    engine = ObedientEngine()
    async with serve(engine) as running:
        engine.fails["start"] = version("2")
        assert (await running.take_up("two")).status_code == 503, "the engine may have been killed"
        assert (await running.take_up("two")).status_code == 409
        assert engine.history == ["start 1", *["stop", "start 2", "stop", "start 1"] * 2]
        assert await running.version() == "1" and await running.status("/readyz") == 200


async def test_a_shutdown_does_not_wait_for_a_restart(serve) -> None:
    engine = ObedientEngine()
    async with asyncio.timeout(60), serve(engine) as running:
        engine.seconds = 3600
        engine.die()
        await until(lambda: engine.history.count("start 1") == 2)
        del running
    assert engine.history[-1] == "stop"


async def test_an_engine_that_dies_in_a_drain_is_not_restarted(serve, sample) -> None:
    engine = ObedientEngine(latency_ms=60_000)
    async with serve(engine) as running:
        inside = asyncio.create_task(running.client.post("/screen", json=sample.json()))
        await until(lambda: engine.running() == 1)
        running.app.state.service.admission.close()
        engine.die()
        assert (await inside).status_code == 503
        await asyncio.sleep(0.1)
        assert engine.history == ["start 1"]


async def test_an_error_of_the_supervisor_does_not_end_it(serve) -> None:
    engine = ObedientEngine()
    async with serve(engine, engine_hang_seconds=0.05) as running:
        killed: list[int] = []
        real = engine.kill

        async def kill() -> None:
            killed.append(1)
            if len(killed) == 1:
                raise PermissionError("no /proc today")
            await real()

        engine.kill = kill  # type: ignore[method-assign]
        engine.hang()
        engine.inside = 1
        await until(lambda: len(killed) == 2)
        engine.inside = 0
        await ready(running)
