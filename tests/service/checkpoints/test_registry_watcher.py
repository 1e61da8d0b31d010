"""The service follows a real registry (MLflow on SQLite), with an engine that obeys the test."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from screening.checkpoint.manifest import read_manifest, store_manifest
from screening.checkpoint.registry import PRODUCTION, Registry
from service.checkpoints.hot_swap import HotSwap
from service.checkpoints.local_store import LocalStore
from service.checkpoints.store_reads import inside
from service.errors import SwapBusy
from tests.service.obedient_engine import (
    ADMIN,
    ADMIN_KEYS,
    ObedientEngine,
    copies,
    digest,
    make_checkpoint,
    one_bit,
    version,
)

pytestmark = pytest.mark.anyio

ALWAYS = 0.02
"""Seconds between polls."""


class Fleet:
    """A registry that a service follows, and the changes that a test makes to it."""

    def __init__(self, registry: Registry, file: Path, store: Path) -> None:
        self.registry, self.file, self.store = registry, file, store

    def publish(self, name: str, seed: int, **more: Any) -> int:
        directory = make_checkpoint(self.store / name, seed, **more)
        return self.registry.register(directory, read_manifest(directory).digest, {}).number

    def promote(self, number: int) -> None:
        self.registry.point(PRODUCTION, number)


class Running:
    """A started service."""

    def __init__(self, running: Any, engine: ObedientEngine) -> None:
        self.client, self.engine, self.metric, self.app = running.client, engine, running.metric, running.app

    async def state(self) -> dict[str, Any]:
        return dict((await self.client.get("/admin/checkpoint", headers=ADMIN)).json())

    async def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        async with asyncio.timeout(400):
            while not wanted(state := await self.state()):
                await asyncio.sleep(0.01)
            return state

    async def serves(self, wanted: str) -> dict[str, Any]:
        return await self.until(lambda state: bool(state["serving"]["version"] == wanted))

    async def comes_to(self, outcome: str) -> dict[str, Any]:
        return await self.until(lambda state: bool(state["following"]["outcome"] == outcome))

    def polls(self, outcome: str) -> float:
        return float(self.metric("screening_registry_polls_total", outcome=outcome))

    async def polled(self, outcome: str, times: int = 2) -> None:
        """Wait until it has come to this so many times more."""
        before = self.polls(outcome)
        await self.until(lambda _: self.polls(outcome) >= before + times)


@pytest.fixture
def fleet(registry_file: Path, tmp_path: Path) -> Fleet:
    """`one` is in production and configured, `two` is registered."""
    fleet = Fleet(Registry(f"sqlite:///{registry_file}"), registry_file, tmp_path / "store")
    fleet.promote(fleet.publish("one", 1))
    fleet.publish("two", 2)
    return fleet


@pytest.fixture
def serve(start, fleet: Fleet, tmp_path: Path):
    @asynccontextmanager
    async def serving(engine: ObedientEngine | None = None, **settings: Any) -> AsyncIterator[Running]:
        engine = engine or ObedientEngine()
        usual = {"engine": "vllm", "checkpoint": fleet.store / "one", "admin_keys": ADMIN_KEYS}
        usual |= {"state_dir": tmp_path / "state", "registry": fleet.registry.uri, "registry_poll_seconds": ALWAYS}
        async with start(engine, **usual | settings) as running:
            yield Running(running, engine)

    return serving


async def test_the_service_follows_the_alias_to_a_version_and_back(serve, fleet: Fleet, sample) -> None:
    async with serve() as running:
        state = await running.comes_to("current")
        assert (state["following"]["version"], state["following"]["alias"]) == (1, "production")
        for number in (2, 1):
            fleet.promote(number)
            await running.serves(str(number))
            answer = await running.client.post("/screen", json=sample.json())
            assert answer.json()["checkpoint"]["version"] == str(number)
        await running.comes_to("current")
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
        assert "no such file" in state["following"]["reason"]
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
        assert "log-probabilities" in state["following"]["reason"]
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
        assert "log-probabilities" in state["following"]["reason"]
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


async def test_a_directory_with_another_checkpoint_is_not_loaded(serve, fleet: Fleet) -> None:
    async with serve() as running:
        (fleet.store / "two").rename(fleet.store / "gone")
        make_checkpoint(fleet.store / "two", 3)
        fleet.promote(2)
        state = await running.comes_to("unavailable")
        assert "as the registry says" in state["following"]["reason"] and state["refused"] == []
        assert running.engine.history == ["start 1"]


async def test_a_directory_that_is_replaced_while_it_is_copied_is_not_loaded(serve, fleet: Fleet, monkeypatch) -> None:
    make_checkpoint(fleet.store / "three", 3)
    real = LocalStore.copy_in

    def copy_in(self: LocalStore, source: Path, watch: Any = None) -> Any:
        return real(self, fleet.store / "three" if source.name == "two" else source)

    monkeypatch.setattr(LocalStore, "copy_in", copy_in)
    async with serve() as running:
        fleet.promote(2)
        assert "replaced while it was copied" in (await running.comes_to("unavailable"))["following"]["reason"]
        assert running.engine.history == ["start 1"]


async def test_a_half_copied_directory_is_loaded_once_it_is_complete(serve, fleet: Fleet) -> None:
    async with serve() as running:
        manifest = fleet.store / "two" / "screening.json"
        manifest.rename(fleet.store / "later")
        fleet.promote(2)
        assert (await running.comes_to("unavailable"))["refused"] == []
        (fleet.store / "later").rename(manifest)
        await running.serves("2")


async def test_probes_that_are_published_later_are_found(serve, fleet: Fleet) -> None:
    two = fleet.store / "two"
    whole = read_manifest(two)
    store_manifest(whole.model_copy(update={"probes": None}), two)
    async with serve() as running:
        fleet.promote(2)
        assert "no probes" in (await running.comes_to("unavailable"))["following"]["reason"]
        store_manifest(whole, two)
        await running.serves("2")


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


class Polls:
    """A service whose watcher polls when the test triggers it, on a clock that moves by one poll each time."""

    def __init__(self, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        self.watcher, self.now, self.tried = running.app.state.registry_watcher, 0.0, 0
        self.watcher.clock = lambda: self.now

        async def busy(*_: Any, **__: Any) -> Any:
            self.tried += 1
            raise SwapBusy("not now")

        monkeypatch.setattr(HotSwap, "swap_to", busy)

    async def until_tried(self, polls: int) -> list[int]:
        """Poll so often. Returns the numbers of the polls that tried to take the checkpoint up."""
        numbers = []
        for number in range(polls):
            before = self.tried
            await self.watcher.poll()
            numbers += [number] * (self.tried - before)
            self.now += NEVER
        return numbers


NEVER = 3600.0
"""Seconds between polls, where a test does the polling."""
LESS_AND_LESS = [0, 1, 2, 4, 8, 16, 32, 48, 64]
"""Polls at which something that fails is tried: after half a poll's time, one, two, four, eight, and then sixteen."""


async def test_a_version_that_fails_is_tried_less_and_less_often(serve, fleet: Fleet, monkeypatch) -> None:
    async with serve(registry_poll_seconds=NEVER) as running:
        await running.comes_to("current")
        fleet.promote(2)
        assert await Polls(running, monkeypatch).until_tried(70) == LESS_AND_LESS
        assert running.polls("busy") == 70


async def test_a_late_answer_of_the_registry_is_not_used(serve, fleet: Fleet, monkeypatch) -> None:
    real, held, released = Registry.resolve, threading.Event(), threading.Event()
    hold = False

    def resolve(self: Registry, alias: str) -> Any:
        nonlocal hold
        version = real(self, alias)
        if hold:
            hold = False
            held.set()
            released.wait(60)
        return version

    monkeypatch.setattr(Registry, "resolve", resolve)
    async with serve(registry_timeout_seconds=0.2) as running:
        await running.comes_to("current")
        fleet.promote(2)
        hold = True
        await asyncio.to_thread(held.wait, 60)
        fleet.promote(1)  # withdrawn before the answer arrives
        await running.comes_to("unreachable")
        await asyncio.sleep(0.6)
        released.set()
        await running.polled("current", 3)
        assert running.engine.history == ["start 1"]


async def test_a_store_that_is_not_mounted_is_asked_again(serve, fleet: Fleet) -> None:
    async with serve() as running:
        (fleet.store / "two").rename(fleet.store / "away")
        fleet.promote(2)
        state = await running.comes_to("unavailable")
        assert "does not exist" in state["following"]["reason"] and state["refused"] == []
        (fleet.store / "away").rename(fleet.store / "two")
        await running.serves("2")


@pytest.mark.slow
async def test_a_swap_that_cannot_be_now_is_tried_at_the_next_poll(serve, fleet: Fleet, sample) -> None:
    engine = ObedientEngine(latency_ms=3000)
    async with serve(engine, swap_drain_seconds=0.05) as running:
        asking = asyncio.create_task(running.client.post("/screen", json=sample.json()))
        while engine.running() == 0:
            await asyncio.sleep(0.005)
        fleet.promote(2)
        await running.until(lambda _: running.polls("busy") >= 1)
        assert (await asking).json()["checkpoint"]["version"] == "1"
        await running.serves("2")


async def test_the_store_may_be_mounted_elsewhere_and_links_must_stay_inside(
    serve, fleet: Fleet, tmp_path: Path
) -> None:
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    (fleet.store / "two").rename(mounted / "two")
    async with serve(checkpoint_store=mounted) as running:
        fleet.promote(2)
        await running.serves("2")
        outside = make_checkpoint(tmp_path / "outside", 3)
        (mounted / "three").symlink_to(outside)
        fleet.promote(fleet.registry.register(fleet.store / "three", read_manifest(outside).digest, {}).number)
        state = await running.comes_to("refused")
        assert "points outside" in state["following"]["reason"] and state["serving"]["version"] == "2"


async def test_a_store_that_hangs_delays_the_watcher_and_no_request(serve, fleet: Fleet, sample, monkeypatch) -> None:
    asked, there = threading.Event(), threading.Event()

    def slow(store: Path, name: str) -> Path:
        asked.set()
        assert there.wait(10), "other requests must be answered meanwhile"
        return inside(store, name)

    async with serve(checkpoint_store=fleet.store) as running:
        await running.comes_to("current")
        monkeypatch.setattr("service.checkpoints.store_reads.inside", slow)
        await running.polled("current", 2)
        assert not asked.is_set(), "the store is not looked at for what is served already"
        fleet.promote(2)
        while not asked.is_set():
            await asyncio.sleep(0.005)
        assert (await running.client.post("/screen", json=sample.json())).status_code == 200
        assert running.polls("failed") == 0
        assert running.metric("screening_registry_behind") == 1
        there.set()
        await running.serves("2")


@pytest.fixture
def longest(monkeypatch) -> None:
    """Every random wait is the longest that it can be."""
    monkeypatch.setattr("service.checkpoints.registry_watcher.random.uniform", lambda _, most: most)


OTHER_TOKENIZER = '{"other": 1}'


async def test_a_restart_is_postponed_while_the_old_engine_serves_and_dropped_when_the_alias_moves(
    serve, fleet: Fleet, sample, longest
) -> None:
    three = fleet.publish("three", 3, tokenizer=OTHER_TOKENIZER)
    async with serve(rebuild_spread_seconds=3600) as running:
        fleet.promote(three)
        assert "engine restarts" in (await running.comes_to("waiting"))["following"]["reason"]
        await running.polled("waiting", 3)
        assert (await running.client.get("/readyz")).status_code == 200
        assert (await running.client.post("/screen", json=sample.json())).status_code == 200
        assert running.metric("screening_registry_behind") == 1
        fleet.promote(2)
        await running.serves("2")
        assert running.engine.history == ["start 1", "reload 2"]


async def test_the_engine_restarts_when_the_delay_is_over(serve, fleet: Fleet, longest) -> None:
    three = fleet.publish("three", 3, tokenizer=OTHER_TOKENIZER)
    async with serve(rebuild_spread_seconds=0.3) as running:
        fleet.promote(three)
        await running.serves("3")
        assert running.polls("waiting") >= 2
        assert running.engine.history == ["start 1", "stop", "start 3"]


async def test_an_operators_order_does_not_wait_for_the_random_delay(serve, fleet: Fleet, longest) -> None:
    fleet.publish("three", 3, tokenizer=OTHER_TOKENIZER)
    async with serve(rebuild_spread_seconds=3600, checkpoint_store=fleet.store, registry_alias="none") as running:
        await running.comes_to("missing")
        order = {"checkpoint": "three"}
        response = await running.client.post("/admin/checkpoint", json=order, headers=ADMIN)
        assert (response.status_code, response.json()["how"]) == (200, "rebuilt")


async def test_after_the_random_delay_a_failing_version_is_tried_less_and_less_often(
    serve, fleet: Fleet, monkeypatch, longest
) -> None:
    three = fleet.publish("three", 3, tokenizer=OTHER_TOKENIZER)
    async with serve(registry_poll_seconds=NEVER, rebuild_spread_seconds=3 * NEVER) as running:
        await running.comes_to("current")
        fleet.promote(three)
        assert await Polls(running, monkeypatch).until_tried(73) == [3 + number for number in LESS_AND_LESS]
        assert (running.polls("waiting"), running.polls("busy")) == (3, 70)


async def test_an_unreadable_version_that_needs_a_restart_is_reported_at_once(serve, fleet: Fleet, longest) -> None:
    three = fleet.publish("three", 3, tokenizer=OTHER_TOKENIZER)
    (fleet.store / "three").rename(fleet.store / "away")
    async with serve(rebuild_spread_seconds=3600) as running:
        fleet.promote(three)
        assert "does not exist" in (await running.comes_to("unavailable"))["following"]["reason"]


async def test_a_missing_alias_is_reported(serve) -> None:
    async with serve(registry_alias="canary") as running:
        state = await running.comes_to("missing")
        assert "canary" in state["following"]["reason"] and state["serving"]["version"] == "1"


async def test_a_registry_that_hangs_is_waited_for_a_bounded_time_and_asked_once(
    serve, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, sample
) -> None:
    free, asked = threading.Event(), []
    real = Registry.resolve

    def hangs(registry: Registry, alias: str) -> Any:
        asked.append(alias)
        free.wait(120)
        return real(registry, alias)

    async with serve(registry_timeout_seconds=0.05) as running:
        await running.comes_to("current")
        monkeypatch.setattr(Registry, "resolve", hangs)
        fleet.promote(2)
        state = await running.comes_to("unreachable")
        assert "no answer within" in state["following"]["reason"]
        await running.polled("unreachable", 3)
        assert len(asked) == 1, "threads must not pile up"
        assert (await running.client.post("/screen", json=sample.json())).status_code == 200
        free.set()
        await running.serves("2")


async def test_polling_ends_with_the_service_even_while_the_registry_hangs(
    serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()
    async with serve(registry_timeout_seconds=0.05) as running:
        await running.comes_to("current")
        monkeypatch.setattr(Registry, "resolve", lambda *_: free.wait(120))
        await running.comes_to("unreachable")
        app = running.app
    before = app.state.service.metrics.registry.get_sample_value(
        "screening_registry_polls_total", {"outcome": "unreachable"}
    )
    await asyncio.sleep(5 * ALWAYS)
    assert before == app.state.service.metrics.registry.get_sample_value(
        "screening_registry_polls_total", {"outcome": "unreachable"}
    )
    free.set()


async def test_no_swap_begins_while_the_service_drains(serve, fleet: Fleet) -> None:
    async with serve() as running:
        await running.comes_to("current")
        running.app.state.service.admission.close()
        fleet.promote(2)
        await running.until(lambda _: running.polls("busy") >= 2)
        assert running.engine.history == ["start 1"]
