"""A good checkpoint at a bad moment: the service tries it again, and loses nothing that was good."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from screening.checkpoint.manifest import ImageContract, read_manifest
from screening.checkpoint.probes import Probe
from screening.runtime.atomic_write import write_atomically
from service.admission.admission import Admission
from service.checkpoints.local_store import LocalStore
from service.checkpoints.served import ServedCheckpoint
from service.checkpoints.store_reads import inside
from service.config.settings import Settings
from service.errors import EngineFailed, EngineLost
from service.metrics import Metrics
from tests.service.obedient_engine import (
    ObedientEngine,
    change_manifest,
    copies,
    digest,
    key_of,
    make_checkpoint,
    remembered,
    version,
    with_probes,
)

pytestmark = pytest.mark.anyio


@pytest.mark.slow
async def test_one_slow_reload_does_not_count_as_a_fault_of_the_checkpoint(serve) -> None:
    engine = ObedientEngine()
    async with serve(engine, swap_reload_seconds=1) as running:
        engine.seconds = 5
        taking = asyncio.create_task(running.take_up("two"))
        async with asyncio.timeout(60):
            while "reload 2" not in engine.history:
                await asyncio.sleep(0.005)
        engine.seconds = 0
        assert (await taking).status_code == 503
        assert (await running.take_up("two")).status_code == 200


async def test_a_checkpoint_on_which_the_engine_did_not_start_gets_a_second_attempt(serve, store) -> None:
    make_checkpoint(store / "three", 3, tokenizer='{"other": 1}')
    engine = ObedientEngine()
    async with serve(engine) as running:
        engine.fails["start"] = version("3")
        assert (await running.take_up("three")).status_code == 503
        assert await running.version() == "1"
        engine.fails.clear()
        assert (await running.take_up("three")).status_code == 200


async def test_a_checkpoint_that_ends_the_whole_service_twice_is_refused(serve, store, tmp_path) -> None:
    """The load is noted before the engine is touched. This test writes the note that such a death leaves."""
    state, two = tmp_path / "state", key_of(store / "two")
    noted: list[Any] = []
    engine = ObedientEngine()
    real = engine.reload

    async def reload(*arguments: Any) -> None:
        noted.append(remembered(state)["loading"])
        await real(*arguments)

    engine.reload = reload  # type: ignore[method-assign]
    async with serve(engine) as running:
        assert (await running.take_up("two")).status_code == 200
        assert (await running.take_up("one")).status_code == 200
    assert noted[0] == two
    assert remembered(state)["loading"] is None, "it lived"
    for earlier_deaths, status in ({}, 200), ({two: 1}, 409):
        died = {"losses": earlier_deaths, "loading": two}
        (state / "state.json").write_text(json.dumps(remembered(state) | died))
        async with serve() as running:
            assert (await running.take_up("two")).status_code == status
            await running.take_up("one")
        assert (remembered(state)["losses"], remembered(state)["loading"]) == ({}, None)


async def test_an_engine_death_that_is_reported_late_counts(serve) -> None:
    """vLLM first fails the request, and reports the death of its worker later."""
    engine = ObedientEngine()
    async with serve(engine) as running:
        real, calls = engine.reload, 0

        async def reload(*arguments: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == 2:
                engine.die()
            if calls <= 2:
                raise EngineFailed("cancelled")
            await real(*arguments)

        engine.reload = reload  # type: ignore[method-assign]
        assert (await running.take_up("two")).status_code == 503
        assert (await running.take_up("two")).status_code == 200


async def test_a_checkpoint_that_loses_the_engine_twice_is_refused_with_a_reason_that_fits(
    serve, store, tmp_path, repository
) -> None:
    reason = "the engine ended while it loaded this checkpoint, perhaps for lack of memory"
    engine = ObedientEngine()

    async def reload(*_: Any) -> None:
        engine.die()
        raise EngineLost()

    engine.reload = reload  # type: ignore[method-assign]
    async with serve(engine) as running:
        put_off, refused = [await running.take_up("two") for _ in range(2)]
        assert await running.version() == "1"
    assert put_off.status_code == 503
    assert put_off.json()["detail"] == "The engine was lost while it loaded the checkpoint. Try again in 5 s."
    assert (refused.status_code, refused.json()["detail"]) == (409, reason)
    assert remembered(tmp_path / "state")["refused"] == {key_of(store / "two"): reason}
    assert f"`{reason}`" in (repository / "docs" / "checkpoints.md").read_text(encoding="utf-8")


async def test_a_lost_file_of_the_old_copy_is_not_blamed_on_the_new_checkpoint(serve, store, tmp_path) -> None:
    async with serve() as running:
        (copy,) = (tmp_path / "state" / "checkpoints").iterdir()
        weights = (copy / "model.safetensors").rename(tmp_path / "swept")
        refused = await running.take_up("two")
        assert refused.status_code == 409 and "served checkpoint cannot be read" in refused.json()["detail"]
        assert (await running.state())["refused"] == []
        weights.rename(copy / "model.safetensors")
        assert (await running.take_up("two")).status_code == 200


async def test_a_full_state_directory_is_reported_and_the_checkpoint_is_not_refused(serve, monkeypatch) -> None:
    def full(*_: Any, **__: Any) -> str:
        raise OSError(28, "No space left on device")

    async with serve() as running:
        with monkeypatch.context() as patch:
            patch.setattr(tempfile, "mkdtemp", full)
            refused = await running.take_up("two")
        assert refused.status_code == 409 and "No space left" in refused.json()["detail"]
        assert (await running.take_up("two")).status_code == 200


async def test_probes_that_were_recorded_again_replace_the_old_ones_if_the_engine_passes_them(serve, store) -> None:
    async with serve() as running:
        with_probes(store / "one", off=0.005)
        assert (await running.take_up("one")).status_code == 200
        served = running.app.state.service.served.manifest
        assert served.probes == read_manifest(store / "one").probes
        with_probes(store / "one", off=1.0)
        refused = await running.take_up("one")
        assert refused.status_code == 409 and "log-probabilities" in refused.json()["detail"]
        assert running.app.state.service.served.manifest == served
        assert running.metric("screening_swaps_total", result="refused") == 1
    async with serve() as running:
        assert running.engine.history == ["start 1"], "the copy has the probes that the engine passed"
        assert running.app.state.service.served.manifest == served


async def test_a_kill_while_new_probes_are_asked_leaves_the_old_ones(serve, store, tmp_path) -> None:
    state, killed = tmp_path / "state", tmp_path / "killed"
    engine = ObedientEngine()
    real = engine.log_probabilities

    async def at_the_kill(probe: Probe) -> list[float]:
        if not killed.exists():
            shutil.copytree(state, killed)
        return await real(probe)

    async with serve(engine) as running:
        with_probes(store / "one", off=1.0, exact=False)
        engine.log_probabilities = at_the_kill  # type: ignore[method-assign]
        assert (await running.take_up("one")).status_code == 409
    shutil.rmtree(state)
    killed.rename(state)
    with_probes(
        store / "one", off=-1.0, exact=False
    )  # so that a service without a good copy starts too, but not at the first attempt
    async with serve() as running:
        assert running.engine.history == ["start 1"]
        assert copies(state) == {digest(store / "one")}


@pytest.mark.slow
@pytest.mark.parametrize("loss", [EngineLost(), TimeoutError(), "dead"])
async def test_an_engine_that_is_lost_while_it_answers_new_probes_says_nothing_about_them(
    loss, serve, store, monkeypatch
) -> None:
    engine = ObedientEngine()

    async def lost(_: Probe) -> list[float]:
        if loss == "dead":
            engine.die()
            raise EngineFailed("cancelled")
        raise loss

    async with serve(engine) as running:
        with_probes(store / "one", off=0.005)
        with monkeypatch.context() as patch:
            patch.setattr(engine, "log_probabilities", lost)
            put_off = await running.take_up("one")
        assert put_off.status_code == 503 and put_off.json()["type"].endswith(":swap-busy")
        async with asyncio.timeout(60):
            while await running.status("/readyz") != 200:
                await asyncio.sleep(0.005)
        assert (await running.take_up("one")).status_code == 200


async def test_a_full_disk_is_emptied_before_it_is_given_up(serve, store, tmp_path, monkeypatch) -> None:
    def full_at_first(file: Path, content: str) -> None:
        if len(copies(tmp_path / "state")) > 1:
            raise OSError(28, "No space left on device")
        write_atomically(file, content)

    async with serve() as running:
        monkeypatch.setattr("service.checkpoints.swap_history.write_atomically", full_at_first)
        assert (await running.take_up("two")).status_code == 200
    assert remembered(tmp_path / "state")["served"] == key_of(store / "two")
    async with serve() as running:
        assert await running.version() == "2"


async def test_copies_of_a_store_that_must_not_be_written_can_be_deleted(serve, store, tmp_path) -> None:
    (store / "two").chmod(0o555)
    async with serve() as running:
        assert (await running.take_up("two")).status_code == 200
        (copy,) = (tmp_path / "state" / "checkpoints").iterdir()
        assert copy.stat().st_mode & 0o700 == 0o700


async def test_no_swap_begins_while_the_service_drains(serve) -> None:
    async with serve() as running:
        running.app.state.service.admission.close()
        response = await running.take_up("two")
        assert response.status_code == 503 and response.json()["type"].endswith(":swap-busy")
        assert running.engine.history == ["start 1"]


async def test_the_end_of_the_service_starts_no_engine(serve) -> None:
    engine = ObedientEngine()

    async def stopped_under_it() -> None:
        engine.history.append("stop")
        engine.loaded = None
        engine.die()

    async with serve(engine) as running:
        engine.seconds = 3600
        taking = asyncio.create_task(running.take_up("two"))
        async with asyncio.timeout(60):
            while "reload 2" not in engine.history:
                await asyncio.sleep(0.005)
        engine.stop = stopped_under_it  # type: ignore[method-assign]
    await asyncio.gather(taking, return_exceptions=True)
    assert [call for call in engine.history if call.startswith("start")] == ["start 1"]


@pytest.mark.parametrize("how", ["in_place", "restarted"])
async def test_the_end_of_the_service_during_a_swap_is_one_plain_line(how, serve, store, caplog) -> None:
    caplog.set_level(logging.INFO)
    make_checkpoint(store / "three", 3, tokenizer='{"other": 1}')
    name, call = ("two", "reload 2") if how == "in_place" else ("three", "start 3")
    engine = ObedientEngine()
    async with serve(engine) as running:
        engine.seconds = 3600
        taking = asyncio.create_task(running.take_up(name))
        async with asyncio.timeout(60):
            while call not in engine.history:
                await asyncio.sleep(0.005)
    await asyncio.gather(taking, return_exceptions=True)
    said = [
        record
        for record in caplog.records
        if record.name == "service.checkpoints.hot_swap" and "given up" in record.message
    ]
    assert [record.message for record in said] == ["swap given up: the service ends"]
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]


async def test_a_roll_back_that_fails_at_the_end_of_the_service_leaves_no_engine_with_unverified_weights(serve) -> None:
    engine = ObedientEngine()
    async with serve(engine) as running:
        hot_swap = running.app.state.service.hot_swap
        ends: list[asyncio.Task[None]] = []

        def broken(_: Path) -> bool:
            if engine.history[-1] == "reload 1":
                ends.append(asyncio.create_task(hot_swap.end()))
            return True

        engine.fails["probe"] = broken
        assert (await running.take_up("two")).status_code == 503
        await asyncio.gather(*ends)
        assert ends and engine.history[:4] == ["start 1", "reload 2", "reload 1", "stop"]


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["by the engine's end", "by being cancelled"])
async def test_ends_of_the_service_during_a_load_do_not_count_against_the_checkpoint(ends, serve, tmp_path) -> None:
    """If the engine does not end the reload, the end of the event loop does."""
    state = tmp_path / "state"
    for _ in range(2):
        engine = ObedientEngine()
        async with serve(engine) as running:
            engine.seconds = 3600
            taking = asyncio.create_task(running.app.state.service.hot_swap.swap_to(tmp_path / "store" / "two"))
            async with asyncio.timeout(60):
                while "reload 2" not in engine.history:
                    await asyncio.sleep(0.005)
            assert remembered(state)["loading"] == key_of(tmp_path / "store" / "two")
            if ends == "by being cancelled":
                taking.cancel()
                await asyncio.gather(taking, return_exceptions=True)
        await asyncio.gather(taking, return_exceptions=True)
        del running, taking
        gc.collect()  # an error that was never retrieved would be reported, and fail the test, now
        assert (remembered(state)["losses"], remembered(state)["loading"]) == ({}, None)
    async with serve() as running:
        assert (await running.take_up("two")).status_code == 200


async def test_a_store_that_hangs_delays_only_the_order_that_names_it(serve, sample, monkeypatch) -> None:
    there = threading.Event()

    def slow(store: Path, name: str) -> Path:
        assert there.wait(10), "other requests must be answered meanwhile"
        return inside(store, name)

    monkeypatch.setattr("service.checkpoints.store_reads.inside", slow)
    async with serve() as running:
        taking = asyncio.create_task(running.take_up("two"))
        await asyncio.sleep(0.05)
        assert (await running.client.post("/screen", json=sample.json())).status_code == 200
        there.set()
        assert (await taking).status_code == 200


def test_the_end_of_the_process_does_not_wait_for_a_store_that_hangs(store, tmp_path, monkeypatch) -> None:
    copying, there, copied = threading.Event(), threading.Event(), []

    def copy_in(*_: Any) -> Any:
        copying.set()
        there.wait(10)
        copied.append(1)

    settings, metrics = Settings(engine="vllm", checkpoint=store / "one", state_dir=tmp_path / "state"), Metrics()
    admission = Admission(max_concurrent=1, max_queue=1, metrics=metrics)
    served = ServedCheckpoint(ObedientEngine(), admission, metrics, settings, store / "one")

    async def end_while_it_is_copied() -> None:
        taking = asyncio.create_task(served.copy_in(store / "two", read_manifest(store / "two")))
        while not copying.is_set():
            await asyncio.sleep(0.005)
        assert not taking.done()

    monkeypatch.setattr(LocalStore, "copy_in", copy_in)
    asyncio.run(end_while_it_is_copied())
    assert not copied
    there.set()
    served.store.close()


async def test_other_tiles_need_another_engine(serve, store) -> None:
    manifest = read_manifest(store / "two")
    tiled = ImageContract(size=manifest.image.size, tokens_per_picture=16, max_patches=4)
    change_manifest(store / "two", image=tiled)
    async with serve() as running:
        assert (await running.take_up("two")).json()["how"] == "restarted"
