"""Databases with decisions, and services whose people review."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from service.decisions.database import Database
from service.decisions.picture_store import PictureStore
from service.decisions.review_tables import REVIEW_SLOT
from service.decisions.tables import DECISION, DECISION_PICTURE, PICTURE
from service.review import leases
from service.review.consensus import Verdict
from service.review.leases import Lease
from service.review.reviews import Submission
from tests.service.decisions.conftest import (  # noqa: F401 - fixtures
    ADMIN_KEY,
    database,
    database_url,
    kept,
    postgresql,
    prepared_file,
    sha256,
)

REVIEW_KEY = "review-key"
REVIEW = {"Authorization": f"Bearer {REVIEW_KEY}"}
LEAD = {"Authorization": f"Bearer {ADMIN_KEY}"}
SCREEN_KEY = "screen-key"
SCREEN = {"Authorization": f"Bearer {SCREEN_KEY}"}
OTHER_KEY = "another-reviewer"
OTHER = {"Authorization": f"Bearer {OTHER_KEY}"}


@pytest.fixture
def open_review(start, kept, make_sample, tmp_path) -> Callable[..., Any]:  # noqa: F811
    """A service with a number of decisions, all with different pictures, and with people who review."""

    @asynccontextmanager
    async def opened(count: int = 0, /, **settings: Any) -> AsyncIterator[Any]:
        keys = tmp_path / "keys"
        keys.write_text(
            f"ann review {sha256(REVIEW_KEY)}\nben review {sha256(OTHER_KEY)}\nshop screen {sha256(SCREEN_KEY)}\n"
        )
        async with start(**(kept | {"review": True, "keys_file": str(keys)} | settings)) as running:
            for seed in range(count):
                answer = await running.client.post("/screen", json=make_sample(seed).json(), headers=SCREEN)
                assert answer.status_code == 200, answer.text
            while running.metric("screening_decisions_total", result="stored") < count:
                await asyncio.sleep(0.01)
            yield running

    return opened


def answer_of(identity: str, choice: str | None, confidence: float, needs_review: bool) -> dict[str, Any]:
    """What a decision's row keeps of the answer, as far as reviews read it."""
    acceptable = [choice] if choice in ("A", "B", "C", "D") else []
    return {
        "id": identity,
        "choice": choice,
        "acceptable": acceptable,
        "confidence": confidence,
        "needs_review": needs_review,
        "reasoning": None if choice is None else f"I observed <A> normal: fine, so I ultimately chose {choice}.",
        "options": [
            {"option": letter, "usable": good, "issues": [] if good else ["physical_shadow"]}
            for letter, good in ((letter, letter in acceptable) for letter in "ABCD")
        ],
        "metadata": {},
    }


def insert_decision(
    database: Database,  # noqa: F811
    number: int,
    *,
    choice: str | None = "A",
    confidence: float = 0.9,
    needs_review: bool = False,
    at: datetime | None = None,
    product: str | None = None,
    question: str | None = None,
    checkpoint: str = "sha256:1",
) -> str:
    """Insert a decision with five pictures of its own; returns its id. The pictures' bytes are stored nowhere."""
    identity = f"scr_{number:026d}"
    addresses = [sha256(f"{number}/{position}") for position in range(5)]
    with database.writing() as connection:
        connection.execute(
            sa.insert(PICTURE), [{"sha256": one, "media_type": "image/jpeg", "bytes": 7} for one in addresses]
        )
        connection.execute(
            sa.insert(DECISION).values(
                id=identity,
                created_at=at or datetime.now(UTC) - timedelta(minutes=1),
                caller="",
                question=question or sha256(str(number)),
                product=product,
                mode="cot",
                checkpoint=checkpoint,
                outcome="unreadable" if choice is None else "answered",
                choice=choice,
                confidence=confidence,
                needs_review=needs_review,
                answer=answer_of(identity, choice, confidence, needs_review),
            )
        )
        connection.execute(
            sa.insert(DECISION_PICTURE),
            [{"decision_id": identity, "position": place, "sha256": one} for place, one in enumerate(addresses)],
        )
    return identity


def verdicts(usable: str = "", dimension: str = "physical_shadow") -> list[dict[str, Any]]:
    """Verdicts on the pictures 1 to 4 as displayed, of which some are usable: "13"."""
    return [
        {"number": number, "usable": good, "dimensions": {} if good else {dimension: 2}}
        for number, good in ((number, str(number) in usable) for number in range(1, 5))
    ]


def review_of(lease: str, usable: str = "", **fields: Any) -> dict[str, Any]:
    """A review as the page sends it."""
    return {"id": str(uuid.uuid4()), "lease": lease, "verdicts": verdicts(usable), "active_seconds": 3.5} | fields


@pytest.fixture
def pictures(tmp_path: Path) -> Iterator[PictureStore]:
    """An empty picture store."""
    yield PictureStore(str(tmp_path / "pictures"))


def submission(lease: Lease, letters: str, *, identity: str | None = None, **fields: Any) -> Submission:
    """A review that calls these letters usable, whatever their display order is."""
    shown = tuple(
        Verdict(letter in letters, {} if letter in letters else {"physical_shadow": 2})
        for letter in lease.display_order
    )
    said = {"best": None, "comment": None, "active_seconds": 3.0, "supersedes": None} | fields
    return Submission(identity or str(uuid.uuid4()), lease.id, shown, **said)


def take(database: Database, reviewer: str, job: str | None = None) -> Lease:  # noqa: F811
    """Lease one task."""
    ((lease,), _) = leases.lease(database, reviewer, count=1, job=job)
    return lease


def expire(database: Database, lease: Lease) -> None:  # noqa: F811
    """Let the ten minutes of a lease pass."""
    with database.writing() as connection:
        past = datetime.now(UTC) - timedelta(minutes=1)
        connection.execute(sa.update(REVIEW_SLOT).where(REVIEW_SLOT.c.lease == lease.id).values(leased_until=past))
