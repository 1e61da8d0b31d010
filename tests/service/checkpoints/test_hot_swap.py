"""The order of a hot swap, with an engine that fails at the points that the test chooses.

tests/service/checkpoints/test_vllm_swap.py does the same to the real engine.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from screening.answer import Mode
from screening.calibration import Calibration, Curve
from screening.checkpoint.manifest import Manifest, read_manifest, store_manifest
from screening.checkpoint.probes import Probe
from screening.prompt import COMPACT, locating
from tests.service.obedient_engine import (
    ADMIN,
    ObedientEngine,
    describe,
    logprobs_of,
    make_checkpoint,
    version,
)
from trainer.release.publish.command import publish
from trainer.release.publish.probing import Prober

pytestmark = pytest.mark.anyio


async def test_requests_wait_for_the_swap_and_none_fails_or_mixes(serve, make_sample) -> None:
    engine = ObedientEngine(latency_ms=20)
    async with serve(engine, max_concurrent=4, max_queue=60, answer_cache_entries=0) as running:
        engine.seconds = 0.05
        stop = asyncio.Event()
        answers: list[Any] = []

        async def caller(number: int) -> None:
            while not stop.is_set():
                answers.append(await running.client.post("/screen", json=make_sample(number).json()))

        callers = [asyncio.create_task(caller(number)) for number in range(8)]
        for name in ("two", "one", "two"):
            await asyncio.sleep(0.15)
            response = await running.take_up(name)
            assert response.status_code == 200 and response.json()["how"] == "in_place"
            assert response.json()["pause_ms"] >= 50
        stop.set()
        await asyncio.gather(*callers)
        assert [a.status_code for a in answers] == [200] * len(answers)
        assert {a.json()["checkpoint"]["version"] for a in answers} == {"1", "2"}
        assert running.metric("screening_swaps_total", result="in_place") == 3
        assert engine.history == ["start 1", "reload 2", "reload 1", "reload 2"]


async def test_a_calibration_applies_as_soon_as_its_checkpoint_is_served(
    serve, store, sample, tmp_path, monkeypatch
) -> None:
    """Calibrated, published, served: the same weights, and another confidence from the swap on."""
    calibrated = shutil.copytree(store / "one", tmp_path / "calibrated")
    level = Curve(knots=((-15.0, 0.7499999), (15.0, 0.7500001)))
    level = Calibration(option=level, none=level)
    before = read_manifest(calibrated)
    store_manifest(before.model_copy(update={"calibration": dict.fromkeys(Mode, level)}), calibrated)

    @contextmanager
    def prober(checkpoint: Path, _manifest: Manifest, **_: Any) -> Iterator[Any]:
        found = list(logprobs_of(checkpoint))
        yield Prober(lambda questions: [found] * len(questions), "scripted", lambda _domain, probe: probe.scores)

    monkeypatch.setattr("trainer.release.publish.probing.open_prober", prober)
    monkeypatch.setattr("screening.inference.inspection.inspect", lambda *_: None)  # these have no architecture
    published = publish(calibrated, store)
    async with serve() as running:
        first = (await running.client.post("/screen", json=sample.json())).json()
        assert (await running.take_up(published.name)).json()["how"] == "in_place"
        second = (await running.client.post("/screen", json=sample.json())).json()
    assert first["choice"] == second["choice"]
    assert (first["checkpoint"]["digest"], second["checkpoint"]["digest"]) == (
        before.digest,
        read_manifest(published).digest,
    )
    assert first["confidence"] != 0.75
    assert second["confidence"] == pytest.approx(0.75, abs=1e-6)


@pytest.mark.parametrize("moment", ["reload", "probe"])
async def test_weights_that_fail_verification_are_rolled_back_and_not_tried_again(moment, serve, sample) -> None:
    engine = ObedientEngine()
    async with serve(engine) as running:
        engine.fails[moment] = version("2")
        response = await running.take_up("two")
        assert response.status_code == 409
        assert engine.history == ["start 1", "reload 2", "reload 1"]
        assert await running.version() == "1"
        refused = (await running.state())["refused"]
        assert len(refused) == 1 and refused[0]["digest"].startswith("sha256:") and refused[0]["reason"]
        answer = await running.client.post("/screen", json=sample.json())
        assert answer.status_code == 200 and answer.json()["checkpoint"]["version"] == "1"

        engine.fails.clear()
        again = await running.take_up("two")
        assert again.status_code == 409 and "refused before" in again.json()["detail"]
        assert engine.history[3:] == []


async def test_an_engine_that_loads_neither_checkpoint_restarts_on_the_old_one(serve, sample) -> None:
    engine = ObedientEngine()
    async with serve(engine) as running:
        engine.fails["reload"] = lambda _: True
        engine.seconds = 0.1
        swapping = asyncio.create_task(running.take_up("two"))
        async with asyncio.timeout(30):
            while "stop" not in engine.history:
                await asyncio.sleep(0.005)
        assert (await running.client.get("/readyz")).status_code == 503, "a rolling fleet must know"
        assert (await running.client.get("/livez")).status_code == 200
        assert (await swapping).status_code == 409
        assert engine.history == ["start 1", "reload 2", "reload 1", "stop", "start 1"]
        assert (await running.client.get("/readyz")).status_code == 200
        answer = await running.client.post("/screen", json=sample.json())
        assert answer.json()["checkpoint"]["version"] == "1"


async def test_a_reload_that_hangs_ends_with_a_new_engine_on_the_old(serve) -> None:
    engine = ObedientEngine()
    async with serve(engine, swap_reload_seconds=0.2) as running:
        real = engine.reload

        async def hangs(*_: object) -> None:
            await asyncio.sleep(3600)

        engine.reload = hangs  # type: ignore[method-assign]
        assert (await running.take_up("two")).status_code == 503, "the machine may have been slow"
        refused = await running.take_up("two")
        assert refused.status_code == 409 and "in time" in refused.json()["detail"]
        engine.reload = real  # type: ignore[method-assign]
        assert engine.history == ["start 1", *["stop", "start 1"] * 2]


@pytest.mark.parametrize("fails", [False, True])
async def test_the_verification_is_prepared_while_requests_are_answered(fails, serve, sample) -> None:
    engine = ObedientEngine()
    async with serve(engine) as running:
        engine.cannot_expect = fails
        prepared = asyncio.Event()
        expect = engine.expect

        async def slow(manifest: Manifest, /) -> None:
            response = await running.client.post("/screen", json=sample.json())
            assert response.json()["checkpoint"]["version"] == "1"
            prepared.set()
            await expect(manifest)

        engine.expect = slow  # type: ignore[method-assign]
        response = await running.take_up("two")
        assert response.status_code == 200 and response.json()["how"] == "in_place", "it only saves time"
        assert prepared.is_set() and engine.expected == ["2"] and engine.history == ["start 1", "reload 2"]


async def test_another_tokenizer_needs_an_engine_restart(serve, store) -> None:
    make_checkpoint(store / "three", 3, tokenizer='{"other": 1}')
    async with serve() as running:
        response = await running.take_up("three")
        assert response.json()["how"] == "restarted"
        assert running.engine.history == ["start 1", "stop", "start 3"]
        assert await running.version() == "3"


async def test_a_request_that_does_not_end_postpones_the_swap(serve, sample) -> None:
    engine = ObedientEngine()
    async with serve(engine, swap_drain_seconds=0.1) as running:
        engine.hang()
        asking = asyncio.create_task(running.client.post("/screen", json=sample.json()))
        async with asyncio.timeout(30):
            while engine.running() == 0:
                await asyncio.sleep(0.005)
        response = await running.take_up("two")
        assert response.status_code == 503 and int(response.headers["retry-after"]) >= 1
        engine.answer_at_once()
        assert (await asking).json()["checkpoint"]["version"] == "1"
        assert (await running.take_up("two")).status_code == 200, "it was not the checkpoint's fault"


async def test_deadlines_run_while_requests_wait_at_the_gate(serve, sample) -> None:
    engine = ObedientEngine()
    async with serve(engine, deadline_seconds=0.3) as running:
        engine.seconds = 3.0
        swapping = asyncio.create_task(running.take_up("two"))
        while "reload 2" not in engine.history:  # the gate is closed from then on
            await asyncio.sleep(0.01)
        late = await running.client.post("/screen", json=sample.json())
        assert late.status_code == 504
        assert (await swapping).status_code == 200


async def test_only_one_swap_at_a_time(serve) -> None:
    engine = ObedientEngine()
    async with serve(engine) as running:
        engine.seconds = 0.2
        answers = await asyncio.gather(*(running.take_up("two") for _ in range(3)))
        assert sorted(a.status_code for a in answers) == [200, 503, 503]
        assert (await running.take_up("two")).json()["how"] == "unchanged"


async def test_admin_is_off_without_a_key_and_closed_without_the_right_one(serve, start) -> None:
    async with serve() as running:
        for headers in ({}, {"Authorization": "Bearer nonsense"}):
            response = await running.client.get("/admin/checkpoint", headers=headers)
            assert response.status_code == 401 and "www-authenticate" in response.headers
        broken = await running.client.post("/admin/checkpoint", content=b"{", headers=ADMIN)
        assert broken.status_code == 400
    async with start() as running:
        assert (await running.client.get("/admin/checkpoint", headers=ADMIN)).status_code == 403


async def test_admin_waits_for_the_start(serve) -> None:
    engine = ObedientEngine()
    engine.seconds = 60
    async with serve(engine, wait=False) as running:
        response = await running.client.get("/admin/checkpoint", headers=ADMIN)
        assert response.status_code == 503 and int(response.headers["retry-after"]) >= 1


async def test_cached_answers_belong_to_their_checkpoint(serve, sample) -> None:
    engine = ObedientEngine()
    async with serve(engine) as running:

        async def ask() -> tuple[str, str]:
            answer = (await running.client.post("/screen", json=sample.json())).json()
            return answer["checkpoint"]["version"], answer["source"]

        assert await ask() == ("1", "engine")
        engine.seconds = 1.0
        swapping = asyncio.create_task(running.take_up("two"))
        async with asyncio.timeout(30):
            while engine.history[-1] != "reload 2":
                await asyncio.sleep(0.005)
        assert await ask() == ("1", "cache"), "the old one is served until the new one is verified"
        assert not swapping.done()
        assert (await swapping).status_code == 200
        assert [await ask(), await ask()] == [("2", "engine"), ("2", "cache")]
        engine.seconds = 0.0
        assert (await running.take_up("one")).status_code == 200
        assert await ask() == ("1", "cache"), "the same weights as before write the same"


async def test_a_request_that_waits_at_the_gate_is_cached_under_the_checkpoint_that_answers(serve, sample) -> None:
    engine = ObedientEngine()
    async with serve(engine) as running:
        engine.seconds = 1.0
        swapping = asyncio.create_task(running.take_up("two"))
        async with asyncio.timeout(30):
            while engine.history[-1] != "reload 2":
                await asyncio.sleep(0.005)
        early = [asyncio.create_task(running.client.post("/screen", json=sample.json())) for _ in range(3)]
        assert (await swapping).status_code == 200
        early_answers = [response.json() for response in await asyncio.gather(*early)]
        assert {answer["checkpoint"]["version"] for answer in early_answers} == {"2"}
        late = (await running.client.post("/screen", json=sample.json())).json()
        assert (late["checkpoint"]["version"], late["source"]) == ("2", "cache")


async def test_an_unverified_checkpoint_does_not_decide_whether_requests_may_locate(serve, store, sample) -> None:
    describe(store / "one", version="1", prompt=locating(COMPACT))
    engine, loaded, verify = ObedientEngine(), asyncio.Event(), asyncio.Event()
    real = engine.log_probabilities

    async def log_probabilities(probe: Probe) -> list[float]:
        if engine.checkpoint.version == "2":
            loaded.set()
            await verify.wait()
        return await real(probe)

    engine.log_probabilities = log_probabilities  # type: ignore[method-assign]
    async with serve(engine) as running:
        engine.fails["probe"] = version("2")
        assert (await running.client.post("/screen", json=sample.json(locate=True))).json()["source"] == "engine"
        taking = asyncio.create_task(running.take_up("two"))
        await loaded.wait()
        during = await running.client.post("/screen", json=sample.json(locate=True))
        verify.set()
        assert (await taking).status_code == 409
    assert (during.status_code, during.json().get("source")) == (200, "cache")
