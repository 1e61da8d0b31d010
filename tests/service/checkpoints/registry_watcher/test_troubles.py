"""A registry or a store that is down, hangs, or holds something else than it should."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from screening.checkpoint.manifest import read_manifest, store_manifest
from screening.checkpoint.registry import Registry
from service.checkpoints.local_store import LocalStore
from service.checkpoints.store_reads import inside
from tests.service.checkpoints.registry_watcher.fleet import ALWAYS, Fleet
from tests.service.obedient_engine import (
    make_checkpoint,
)

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_a_directory_with_another_checkpoint_is_not_loaded(serve, fleet: Fleet) -> None:
    async with serve() as running:
        (fleet.store / "two").rename(fleet.store / "gone")
        make_checkpoint(fleet.store / "two", 3)
        fleet.promote(2)
        state = await running.comes_to("unavailable")
        assert "as the registry says" in state["registry"]["reason"] and state["refused"] == []
        assert running.engine.history == ["start 1"]


async def test_a_directory_that_is_replaced_while_it_is_copied_is_not_loaded(serve, fleet: Fleet, monkeypatch) -> None:
    make_checkpoint(fleet.store / "three", 3)
    real = LocalStore.copy_in

    def copy_in(self: LocalStore, source: Path, watch: Any = None) -> Any:
        return real(self, fleet.store / "three" if source.name == "two" else source)

    monkeypatch.setattr(LocalStore, "copy_in", copy_in)
    async with serve() as running:
        fleet.promote(2)
        assert "replaced while it was copied" in (await running.comes_to("unavailable"))["registry"]["reason"]
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
        assert "no probes" in (await running.comes_to("unavailable"))["registry"]["reason"]
        store_manifest(whole, two)
        await running.serves("2")


async def test_a_late_answer_of_the_registry_is_not_used(serve, fleet: Fleet, monkeypatch) -> None:
    real, held, released = Registry.resolve, threading.Event(), threading.Event()

    def resolve(self: Registry, alias: str) -> Any:
        version = real(self, alias)
        if version is not None and version.number == 2 and not held.is_set():
            held.set()
            released.wait(60)
        return version

    monkeypatch.setattr(Registry, "resolve", resolve)
    async with serve(registry_timeout_seconds=1) as running:
        await running.comes_to("current")
        fleet.promote(2)
        await asyncio.to_thread(held.wait, 60)
        fleet.promote(1)  # withdrawn before the answer arrives
        await running.comes_to("unreachable")
        await running.polled("unreachable", 3)
        released.set()
        await running.polled("current", 3)
        assert running.engine.history == ["start 1"]


async def test_a_store_that_is_not_mounted_is_asked_again(serve, fleet: Fleet) -> None:
    async with serve() as running:
        (fleet.store / "two").rename(fleet.store / "away")
        fleet.promote(2)
        state = await running.comes_to("unavailable")
        assert "does not exist" in state["registry"]["reason"] and state["refused"] == []
        (fleet.store / "away").rename(fleet.store / "two")
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
        assert "points outside" in state["registry"]["reason"] and state["serving"]["version"] == "2"


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


async def test_a_registry_that_hangs_is_waited_for_a_bounded_time_and_asked_once(
    serve, fleet: Fleet, monkeypatch: pytest.MonkeyPatch, sample
) -> None:
    free, asked = threading.Event(), []
    real = Registry.resolve

    def hangs(registry: Registry, alias: str) -> Any:
        asked.append(alias)
        free.wait(120)
        return real(registry, alias)

    async with serve(registry_timeout_seconds=1) as running:
        await running.comes_to("current")
        monkeypatch.setattr(Registry, "resolve", hangs)
        fleet.promote(2)
        state = await running.comes_to("unreachable")
        assert "no answer within" in state["registry"]["reason"]
        await running.polled("unreachable", 3)
        assert len(asked) == 1, "threads must not pile up"
        assert (await running.client.post("/screen", json=sample.json())).status_code == 200
        free.set()
        await running.serves("2")


async def test_polling_ends_with_the_service_even_while_the_registry_hangs(
    serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()
    async with serve(registry_timeout_seconds=1) as running:
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
