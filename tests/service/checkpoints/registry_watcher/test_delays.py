"""When the watcher tries a version again, and when it postpones an engine restart."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from service.checkpoints.hot_swap import HotSwap
from service.errors import SwapBusy
from tests.service.checkpoints.registry_watcher.fleet import Fleet, Running
from tests.service.obedient_engine import (
    ADMIN,
    ObedientEngine,
)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


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


@pytest.mark.slow
async def test_a_swap_that_cannot_be_now_is_tried_at_the_next_poll(serve, fleet: Fleet, sample) -> None:
    engine = ObedientEngine()
    async with serve(engine, swap_drain_seconds=0.05) as running:
        engine.hang()
        asking = asyncio.create_task(running.client.post("/screen", json=sample.json()))
        while engine.running() == 0:
            await asyncio.sleep(0.005)
        fleet.promote(2)
        await running.until(lambda _: running.polls("busy") >= 1)
        engine.answer_at_once()
        assert (await asking).json()["checkpoint"]["version"] == "1"
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
    async with serve(restart_spread_seconds=3600) as running:
        fleet.promote(three)
        assert "engine restarts" in (await running.comes_to("waiting"))["registry"]["reason"]
        await running.polled("waiting", 3)
        assert (await running.client.get("/readyz")).status_code == 200
        assert (await running.client.post("/screen", json=sample.json())).status_code == 200
        assert running.metric("screening_registry_behind") == 1
        fleet.promote(2)
        await running.serves("2")
        assert running.engine.history == ["start 1", "reload 2"]


async def test_the_engine_restarts_when_the_delay_is_over(serve, fleet: Fleet, longest) -> None:
    three = fleet.publish("three", 3, tokenizer=OTHER_TOKENIZER)
    async with serve(restart_spread_seconds=1) as running:
        fleet.promote(three)
        await running.serves("3")
        assert running.polls("waiting") >= 1
        assert running.engine.history == ["start 1", "stop", "start 3"]


async def test_an_operators_order_does_not_wait_for_the_random_delay(serve, fleet: Fleet, longest) -> None:
    fleet.publish("three", 3, tokenizer=OTHER_TOKENIZER)
    async with serve(restart_spread_seconds=3600, checkpoint_store=fleet.store, registry_alias="none") as running:
        await running.comes_to("missing")
        order = {"checkpoint": "three"}
        response = await running.client.post("/admin/checkpoint", json=order, headers=ADMIN)
        assert (response.status_code, response.json()["how"]) == (200, "restarted")


async def test_after_the_random_delay_a_failing_version_is_tried_less_and_less_often(
    serve, fleet: Fleet, monkeypatch, longest
) -> None:
    three = fleet.publish("three", 3, tokenizer=OTHER_TOKENIZER)
    async with serve(registry_poll_seconds=NEVER, restart_spread_seconds=3 * NEVER) as running:
        await running.comes_to("current")
        fleet.promote(three)
        assert await Polls(running, monkeypatch).until_tried(73) == [3 + number for number in LESS_AND_LESS]
        assert (running.polls("waiting"), running.polls("busy")) == (3, 70)


async def test_an_unreadable_version_that_needs_a_restart_is_reported_at_once_and_waits_when_it_is_back(
    serve, fleet: Fleet, longest
) -> None:
    three = fleet.publish("three", 3, tokenizer=OTHER_TOKENIZER)
    (fleet.store / "three").rename(fleet.store / "away")
    async with serve(restart_spread_seconds=3600) as running:
        fleet.promote(three)
        assert "does not exist" in (await running.comes_to("unavailable"))["registry"]["reason"]
        (fleet.store / "away").rename(fleet.store / "three")
        assert "engine restarts" in (await running.comes_to("waiting"))["registry"]["reason"]
        assert running.engine.history == ["start 1"]
