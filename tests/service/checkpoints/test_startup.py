"""Which checkpoint a service starts on, and what it keeps when a start fails."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from screening.checkpoint.manifest import read_manifest
from screening.checkpoint.registry import Version
from screening.errors import CheckpointUnavailable
from service.admission.admission import Admission
from service.checkpoints import local_store
from service.checkpoints.served import ServedCheckpoint
from service.checkpoints.startup import start_serving
from service.config.settings import Settings
from service.metrics import Metrics
from tests.service.obedient_engine import (
    ObedientEngine,
    copies,
    copy_of,
    digest,
    key_of,
    make_checkpoint,
    one_bit,
    remembered,
    version,
    with_probes,
)

pytestmark = pytest.mark.anyio


async def test_after_a_restart_the_last_served_is_served_whatever_the_store_says(serve, store) -> None:
    async with serve() as running:
        assert (await running.take_up("two")).status_code == 200
    shutil.rmtree(store / "two")
    async with serve() as running:
        assert await running.version() == "2"


async def test_a_damaged_copy_is_not_served_after_a_restart(serve, store, tmp_path) -> None:
    async with serve() as running:
        assert (await running.take_up("two")).status_code == 200
    one_bit(copy_of(store / "two", tmp_path / "state"))
    async with serve() as running:
        assert await running.version() == "1"
        assert (await running.take_up("two")).status_code == 200, "the store's is whole, and takes its place"


async def test_a_copy_that_is_gone_is_forgotten(serve, store, tmp_path) -> None:
    async with serve() as running:
        assert (await running.take_up("two")).status_code == 200
    shutil.rmtree(copy_of(store / "two", tmp_path / "state"))
    async with serve() as running:
        assert await running.version() == "1"
    assert remembered(tmp_path / "state")["served"] == key_of(store / "one")


async def test_an_engine_that_fails_once_at_the_start_is_started_again(serve) -> None:
    async with serve() as running:
        await running.take_up("two")
    engine = ObedientEngine()
    engine.fails["start"] = lambda _: len(engine.history) == 1
    async with serve(engine) as running:
        assert engine.history == ["start 2", "stop", "start 2"]
        assert await running.version() == "2"


async def test_a_checkpoint_that_does_not_start_now_is_what_the_next_start_tries_first(serve, store, tmp_path) -> None:
    async with serve() as running:
        await running.take_up("two")
    engine = ObedientEngine()
    engine.fails["start"] = version("2")
    async with serve(engine) as running:
        assert engine.history == ["start 2", "stop", "start 2", "stop", "start 1"]
        assert await running.version() == "1"
        assert copies(tmp_path / "state") == {digest(store / "one"), digest(store / "two")}
    async with serve() as running:
        assert await running.version() == "2"
        assert copies(tmp_path / "state") == {digest(store / "two")}


async def test_a_swap_after_such_a_start_decides_what_the_next_start_tries_first(serve, store, tmp_path) -> None:
    make_checkpoint(store / "three", 3)
    async with serve() as running:
        await running.take_up("two")
    engine = ObedientEngine()
    engine.fails["start"] = version("2")
    async with serve(engine) as running:
        await running.take_up("three")
        assert copies(tmp_path / "state") == {digest(store / "three")}
    async with serve() as running:
        assert await running.version() == "3"


async def test_an_order_for_the_fallback_checkpoint_makes_it_the_next_start(serve, store, tmp_path) -> None:
    async with serve() as running:
        await running.take_up("two")
    engine = ObedientEngine()
    engine.fails["start"] = version("2")
    async with serve(engine) as running:
        assert (await running.take_up("one")).json()["how"] == "unchanged"
        assert copies(tmp_path / "state") == {digest(store / "one")}
    async with serve() as running:
        assert await running.version() == "1"


async def test_a_copy_that_cannot_be_read_now_is_kept(serve, store, tmp_path, monkeypatch) -> None:
    async with serve() as running:
        await running.take_up("two")
        kept, real = copy_of(store / "two", tmp_path / "state"), local_store.verify

        def unreadable(directory: Path, *step: Any) -> Any:
            if directory == kept:
                raise CheckpointUnavailable("too many open files")
            return real(directory, *step)

        with monkeypatch.context() as patch:
            patch.setattr(local_store, "verify", unreadable)
            assert (await running.take_up("two")).status_code == 200, "the store's is read in its place"
        assert copies(tmp_path / "state") == {digest(store / "two")}
    with monkeypatch.context() as patch:
        patch.setattr(local_store, "verify", unreadable)
        async with serve() as running:
            assert await running.version() == "1"
    async with serve() as running:
        assert await running.version() == "2"


async def test_a_copy_with_a_damaged_manifest_is_replaced(serve, store, tmp_path) -> None:
    async with serve() as running:
        await running.take_up("two")
    copy = copy_of(store / "two", tmp_path / "state")
    (copy / "screening.json").write_text("")
    shutil.copytree(copy, copy_of(store / "one", tmp_path / "state"))
    async with serve() as running:
        assert await running.version() == "1"
        assert (await running.take_up("two")).status_code == 200


async def test_after_an_upgrade_of_the_engine_newer_probes_of_the_store_are_used(serve, store) -> None:
    """The engine rounds differently from the one that recorded the probes, which were recorded again since."""
    engine = ObedientEngine()
    async with serve(engine):
        pass
    upgraded = ObedientEngine()
    upgraded.fails["probe"] = lambda _: True
    with_probes(store / "one", off=1.0)
    async with serve(upgraded) as running:
        assert upgraded.history == ["start 1", "stop", "start 1"]
        assert await running.version() == "1"
    upgraded.history.clear()
    async with serve(upgraded):
        assert upgraded.history == ["start 1"], "the copy has the probes that the engine passed"


async def test_a_checkpoint_that_did_not_start_is_served_with_newer_probes(serve, store, tmp_path) -> None:
    async with serve() as running:
        await running.take_up("two")
    engine = ObedientEngine()
    engine.fails["start"] = version("2")
    async with serve(engine) as running:
        with_probes(store / "two", off=0.005)
        assert (await running.take_up("two")).json()["how"] == "in_place"
    async with serve() as running:
        assert running.engine.history == ["start 2"]
        assert running.app.state.service.served.manifest.probes == read_manifest(store / "two").probes


async def test_a_machine_on_which_nothing_starts_says_nothing_about_production(serve, start, store, tmp_path) -> None:
    """Starts that fail or are ended by a signal count no crash: the process still runs and records it."""
    two, offered = store / "two", digest(store / "two")
    state = tmp_path / "state"
    for end in ("fails", "is cancelled"):
        engine = ObedientEngine()
        engine.seconds = 60.0 if end == "is cancelled" else 0.0
        engine.fails["start"] = lambda _: True
        settings = Settings(engine="vllm", checkpoint=store / "one", state_dir=state)
        metrics = Metrics()
        admission = Admission(max_concurrent=1, max_queue=1, metrics=metrics)
        served = ServedCheckpoint(engine, admission, metrics, settings, store / "one")

        async def production() -> Version:
            return Version(1, offered, two, {})

        starting = asyncio.create_task(start_serving(served, production))
        if end == "is cancelled":
            async with asyncio.timeout(60):
                while not engine.history:
                    await asyncio.sleep(0.005)
            assert remembered(state)["loading"] == key_of(two)
            starting.cancel()
        assert isinstance((await asyncio.gather(starting, return_exceptions=True))[0], BaseException)
        assert (remembered(state)["losses"], remembered(state)["loading"]) == ({}, None)
        served.store.close()
