"""While the stores cannot be used, requests are answered, memory is bounded, and what is lost is counted."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from service.config.settings import Settings
from service.decisions.database import Database
from service.decisions.picture_store import PictureStore
from service.decisions.store import DecisionStore, open_store
from service.decisions.tables import DECISION, DECISION_PICTURE
from service.metrics import Metrics
from tests.service.conftest import Sample, draw
from tests.service.decisions.conftest import ADMIN_KEY, EMPTY, sha256

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

QUEUE_BYTES = 2**20


@dataclass(frozen=True)
class Outage:
    """Stores that work, and functions that break and repair them."""

    decisions: str
    pictures: str
    begin: Callable[[], object]
    end: Callable[[], object]


@contextmanager
def locked_sqlite(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Outage]:
    file = tmp_path / "decisions.db"
    holder = sqlite3.connect(file, isolation_level=None)
    begin, end = (lambda: holder.execute("BEGIN IMMEDIATE")), (lambda: holder.execute("ROLLBACK"))
    yield Outage(f"sqlite:///{file}", str(tmp_path / "pictures"), begin, end)
    holder.close()


@contextmanager
def locked_postgresql(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Outage]:
    url = request.getfixturevalue("postgresql")()
    engine = sa.create_engine(Database(url).url)
    with engine.connect() as holder:

        def begin() -> None:
            holder.execute(sa.text("LOCK TABLE decision IN ACCESS EXCLUSIVE MODE"))

        yield Outage(url, str(tmp_path / "pictures"), begin, holder.rollback)
    engine.dispose()


@contextmanager
def refusing_postgresql(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Outage]:
    """A server that refuses connections to a database without tables."""
    url = request.getfixturevalue("postgresql")(EMPTY)
    address = sa.make_url(url)
    server = psycopg.connect(host=address.query["host"], user="tests", dbname="postgres", autocommit=True)

    def allow(connections: bool) -> None:
        server.execute(f"ALTER DATABASE {address.database} ALLOW_CONNECTIONS {connections}")

    yield Outage(url, str(tmp_path / "pictures"), partial(allow, False), partial(allow, True))
    server.close()


@contextmanager
def full_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Outage]:
    if os.getuid() != 0:
        pytest.skip("a small file system needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], check=False).returncode:
        pytest.skip("this machine does not allow mounts")
    filler = folder / "filler"

    def begin() -> None:
        with filler.open("wb") as file, pytest.raises(OSError, match="No space left"):
            while file.write(bytes(2**16)):
                file.flush()

    yield Outage(f"sqlite:///{folder}/decisions.db", str(folder / "pictures"), begin, filler.unlink)
    subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def lost_s3(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Outage]:
    from moto.server import ThreadedMotoServer

    location, server = request.getfixturevalue("s3"), request.getfixturevalue("s3_server")
    host, port = server.get_host_and_port()
    with ExitStack() as later:

        def end() -> None:
            again = ThreadedMotoServer(ip_address=host, port=port, verbose=False)
            again.start()
            later.callback(again.stop)

        yield Outage(f"sqlite:///{tmp_path}/decisions.db", location, server.stop, end)


@contextmanager
def lost_directory(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Outage]:
    folder, away = tmp_path / "pictures", tmp_path / "away"

    def begin() -> None:
        folder.rename(away)
        folder.write_text("a file in its place")

    def end() -> None:
        folder.unlink()
        # Not by a rename: the writer may have made the directory again already.
        shutil.copytree(away, folder, dirs_exist_ok=True)

    yield Outage(f"sqlite:///{tmp_path}/decisions.db", str(folder), begin, end)


OUTAGES = [locked_sqlite, locked_postgresql, full_disk, lost_s3, lost_directory]


@pytest.fixture(params=OUTAGES, ids=lambda kind: kind.__name__)
def outage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outage]:
    monkeypatch.setattr("service.decisions.database.BUSY_SECONDS", 1.0)
    with request.param(tmp_path, request) as one:
        yield one


def big_sample(seed: int) -> Sample:
    """Different pictures for each seed, about 100 KB each: ten requests fill the queue."""
    return Sample(tuple(draw(10 * seed + index) + bytes(20_000) for index in range(5)))


def stored(outage: Outage) -> set[str]:
    """Ids of the stored decisions; each must have its five pictures."""
    database, pictures = Database(outage.decisions), PictureStore(outage.pictures)
    with database.reading() as connection:
        ids = set(connection.scalars(sa.select(DECISION.c.id)))
        links = connection.execute(sa.select(DECISION_PICTURE)).all()
    database.close()
    assert len(links) == 5 * len(ids)
    assert all(pictures.get(one.sha256) is not None for one in links)
    return ids


class Caller:
    """Sends requests and counts what becomes of their decisions."""

    def __init__(self, running: Any) -> None:
        self.running = running
        self.statuses: list[int] = []
        self.ids: set[str] = set()
        self.queued: list[float] = []

    async def ask(self, count: int) -> None:
        for _ in range(count):
            sample = big_sample(len(self.statuses))
            answer = await self.running.client.post("/screen", json=sample.json())
            self.statuses.append(answer.status_code)
            self.queued.append(self.running.metric("screening_decision_queue_bytes"))
            if answer.status_code == 200:
                self.ids.add(answer.json()["id"])

    def counted(self, result: str) -> int:
        return round(self.running.metric("screening_decisions_total", result=result))

    async def all_counted(self) -> None:
        while self.counted("stored") + self.counted("dropped") < len(self.ids):
            await asyncio.sleep(0.01)


async def test_every_request_is_answered_and_every_decision_stored_or_counted(start, outage) -> None:
    stores = {"decisions": outage.decisions, "pictures": outage.pictures}
    async with start(**stores, decisions_queue_bytes=QUEUE_BYTES) as running:
        caller = Caller(running)
        await caller.ask(3)
        await caller.all_counted()
        outage.begin()
        await caller.ask(30)
        dropped = caller.counted("dropped")
        outage.end()
        await caller.all_counted()
        await caller.ask(3)
        await caller.all_counted()
    assert set(caller.statuses) == {200} and max(caller.queued) <= QUEUE_BYTES
    assert 0 < dropped == caller.counted("dropped") < 30, "nothing is dropped after the outage"
    assert len(stored(outage)) == caller.counted("stored") == len(caller.ids) - dropped
    assert stored(outage) < caller.ids


@pytest.mark.parametrize("outage", [locked_sqlite], indirect=True)
async def test_where_decisions_are_required_a_request_without_one_is_refused(start, outage) -> None:
    stores = {"decisions": outage.decisions, "pictures": outage.pictures}
    async with start(**stores, decisions_queue_bytes=QUEUE_BYTES, decisions_required=True) as running:
        caller = Caller(running)
        outage.begin()
        await caller.ask(20)
        refused = await running.client.post("/screen", json=big_sample(99).json())
        outage.end()
        await caller.all_counted()
    assert refused.status_code == 503 and refused.json()["type"].endswith(":decisions-unavailable")
    assert refused.headers["Retry-After"] and set(caller.statuses) == {200, 503}
    assert stored(outage) == caller.ids, "what was answered is stored"


@pytest.mark.parametrize("required", [False, True])
@pytest.mark.parametrize("outage", [refusing_postgresql], indirect=True)
async def test_a_service_starts_in_an_outage_and_stores_its_answers_afterwards(start, outage, required) -> None:
    stores = {"decisions": outage.decisions, "pictures": outage.pictures, "decisions_required": required}
    lead = {"Authorization": f"Bearer {ADMIN_KEY}"}
    outage.begin()
    async with start(**stores, review=True, admin_keys=sha256(ADMIN_KEY)) as running:
        caller, paths = Caller(running), ("/decisions", "/review/reviews")
        await caller.ask(1)
        during = [await running.client.get(path, headers=lead) for path in paths]
        outage.end()
        afterwards = [await running.client.get(path, headers=lead) for path in paths]
        await caller.all_counted()
    assert caller.statuses == [200]
    assert [one.status_code for one in during] == [503, 503]
    assert all(one.json()["type"].endswith(":decisions-unavailable") for one in during)
    assert [one.status_code for one in afterwards] == [200, 200], "each of them makes the tables if they are missing"
    assert stored(outage) == caller.ids


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", [locked_sqlite, locked_postgresql], ids=lambda kind: kind.__name__)
async def test_a_database_that_is_locked_for_a_minute(start, kind, request, tmp_path) -> None:
    with kind(tmp_path, request) as outage:
        stores = {"decisions": outage.decisions, "pictures": outage.pictures}
        async with start(**stores, decisions_queue_bytes=64 * QUEUE_BYTES) as running:
            caller = Caller(running)
            await caller.ask(1)
            await caller.all_counted()
            outage.begin()
            for _ in range(60):
                await caller.ask(2)
                await asyncio.sleep(1)
            outage.end()
            await caller.all_counted()
        assert set(caller.statuses) == {200} and caller.counted("dropped") == 0
        assert stored(outage) == caller.ids


def opened(tmp_path: Path) -> DecisionStore:
    """A decision store whose writer does not run."""
    stores = {"decisions": f"sqlite:///{tmp_path}/decisions.db", "pictures": str(tmp_path / "pictures")}
    return open_store(Settings(engine="scripted", **stores), Metrics())


def test_the_end_of_the_process_does_not_wait_for_pictures_that_hang(tmp_path, monkeypatch) -> None:
    asked, there, daemons = threading.Event(), threading.Event(), []

    def hang(*_: Any) -> None:
        daemons.append(threading.current_thread().daemon)
        asked.set()
        there.wait(60)

    async def end_while_one_is_read() -> None:
        store = opened(tmp_path)
        reading = asyncio.create_task(store.ask(partial(store.pictures.get, "0" * 64)))
        while not asked.is_set():
            await asyncio.sleep(0.005)
        await store.close(0)
        assert not reading.done()

    monkeypatch.setattr("service.decisions.store._END_SECONDS", 0.1)
    monkeypatch.setattr(PictureStore, "get", hang)
    asyncio.run(end_while_one_is_read())
    assert not there.is_set() and daemons == [True]
    there.set()


async def test_callers_who_leave_add_no_threads_to_those_that_hang(tmp_path) -> None:
    store, there, begun = opened(tmp_path), threading.Event(), []

    def hang() -> int:
        begun.append(threading.get_ident())
        there.wait(60)
        return len(begun)

    leaving = [asyncio.create_task(store.ask(hang)) for _ in range(4)]
    while len(begun) < 4:
        await asyncio.sleep(0.005)
    for one in leaving:
        one.cancel()
    await asyncio.gather(*leaving, return_exceptions=True)
    last = asyncio.create_task(store.ask(hang))
    await asyncio.sleep(0.05)
    assert len(begun) == 4, "the last one waits for a place"
    there.set()
    assert await last == 5
    await store.close(0)
