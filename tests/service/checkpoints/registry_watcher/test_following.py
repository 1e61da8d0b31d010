"""The service follows a real registry (MLflow on SQLite), with an engine that obeys the test."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from screening.checkpoint.manifest import read_manifest
from tests.service.checkpoints.registry_watcher.fleet import Fleet
from tests.service.obedient_engine import (
    ADMIN,
    ObedientEngine,
    copies,
    digest,
    one_bit,
    version,
)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_the_service_follows_the_alias_to_a_version_and_back(serve, fleet: Fleet, sample) -> None:
    async with serve() as running:
        state = await running.comes_to("current")
        assert (state["registry"]["version"], state["registry"]["alias"]) == (1, "production")
        for number in (2, 1):
            fleet.promote(number)
            await running.serves(str(number))
            answer = await running.client.post("/screen", json=sample.json())
            assert answer.json()["checkpoint"]["version"] == str(number)
        await running.polled("current")
        assert running.engine.history == ["start 1", "reload 2", "reload 1"]
        assert running.metric("screening_registry_reachable") == 1
        assert running.metric("screening_registry_behind") == 0


async def test_nothing_fails_while_production_moves(serve, fleet: Fleet, make_sample) -> None:
    async with serve(ObedientEngine(latency_ms=10), max_concurrent=4, max_queue=60) as running:
        stop, answers = asyncio.Event(), []

        async def caller(number: int) -> None:
            while not stop.is_set():
                answers.append(await running.client.post("/screen", json=make_sample(number).json()))

        callers = [asyncio.create_task(caller(number)) for number in range(6)]
        for number in (2, 1, 2):
            fleet.promote(number)
            await running.serves(str(number))
        stop.set()
        await asyncio.gather(*callers)
        assert {answer.status_code for answer in answers} == {200}


async def test_a_registry_that_vanishes_changes_nothing_and_is_followed_when_it_is_back(
    serve, fleet: Fleet, sample, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "service.checkpoints.registry_watcher")
    away = fleet.file.with_suffix(".away")
    async with serve() as running:
        await running.comes_to("current")
        fleet.file.rename(away)
        state = await running.comes_to("unreachable")
        assert "no such file" in state["registry"]["reason"]
        await running.polled("unreachable", 3)
        assert running.metric("screening_registry_reachable") == 0
        assert (await running.client.get("/readyz")).status_code == 200
        assert (await running.client.post("/screen", json=sample.json())).status_code == 200
        away.rename(fleet.file)
        fleet.promote(2)
        await running.serves("2")
        assert running.metric("screening_registry_reachable") == 1
        said = [record for record in caplog.records if getattr(record, "fields", {}).get("outcome") == "unreachable"]
        assert len(said) == 1, "once, not at every poll"


async def test_without_a_registry_the_last_good_one_is_served_after_a_restart(serve, fleet: Fleet) -> None:
    fleet.promote(2)
    async with serve() as running:
        await running.serves("2")
    fleet.file.unlink()
    async with serve() as running:
        assert running.engine.history == ["start 2"]
        await running.comes_to("unreachable")
        assert (await running.state())["serving"]["version"] == "2"


async def test_a_fresh_replica_starts_with_production_and_not_with_its_configured_checkpoint(
    serve, fleet: Fleet
) -> None:
    fleet.promote(2)
    async with serve() as running:
        assert running.engine.history == ["start 2"]


@pytest.mark.parametrize("damage", [one_bit, lambda two: (two / "screening.json").write_text("{")])
async def test_a_fresh_replica_starts_with_its_configured_checkpoint_if_production_is_broken(
    damage, serve, fleet: Fleet
) -> None:
    fleet.promote(2)
    damage(fleet.store / "two")
    async with serve() as running:
        assert (await running.comes_to("unavailable"))["serving"]["version"] == "1"
        assert running.metric("screening_registry_behind") == 1


async def test_a_refused_version_is_not_tried_again_even_after_a_restart(serve, fleet: Fleet, sample) -> None:
    engine = ObedientEngine()
    engine.fails["probe"] = version("2")
    async with serve(engine) as running:
        fleet.promote(2)
        state = await running.comes_to("refused")
        assert "log-probabilities" in state["registry"]["reason"]
        assert state["refused"][0]["digest"] == read_manifest(fleet.store / "two").digest
        await running.polled("refused", 3)
        assert engine.history == ["start 1", "reload 2", "reload 1"]
        assert running.metric("screening_swaps_total", result="refused") == 1
        assert running.metric("screening_registry_behind") == 1
        answer = await running.client.post("/screen", json=sample.json())
        assert answer.json()["checkpoint"]["version"] == "1"
    engine = ObedientEngine()
    async with serve(engine) as running:
        state = await running.comes_to("refused")
        assert "log-probabilities" in state["registry"]["reason"]
        await running.polled("refused", 3)
        assert engine.history == ["start 1"]
        fleet.promote(fleet.publish("three", 3))
        await running.serves("3")


async def test_a_refused_version_is_tried_again_when_an_operator_orders_it(serve, fleet: Fleet) -> None:
    engine = ObedientEngine()
    engine.fails["probe"] = version("2")
    async with serve(engine, checkpoint_store=fleet.store) as running:
        fleet.promote(2)
        await running.comes_to("refused")
        engine.fails.clear()
        order = {"checkpoint": "two"}
        assert (await running.client.post("/admin/checkpoint", json=order, headers=ADMIN)).status_code == 409
        order["retry"] = True  # type: ignore[assignment]
        assert (await running.client.post("/admin/checkpoint", json=order, headers=ADMIN)).status_code == 200
        state = await running.comes_to("current")
        assert state["serving"]["version"] == "2" and state["refused"] == []


async def test_an_alias_that_names_the_fallback_checkpoint_makes_it_the_next_start(
    serve, fleet: Fleet, tmp_path: Path
) -> None:
    fleet.promote(2)
    async with serve() as running:
        await running.serves("2")
    fleet.promote(1)
    engine = ObedientEngine()
    engine.fails["start"] = version("2")
    async with serve(engine) as running:
        await running.comes_to("current")
        assert copies(tmp_path / "state") == {digest(fleet.store / "one")}


async def test_a_missing_alias_is_reported(serve) -> None:
    async with serve(registry_alias="canary") as running:
        state = await running.comes_to("missing")
        assert "canary" in state["registry"]["reason"] and state["serving"]["version"] == "1"


async def test_no_swap_begins_while_the_service_drains(serve, fleet: Fleet) -> None:
    async with serve() as running:
        await running.comes_to("current")
        running.app.state.service.admission.close()
        fleet.promote(2)
        await running.until(lambda _: running.polls("busy") >= 2)
        assert running.engine.history == ["start 1"]
