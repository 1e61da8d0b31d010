"""The decision store of one service: opens database, picture store and writer from the settings."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import sqlalchemy as sa

from screening.images import Picture
from screening.runtime.daemon_thread import in_daemon_thread
from service.config.settings import Settings
from service.decisions.database import Database
from service.decisions.errors import DatabaseError, DatabaseUnreachable, PictureStoreError, first_line
from service.decisions.picture_store import PictureStore
from service.decisions.record import record_of
from service.decisions.schema_version import prepare, prepare_once
from service.decisions.writer import DecisionWriter
from service.errors import DecisionsUnavailable
from service.logs import log
from service.metrics import Metrics
from service.schemas import ScreenAnswer

LOGGER = logging.getLogger("service.decisions")

Result = TypeVar("Result")

_END_SECONDS = 5.0
"""Maximum time to wait for running queries when the service ends."""
_QUERIES = 4
"""Maximum number of the HTTP interface's queries that run at the same time."""
_LOG_SECONDS = 10.0
"""Minimum time between two log lines about queries that failed."""


class _FailureLog:
    """Logs why queries fail, at most once every ten seconds. Only the event loop's thread uses it."""

    def __init__(self) -> None:
        self._silent_until = 0.0

    def note(self, error: Exception) -> None:
        now = time.monotonic()
        if now >= self._silent_until:
            self._silent_until = now + _LOG_SECONDS
            log(LOGGER, logging.WARNING, "the decision store cannot be used", error=first_line(error))


@dataclass(frozen=True, slots=True)
class DecisionStore:
    """The decision store, as used by the request path and the HTTP interface."""

    database: Database
    pictures: PictureStore
    writer: DecisionWriter
    required: bool
    """Whether an answer that cannot be stored is refused."""
    places: asyncio.Semaphore
    """A place for each query of the interface that may run now."""
    failures: _FailureLog = field(default_factory=_FailureLog)
    """Where `ask` logs why it failed."""

    def check_room(self) -> None:
        """Refuse a request early, before its body is read.

        Raises:
            DecisionsUnavailable: decisions are required, and the queue is full.
        """
        if self.required and not self.writer.has_room:
            raise DecisionsUnavailable

    def keep(self, answer: ScreenAnswer, caller: str, question_digest: bytes, pictures: tuple[Picture, ...]) -> None:
        """Hand an answer to the writer.

        Raises:
            DecisionsUnavailable: decisions are required, and the queue is full.
        """
        if not self.writer.offer(record_of(answer, caller, question_digest, pictures)) and self.required:
            raise DecisionsUnavailable

    async def ask(self, work: Callable[[], Result]) -> Result:
        """Run a call that needs the database or the pictures in a thread.

        Raises:
            DecisionsUnavailable: they cannot be reached.
        """
        asking = asyncio.create_task(self._in_thread(work))
        # If the caller is cancelled, no other code asks for the error, and asyncio would log it as never retrieved.
        asking.add_done_callback(lambda asked: asked.cancelled() or asked.exception())
        try:
            return await asyncio.shield(asking)
        except (sa.exc.DBAPIError, sa.exc.TimeoutError, DatabaseError, PictureStoreError) as error:
            self.failures.note(error)
            raise DecisionsUnavailable from error

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        """Wait for a place, and keep it until the thread ends, also if the caller has gone."""

        def prepare_and_work() -> Result:
            prepare_once(self.database)
            return work()

        async with self.places:
            return await in_daemon_thread(prepare_and_work, name="decision query")

    async def close(self, seconds: float) -> None:
        """Write the waiting records, for at most this time in seconds."""
        await asyncio.to_thread(self.writer.close, seconds)
        with suppress(TimeoutError):  # a query that hangs must not keep the service from ending
            async with asyncio.timeout(_END_SECONDS):
                for _ in range(_QUERIES):
                    await self.places.acquire()
        self.database.close()


def open_store(settings: Settings, metrics: Metrics) -> DecisionStore:
    """The store that the settings name. A database that does not answer now is prepared when it does.

    Raises:
        DatabaseError, PictureStoreError: it cannot be used.
    """
    database, pictures = open_stores(settings)
    try:
        prepare(database)
    except DatabaseUnreachable as error:
        log(LOGGER, logging.WARNING, "starting without the database of decisions", error=str(error))
    retention = None if settings.decisions_days is None else timedelta(days=settings.decisions_days)
    writer = DecisionWriter(database, pictures, metrics, max_bytes=settings.decisions_queue_bytes, retention=retention)
    return DecisionStore(database, pictures, writer, settings.decisions_required, asyncio.Semaphore(_QUERIES))


def open_stores(settings: Settings) -> tuple[Database, PictureStore]:
    """Database and pictures.

    Raises:
        DatabaseError, PictureStoreError: one of them cannot be opened.
    """
    if settings.decisions is None:
        raise DatabaseError("no database is configured: set SCREENING_DECISIONS, e.g. to sqlite:////var/decisions.db")
    if settings.pictures is None:
        raise PictureStoreError("no picture store is configured: set SCREENING_PICTURES to a directory or an address")
    return Database(settings.decisions), PictureStore(settings.pictures)
