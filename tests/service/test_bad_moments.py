"""A good checkpoint and a bad moment: what is nobody's fault is tried again, and what was good is not lost."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from screening.checkpoint import ImageContract, read_manifest, store_manifest
from screening.errors import CheckpointUnavailable
from screening.probes import Probes
from service import local_store
from service.admission import Admission
from service.config import Settings
from service.errors import EngineFailed
from service.hot_swap import HotSwap, Offer
from service.local_store import LocalStore
from service.metrics import Metrics
from tests.service.obedient_engine import ObedientEngine, make_checkpoint, version

pytestmark = pytest.mark.anyio


def digest(directory: Path) -> str:
    return read_manifest(directory).digest


def copies(state: Path) -> set[str]:
    return {f"sha256:{copy.name}" for copy in (state / "checkpoints").iterdir()}


def with_probes(directory: Path, off: float) -> None:
    """Other probes; the digest stays."""
    manifest = read_manifest(directory)
    assert manifest.probes is not None
    (probe,) = manifest.probes.questions
    other = probe.model_copy(update={"logprobs": tuple(value + off for value in probe.logprobs)})
    store_manifest(manifest.model_copy(update={"probes": Probes(questions=(other,), tolerance=0.01)}), directory)


async def test_an_engine_that_fails_once_at_the_start_is_started_again(serve) -> None:
    async with serve() as running:
        await running.take_up("two")
    engine = ObedientEngine()
    engine.fails["start"] = lambda _: len(engine.history) == 1
    async with serve(engine) as running:
        assert engine.history == ["start 2", "stop", "start 2"]
        assert await running.version() == "2"


async def test_what_cannot_be_started_now_is_what_the_next_start_tries_first(serve, store, tmp_path) -> None:
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


async def test_a_swap_behind_such_a_start_is_what_the_next_start_goes_on_with(serve, store, tmp_path) -> None:
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


async def test_a_copy_that_cannot_be_read_now_is_not_given_up(serve, store, tmp_path, monkeypatch) -> None:
    async with serve() as running:
        await running.take_up("two")
        kept, real = (
            tmp_path / "state" / "checkpoints" / digest(store / "two").removeprefix("sha256:"),
            local_store.verify,
        )

        def unreadable(directory: Path) -> Any:
            if directory == kept:
                raise CheckpointUnavailable("too many open files")
            return real(directory)

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


async def test_a_reload_that_is_slow_once_is_no_fault_of_the_checkpoint(serve) -> None:
    engine = ObedientEngine()
    async with serve(engine, swap_reload_seconds=0.2) as running:
        engine.seconds = 5
        taking = asyncio.create_task(running.take_up("two"))
        async with asyncio.timeout(60):
            while "reload 2" not in engine.history:
                await asyncio.sleep(0.005)
        engine.seconds = 0
        assert (await taking).status_code == 503
        assert (await running.take_up("two")).status_code == 200


async def test_an_engine_that_dies_while_it_is_built_on_the_new_checkpoint_gets_another_chance(serve, store) -> None:
    make_checkpoint(store / "three", 3, tokenizer='{"other": 1}')
    engine = ObedientEngine()
    async with serve(engine) as running:
        engine.fails["start"] = version("3")
        assert (await running.take_up("three")).status_code == 503
        assert await running.version() == "1"
        engine.fails.clear()
        assert (await running.take_up("three")).status_code == 200


async def test_a_checkpoint_that_ends_the_whole_service_twice_is_refused(serve, store, tmp_path) -> None:
    """The note is written before the engine is touched; here the test stands in for the death behind it."""
    note, dead = tmp_path / "state" / "deaths.json", digest(store / "two")
    noted: list[Any] = []
    engine = ObedientEngine()
    real = engine.reload

    async def reload(*arguments: Any) -> None:
        noted.append(json.loads(note.read_text()))
        await real(*arguments)

    engine.reload = reload  # type: ignore[method-assign]
    async with serve(engine) as running:
        assert (await running.take_up("two")).status_code == 200
        assert (await running.take_up("one")).status_code == 200
    assert noted[0] == {dead: 1}
    assert json.loads(note.read_text()) == {}, "it lived"
    for deaths, status in ((1, 200), (2, 409)):
        note.write_text(json.dumps({dead: deaths}))
        async with serve() as running:
            assert (await running.take_up("two")).status_code == status
            await running.take_up("one")
        assert json.loads(note.read_text()) == {}


async def test_a_machine_on_which_nothing_starts_says_nothing_about_production(serve, start, store, tmp_path) -> None:
    """Starts that fail, and starts that are told to end, count no death: this process lives to say so."""
    two, offered = store / "two", digest(store / "two")
    state, note = tmp_path / "state", tmp_path / "state" / "deaths.json"
    for end in ("fails", "is cancelled"):
        engine = ObedientEngine()
        engine.seconds = 60.0 if end == "is cancelled" else 0.0
        engine.fails["start"] = lambda _: True
        settings = Settings(engine="vllm", checkpoint=store / "one", state_dir=state)
        metrics = Metrics()
        swap = HotSwap(
            engine, Admission(max_concurrent=1, max_queue=1, metrics=metrics), metrics, settings, store / "one"
        )

        async def production() -> Offer:
            return Offer(two, offered)

        starting = asyncio.create_task(swap.start(production))
        if end == "is cancelled":
            async with asyncio.timeout(60):
                while not engine.history:
                    await asyncio.sleep(0.005)
            assert json.loads(note.read_text()) == {offered: 1}
            starting.cancel()
        assert isinstance((await asyncio.gather(starting, return_exceptions=True))[0], BaseException)
        assert json.loads(note.read_text()) == {}
        await swap.close()


async def test_a_death_that_is_heard_of_late_is_a_death(serve) -> None:
    """vLLM fails what it was asked first, and says later that its worker is gone."""
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


async def test_an_unreadable_manifest_of_a_copy_heals(serve, store, tmp_path) -> None:
    async with serve() as running:
        await running.take_up("two")
    copy = tmp_path / "state" / "checkpoints" / digest(store / "two").removeprefix("sha256:")
    (copy / "screening.json").write_text("")
    shutil.copytree(copy, copy.with_name(digest(store / "one").removeprefix("sha256:")))
    async with serve() as running:
        assert await running.version() == "1"
        assert (await running.take_up("two")).status_code == 200


async def test_a_lost_file_of_the_old_copy_is_no_fault_of_the_new_checkpoint(serve, store, tmp_path) -> None:
    async with serve() as running:
        (copy,) = (tmp_path / "state" / "checkpoints").iterdir()
        weights = (copy / "model.safetensors").rename(tmp_path / "swept")
        refused = await running.take_up("two")
        assert refused.status_code == 409 and "what is served" in refused.json()["detail"]
        assert (await running.state())["refused"] == []
        weights.rename(copy / "model.safetensors")
        assert (await running.take_up("two")).status_code == 200


async def test_a_state_directory_without_room_is_told_and_nothing_is_refused(serve, monkeypatch) -> None:
    def full(*_: Any, **__: Any) -> str:
        raise OSError(28, "No space left on device")

    async with serve() as running:
        with monkeypatch.context() as patch:
            patch.setattr(tempfile, "mkdtemp", full)
            refused = await running.take_up("two")
        assert refused.status_code == 409 and "No space left" in refused.json()["detail"]
        assert (await running.take_up("two")).status_code == 200


async def test_what_is_wanted_again_settles_a_start_that_fell_back(serve, store, tmp_path) -> None:
    async with serve() as running:
        await running.take_up("two")
    engine = ObedientEngine()
    engine.fails["start"] = version("2")
    async with serve(engine) as running:
        assert (await running.take_up("one")).json()["how"] == "unchanged"
        assert copies(tmp_path / "state") == {digest(store / "one")}
    async with serve() as running:
        assert await running.version() == "1"


async def test_probes_that_were_recorded_anew_are_taken_over_when_they_prove_what_is_served(serve, store) -> None:
    async with serve() as running:
        with_probes(store / "one", off=0.005)
        assert (await running.take_up("one")).json()["how"] == "unchanged"
        served = running.app.state.service.hot_swap.serving
        assert served.probes == read_manifest(store / "one").probes
        with_probes(store / "one", off=1.0)
        refused = await running.take_up("one")
        assert refused.status_code == 409 and "do not prove it" in refused.json()["detail"]
        assert (await running.state())["refused"] == []
    async with serve() as running:
        assert running.engine.history == ["start 1"], "the copy has the probes that prove it"


async def test_after_an_upgrade_of_the_engine_probes_of_the_store_count(serve, store) -> None:
    """The engine rounds otherwise than the one that recorded the probes; they were recorded anew since."""
    engine = ObedientEngine()
    async with serve(engine):
        pass
    upgraded = ObedientEngine()
    upgraded.fails["probe"] = lambda _: True
    with_probes(store / "one", off=1.0)
    async with serve(upgraded) as running:
        assert upgraded.history == ["start 1", "stop", "start 1"]
        assert await running.version() == "1"


async def test_a_full_disk_is_emptied_before_it_is_given_up(serve, store, tmp_path, monkeypatch) -> None:
    real, attempts = LocalStore.remember, []

    def full_at_first(self: LocalStore, wanted: str) -> None:
        attempts.append(len(copies(tmp_path / "state")))
        if attempts[-1] > 1:
            raise OSError(28, "No space left on device")
        real(self, wanted)

    async with serve() as running:
        monkeypatch.setattr(LocalStore, "remember", full_at_first)
        assert (await running.take_up("two")).status_code == 200
    assert attempts == [2, 1]
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


async def test_the_end_of_the_service_builds_no_engine(serve) -> None:
    engine = ObedientEngine()

    async def stopped_under_it() -> None:
        engine.history.append("stop")
        engine.loaded = None
        engine.die()

    async with serve(engine) as running:
        engine.seconds = 0.3
        taking = asyncio.create_task(running.take_up("two"))
        async with asyncio.timeout(60):
            while "reload 2" not in engine.history:
                await asyncio.sleep(0.005)
        engine.stop = stopped_under_it  # type: ignore[method-assign]
    await asyncio.gather(taking, return_exceptions=True)
    assert [call for call in engine.history if call.startswith("start")] == ["start 1"]


async def test_other_tiles_need_another_engine(serve, store) -> None:
    manifest = read_manifest(store / "two")
    tiled = ImageContract(size=manifest.image.size, tokens_per_picture=16, max_patches=4)
    store_manifest(manifest.model_copy(update={"image": tiled}), store / "two")
    async with serve() as running:
        assert (await running.take_up("two")).json()["how"] == "rebuilt"
