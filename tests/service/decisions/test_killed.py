"""kill -9 in the middle of writing: every row has its pictures, and no decision is there twice."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from service.decisions.database import Database
from service.decisions.picture_store import PictureStore
from service.decisions.tables import DECISION, DECISION_PICTURE

ROUNDS = 2


def test_a_killed_service_leaves_no_row_without_its_pictures(launch_service, database_url, kept, make_sample) -> None:
    variables = {f"SCREENING_{name.upper()}": str(value) for name, value in kept.items()}
    answered: set[str] = set()
    for number in range(ROUNDS):
        with launch_service("--engine", "scripted", "--scripted-latency-ms", "1", variables=variables) as process:
            ends = threading.Event()

            def ask(first: int, ends: threading.Event = ends, process=process) -> None:
                with httpx.Client(base_url=process.base_url, timeout=10) as client:
                    for seed in range(first, first + 1000):
                        if ends.is_set():
                            return
                        with suppress(httpx.HTTPError):
                            answered.add(client.post("/screen", json=make_sample(seed).json()).json()["id"])

            threads = [threading.Thread(target=ask, args=(10_000 * number + 1000 * index,)) for index in range(4)]
            for thread in threads:
                thread.start()
            while process.metric('screening_decisions_total{result="stored"}') < 20:
                pass
            process.popen.kill()
            ends.set()
            for thread in threads:
                thread.join()
    database, pictures = Database(database_url), PictureStore(kept["pictures"])
    with database.reading() as connection:
        stored = list(connection.scalars(sa.select(DECISION.c.id)))
        links = connection.execute(sa.select(DECISION_PICTURE.c.decision_id, DECISION_PICTURE.c.sha256)).all()
    database.close()
    assert ROUNDS * 20 <= len(stored) == len(set(stored))
    assert len(links) == 5 * len(stored)
    assert all(pictures.get(sha256) is not None for sha256 in {link.sha256 for link in links})


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_service_that_ends_writes_the_queued_decisions(launch_service, kept, make_sample) -> None:
    variables = {f"SCREENING_{name.upper()}": str(value) for name, value in kept.items()}
    with launch_service("--engine", "scripted", "--scripted-latency-ms", "1", variables=variables) as process:
        with httpx.Client(base_url=process.base_url, timeout=30) as client:
            given = {client.post("/screen", json=make_sample(seed).json()).json()["id"] for seed in range(20)}
        assert process.terminate() == 0
    database = Database(kept["decisions"])
    with database.reading() as connection:
        assert set(connection.scalars(sa.select(DECISION.c.id))) == given
    database.close()


def test_a_service_does_not_start_on_a_database_that_it_cannot_use(launch_service, tmp_path: Path) -> None:
    variables = {"SCREENING_DECISIONS": "postgresql://x@127.0.0.1:1/x", "SCREENING_PICTURES": str(tmp_path)}
    with launch_service("--engine", "scripted", ready=False, variables=variables) as process:
        assert process.popen.wait(60) == 2
        last = process.log.read_text().splitlines()[-1]
    assert last.startswith("error: postgresql") and "cannot be used" in last
