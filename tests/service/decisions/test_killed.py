"""kill -9 in the middle of writing: every row has its pictures, and only the last answers are lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from service.decisions import orphans
from service.decisions.database import Database
from service.decisions.picture_store import PictureStore
from service.decisions.tables import DECISION, DECISION_PICTURE
from tests.service.conftest import Sample

pytestmark = pytest.mark.slow

CALLERS = 4


class Caller(threading.Thread):
    """Asks one question after the other until the service is gone."""

    def __init__(self, base_url: str, samples: Iterator[Sample]) -> None:
        super().__init__()
        self.base_url, self.samples = base_url, samples
        self.answered: list[str] = []

    def run(self) -> None:
        with httpx.Client(base_url=self.base_url, timeout=30) as client, suppress(httpx.HTTPError):
            for sample in self.samples:
                self.answered.append(client.post("/screen", json=sample.json()).json()["id"])


def stored_in(database: Database) -> set[str]:
    with database.reading() as connection:
        return set(connection.scalars(sa.select(DECISION.c.id)))


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.exhaustive)])
def test_a_killed_service_loses_only_its_last_answers(launch_service, database_url, kept, make_sample, kills) -> None:
    variables = {f"SCREENING_{name.upper()}": str(value) for name, value in kept.items()}
    database, pictures = Database(database_url), PictureStore(kept["pictures"])
    before: set[str] = set()
    for number in range(kills):
        with launch_service("--engine", "scripted", "--scripted-latency-ms", "1", variables=variables) as process:
            first = [1000 * (CALLERS * number + index) for index in range(CALLERS)]
            callers = [Caller(process.base_url, map(make_sample, range(seed, seed + 1000))) for seed in first]
            for caller in callers:
                caller.start()
            while (counted := process.metric('screening_decisions_total{result="stored"}')) < 10 + 7 * number % 40:
                pass
            process.popen.kill()
            for caller in callers:
                caller.join()
        stored = stored_in(database)
        assert before <= stored and len(stored - before) >= counted, "what was counted as stored is there"
        for caller in callers:
            kept_answers = [identity in stored for identity in caller.answered]
            assert kept_answers == sorted(kept_answers, reverse=True), "a later answer was kept and an earlier one lost"
        before = stored
    with database.reading() as connection:
        links = connection.execute(sa.select(DECISION_PICTURE.c.decision_id, DECISION_PICTURE.c.sha256)).all()
    assert len(links) == 5 * len(before)
    shown = {link.sha256 for link in links}
    assert all(pictures.get(sha256) is not None for sha256 in shown)
    later = datetime.now(UTC) + timedelta(days=2)
    orphans.remove(database, pictures, later)
    assert {sha256 for some in pictures.older_than(later) for sha256 in some} == shown
    database.close()


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
    file = tmp_path / "missing" / "decisions.db"
    variables = {"SCREENING_DECISIONS": f"sqlite:///{file}", "SCREENING_PICTURES": str(tmp_path)}
    with launch_service("--engine", "scripted", ready=False, variables=variables) as process:
        assert process.popen.wait(60) == 2
        last = process.log.read_text().splitlines()[-1]
    assert last.startswith("error: sqlite") and "cannot be used" in last
