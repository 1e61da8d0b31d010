"""A store that does not answer, or holds something that is not a file, delays one order for a limited time and no
other."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from screening.checkpoint import regular_file
from screening.checkpoint.manifest import FileEntry, read_manifest, store_manifest
from screening.checkpoint.registry import Version
from screening.checkpoint.seal import sealed
from screening.errors import CheckpointError, CheckpointUnavailable
from service.admission.admission import Admission
from service.checkpoints.served import ServedCheckpoint
from service.checkpoints.startup import start_serving
from service.checkpoints.store_reads import MAX_HANGING, StoreReads, Watch
from service.config.settings import Settings
from service.metrics import Metrics
from tests.service.obedient_engine import ObedientEngine

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


def fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    path.unlink(missing_ok=True)
    here = Path.cwd()
    os.chdir(path.parent)  # the path of a socket has at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def device(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def directory(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


@pytest.mark.parametrize("name", ["screening.json", "model.safetensors", "tokenizer.json", "added.json"])
@pytest.mark.parametrize("kind", [fifo, a_socket, device, directory])
async def test_a_path_that_is_not_a_file_is_refused_at_once_and_the_next_order_is_served(
    kind, name, serve, store
) -> None:
    if (kind, name) == (directory, "added.json"):
        pytest.skip("an empty directory beside the files is no file that the manifest lacks")
    kind(store / "two" / name)
    shutil.copytree(store / "one", store / "three")
    async with serve() as running:
        async with asyncio.timeout(20):
            refused = await running.take_up("two")
        assert refused.status_code == 409, refused.text
        reasons = ("not a regular file", "points outside", "does not list")
        assert any(reason in refused.json()["detail"] for reason in reasons)
        assert (await running.take_up("three")).json()["how"] == "unchanged"
        assert (await running.state())["store_reads"] == []
        assert running.engine.history == ["start 1"]


async def test_a_fifo_as_model_card_is_left_alone(serve, store) -> None:
    fifo(store / "two" / "README.md")
    async with serve() as running:
        assert (await running.take_up("two")).status_code == 200


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, threading.Event]]:
    """Files whose reads hang until their event is set, as on a network file system whose server does not answer."""
    events: dict[str, threading.Event] = {}
    real = regular_file.open_regular

    def open_regular(path: Path, step: Any = regular_file.unwatched) -> Any:
        step(path)
        for part, event in events.items():
            if part in str(path) and "checkpoints" not in path.parts:
                event.wait(60)
        return real(path, step)

    monkeypatch.setattr(regular_file, "open_regular", open_regular)
    yield events
    for event in events.values():
        event.set()


@pytest.mark.parametrize("name", ["screening.json", "model.safetensors"])
async def test_a_read_that_hangs_is_given_up_and_shown_and_delays_no_other_order(
    name, serve, store, stuck, sample
) -> None:
    stuck[f"two/{name}"] = there = threading.Event()
    shutil.copytree(store / "one", store / "three")
    async with serve(store_read_seconds=1) as running:
        refused = await running.take_up("two")
        assert refused.status_code == 409, refused.text
        assert f"two/{name} has not been read for" in refused.json()["detail"]
        assert (await running.take_up("three")).status_code == 200, "later swaps are not blocked"
        again = await running.take_up("two")
        assert again.status_code == 409 and "hangs" in again.json()["detail"]
        (reading,) = (await running.state())["store_reads"]
        assert reading["hanging"] and reading["path"].endswith(f"two/{name}")
        assert running.metric("screening_store_reads_hanging") == 1
        assert (await running.state())["refused"] == [], "it may be a good checkpoint"
        there.set()
        async with asyncio.timeout(20):
            while (await running.state())["store_reads"]:
                await asyncio.sleep(0.01)
        assert running.metric("screening_store_reads_hanging") == 0
        assert running.engine.history == ["start 1"]
        assert (await running.take_up("two")).status_code == 200, "when the store answers again"


async def test_a_name_that_cannot_be_resolved_is_given_up_too(serve, monkeypatch) -> None:
    there = threading.Event()
    monkeypatch.setattr("service.checkpoints.store_reads.inside", lambda *_: there.wait(60))
    async with serve(store_read_seconds=1) as running:
        refused = await running.take_up("two")
        assert refused.status_code == 409 and "hangs" in refused.json()["detail"]
        monkeypatch.undo()
        there.set()


async def test_a_slow_store_that_still_answers_is_waited_for(tmp_path: Path) -> None:
    reads = StoreReads(1, Metrics())

    def work(watch: Watch) -> int:
        for step in range(8):
            watch(tmp_path / str(step))
            threading.Event().wait(0.15)
        watch.leave_store()
        threading.Event().wait(1.2)  # the local disk may take its time
        return 7

    assert await reads.read(tmp_path, work) == 7
    assert reads.under_way() == []


async def test_a_read_that_was_given_up_ends_at_its_next_step_and_changes_nothing(tmp_path: Path) -> None:
    reads, there, done = StoreReads(0.1, Metrics()), threading.Event(), threading.Event()

    def work(watch: Watch) -> None:
        there.wait(60)
        try:
            watch(tmp_path / "next")
            (tmp_path / "written").touch()
        finally:
            done.set()

    with pytest.raises(CheckpointUnavailable, match="hangs"):
        await reads.read(tmp_path, work)
    there.set()
    assert await asyncio.to_thread(done.wait, 20)
    assert not (tmp_path / "written").exists()


async def test_hanging_threads_do_not_pile_up(tmp_path: Path) -> None:
    reads, there = StoreReads(0.01, Metrics()), threading.Event()
    hang: Callable[[Watch], object] = lambda _: there.wait(60)  # noqa: E731
    for place in range(MAX_HANGING):
        with pytest.raises(CheckpointUnavailable, match="has not been read"):
            await reads.read(tmp_path / str(place), hang)
    with pytest.raises(CheckpointUnavailable, match=f"{MAX_HANGING} reads hang"):
        await reads.read(tmp_path / "one more", hang)
    there.set()
    async with asyncio.timeout(20):
        while reads.under_way():
            await asyncio.sleep(0.01)


def link_to_itself(two: Path) -> None:
    shutil.rmtree(two)
    two.symlink_to(two)


def file_link_to_itself(two: Path) -> None:
    (two / "tokenizer.json").unlink()
    (two / "tokenizer.json").symlink_to("tokenizer.json")


def manifest_link_to_itself(two: Path) -> None:
    (two / "screening.json").unlink()
    (two / "screening.json").symlink_to("screening.json")


def manifest_link_out(two: Path) -> None:
    (two / "screening.json").rename(two.parent / "outside.json")
    (two / "screening.json").symlink_to("../outside.json")


def link_to_a_directory(two: Path) -> None:
    (two / "more").symlink_to("/etc")


def a_file(two: Path) -> None:
    shutil.rmtree(two)
    two.write_text("{}")


def named(name: str) -> Callable[[Path], None]:
    """A manifest that lists an empty file of this name."""
    empty = FileEntry(size=0, sha256=hashlib.sha256().hexdigest())

    def damage(two: Path) -> None:
        manifest = json.loads((two / "screening.json").read_text())
        manifest["files"][name] = empty.model_dump()
        (two / "screening.json").write_text(json.dumps(manifest))
        with suppress(CheckpointError):  # if the manifest cannot be read, nothing is sealed
            store_manifest(sealed(read_manifest(two)), two)

    return damage


ODD: dict[str, Callable[[Path], None]] = {
    "link to itself": link_to_itself,
    "file that is a link to itself": file_link_to_itself,
    "manifest that is a link to itself": manifest_link_to_itself,
    "manifest that is a link out": manifest_link_out,
    "link to a directory": link_to_a_directory,
    "file in the place of the directory": a_file,
    "name with a NUL": named("a\0b"),
    "name of the parent": named("../two/tokenizer.json/.."),
    "name from the root": named("/etc/hostname"),
    "empty name": named(""),
    "long name": named("x" * 300),
    "the manifest itself": named("screening.json"),
    "half a character": lambda two: (two / os.fsdecode(b"\xff.json")).write_text("{}"),
}


@pytest.mark.parametrize("what", ODD)
async def test_an_odd_directory_is_refused_and_the_next_order_is_served(what, serve, store) -> None:
    shutil.copytree(store / "two", store / "three")
    ODD[what](store / "two")
    async with serve() as running:
        refused = await running.take_up("two")
        assert refused.status_code == 409, refused.text
        assert running.engine.history == ["start 1"] and (await running.state())["store_reads"] == []
        assert (await running.take_up("three")).status_code == 200


async def test_a_start_whose_production_store_hangs_uses_the_configured_checkpoint(
    serve, store, stuck, tmp_path
) -> None:
    """`two` is what the registry names; the store does not answer for it, and does for `one`."""
    stuck["two/model.safetensors"] = threading.Event()
    offer = Version(1, read_manifest(store / "two").digest, store / "two", {})
    settings = Settings(engine="vllm", checkpoint=store / "one", state_dir=tmp_path / "state", store_read_seconds=1)
    metrics = Metrics()
    admission = Admission(max_concurrent=1, max_queue=1, metrics=metrics)
    served = ServedCheckpoint(ObedientEngine(), admission, metrics, settings, store / "one")

    async def production() -> Version:
        return offer

    await start_serving(served, production)
    assert served.manifest.version == "1" and served.history.refused == {}
    (reading,) = served.reads.under_way()
    assert reading.hanging
    served.store.close()


async def test_a_start_whose_own_checkpoint_hangs_fails_with_a_sentence(store, stuck, tmp_path) -> None:
    stuck["one/screening.json"] = threading.Event()
    settings = Settings(engine="vllm", checkpoint=store / "one", state_dir=tmp_path / "state", store_read_seconds=1)
    metrics = Metrics()
    admission = Admission(max_concurrent=1, max_queue=1, metrics=metrics)
    served = ServedCheckpoint(ObedientEngine(), admission, metrics, settings, store / "one")
    sentence = r"one/screening\.json has not been read for \d+ s: the store hangs"
    with pytest.raises(CheckpointUnavailable, match=sentence):
        await start_serving(served)
    served.store.close()
