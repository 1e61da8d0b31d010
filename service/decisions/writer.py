"""Writes decisions to the picture store and the database, off the request path.

`/screen` hands a record over and does not wait. One thread takes records in batches and writes their pictures first and
then their rows, in one transaction. While the database or the store fails, the thread retries, and the records stay in
memory, up to `max_bytes`. A record that does not fit is dropped and counted: each answer is stored, dropped,
erased or waiting.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import timedelta

import sqlalchemy as sa

from screening.runtime.daemon_thread import for_each
from service.decisions.database import Database
from service.decisions.erasure import mark_unreferenced
from service.decisions.errors import DatabaseError, PictureStoreError, first_line
from service.decisions.kept_pictures import keep_pictures
from service.decisions.picture_store import PictureStore
from service.decisions.record import DecisionRecord, StoredPicture
from service.decisions.schema_version import prepare_once
from service.decisions.tables import DECISION, DECISION_PICTURE, ERASED
from service.logs import log
from service.metrics import Metrics

LOGGER = logging.getLogger("service.decisions")

BATCH = 32
"""Maximum number of decisions per transaction."""
FLUSH_SECONDS = 0.25
"""Maximum time that a record waits for others to join its batch."""
_RETRY_SECONDS = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
_TIME_IS_OVER = "the time to write decisions at the end of the service is over"
_LAST_WRITE_SECONDS = 5.0
"""Maximum time in seconds for a write that has begun when the time to flush is over."""
_UPLOADS = 8
"""Maximum number of pictures that are written at the same time."""


class DecisionWriter:
    """A bounded queue in memory and the thread that empties it."""

    def __init__(
        self,
        database: Database,
        pictures: PictureStore,
        metrics: Metrics,
        *,
        max_bytes: int,
        retention: timedelta | None,
    ) -> None:
        """
        Args:
            max_bytes: maximum size of all waiting records, pictures included.
            retention: how long a decision is kept; None keeps it until it is erased.
        """
        self._database, self._pictures, self._metrics = database, pictures, metrics
        self._max_bytes, self._retention = max_bytes, retention
        self._changed = threading.Condition()
        self._waiting: deque[DecisionRecord] = deque()
        self._batch: list[DecisionRecord] = []
        """Records that the thread has taken from `_waiting`, and that are neither stored nor dropped yet."""
        self._bytes = 0
        self._is_dropping = False
        """Whether a record did not fit since the queue was last half empty; one line of the log tells of it."""
        self._end_at: float | None = None
        self._thread = threading.Thread(target=self._run, name="decisions", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def has_room(self) -> bool:
        """Whether the queue takes a record now."""
        return self._bytes < self._max_bytes

    def offer(self, record: DecisionRecord) -> bool:
        """Take a record, or drop and count it if the queue is full or closed; returns whether it was taken."""
        size = record.bytes
        with self._changed:
            is_open, fits = self._end_at is None, self._bytes + size <= self._max_bytes
            taken, begins = is_open and fits, is_open and not fits and not self._is_dropping
            self._is_dropping |= begins
            if taken:
                self._waiting.append(record)
                self._bytes += size
                self._metrics.decision_queue_bytes.set(self._bytes)
                self._changed.notify()
        if begins:
            log(LOGGER, logging.WARNING, "decisions are dropped: the queue is full", first=record.answer.id, bytes=size)
        if not taken:
            self._metrics.decisions.labels("dropped").inc()
        return taken

    def close(self, seconds: float) -> None:
        """Write the waiting records, for at most this time in seconds; the rest is dropped and counted. Blocks.

        A write that has begun may take `_LAST_WRITE_SECONDS` longer. If it hangs, its records count as dropped, too.
        """
        with self._changed:
            self._end_at = time.monotonic() + seconds
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(seconds + _LAST_WRITE_SECONDS)
        with self._changed:
            left = [*self._batch, *self._waiting]
            self._waiting.clear()
        if left:
            self._drop(left, "a write hangs, and the service ends")  # its thread may still store some of them

    def _run(self) -> None:
        while batch := self._next_batch():
            if self._is_over():
                self._drop(batch, _TIME_IS_OVER)
            else:
                self._write_until_done(batch)
            self._release(batch)

    def _next_batch(self) -> list[DecisionRecord]:
        """Wait for records; they count against the limit until they are released. Empty at the end."""
        with self._changed:
            while not self._waiting and self._end_at is None:
                self._changed.wait()
            if self._end_at is None and len(self._waiting) < BATCH:
                self._changed.wait_for(lambda: len(self._waiting) >= BATCH or self._end_at is not None, FLUSH_SECONDS)
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            self._batch = batch
            return batch

    def _release(self, batch: Iterable[DecisionRecord]) -> None:
        with self._changed:
            self._bytes -= sum(record.bytes for record in batch)
            self._is_dropping &= self._bytes > self._max_bytes / 2
            self._metrics.decision_queue_bytes.set(self._bytes)

    def _write_until_done(self, batch: Sequence[DecisionRecord]) -> None:
        """Write a batch, with retries while the stores fail; give it up only when the service ends."""
        failures = 0
        logged: type[Exception] | None = None
        while True:
            try:
                self._write(batch)
            except Exception as error:  # noqa: BLE001 - without this thread no later decision would be stored
                if not _may_pass(error):
                    return self._write_one_by_one(batch, error)
                pause = _RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)]
                failures += 1
                if type(error) is not logged:  # of another kind: the database answers again, and has another version
                    logged = type(error)
                    log(LOGGER, logging.WARNING, "decisions cannot be stored; trying again", error=first_line(error))
                if self._must_give_up(pause):
                    return self._drop(batch, "the service ends before the stores can be used again")
            else:
                self._finish(batch)
                if failures:
                    log(LOGGER, logging.INFO, "decisions are stored again", failures=failures)
                return None

    def _write_one_by_one(self, batch: Sequence[DecisionRecord], error: Exception) -> None:
        """Drop the record that is at fault; the others of its batch must not be lost with it."""
        if len(batch) == 1:
            return self._drop(batch, first_line(error))
        for number, record in enumerate(batch):
            if self._is_over():
                return self._drop(batch[number:], _TIME_IS_OVER)
            self._write_until_done([record])
        return None

    def _must_give_up(self, pause: float) -> bool:
        """Wait before the next attempt; returns whether it is time to end."""
        with self._changed:
            until = time.monotonic() + pause
            while (left := min(until, self._end_at or until) - time.monotonic()) > 0:
                self._changed.wait(left)
        return self._is_over()

    def _is_over(self) -> bool:
        """Whether the service ends, and the time for waiting records has passed."""
        return self._end_at is not None and time.monotonic() >= self._end_at

    def _finish(self, batch: Sequence[DecisionRecord]) -> None:
        """Remember that these records are stored or dropped, so that `close` does not count them."""
        finished = {id(record) for record in batch}
        with self._changed:
            self._batch = [record for record in self._batch if id(record) not in finished]

    def _drop(self, batch: Sequence[DecisionRecord], reason: str) -> None:
        self._finish(batch)
        self._metrics.decisions.labels("dropped").inc(len(batch))
        log(LOGGER, logging.ERROR, "decisions dropped", count=len(batch), first=batch[0].answer.id, reason=reason)

    def _write(self, batch: Sequence[DecisionRecord]) -> None:
        """Write pictures before rows: a row whose pictures are missing must never be visible.

        Raises:
            DatabaseError, PictureStoreError, sqlalchemy.exc.SQLAlchemyError: nothing was committed.
        """
        prepare_once(self._database)
        pictures = {record.answer.id: record.stored_pictures() for record in batch}
        by_address = {picture.sha256: picture for five in pictures.values() for picture in five}
        for_each(self._put, by_address.values(), threads=_UPLOADS, name="decision pictures")
        with self._database.writing() as connection:
            self._database.lock_erasure(connection, shared=True)
            keep_pictures(connection, self._pictures, by_address)
            erased = _erased(connection, pictures)
            known = set(connection.scalars(sa.select(DECISION.c.id).where(DECISION.c.id.in_(pictures))))
            fresh = [record for record in batch if record.answer.id not in erased | known]
            if fresh:
                connection.execute(sa.insert(DECISION), [record.row(self._retention) for record in fresh])
                connection.execute(sa.insert(DECISION_PICTURE), [
                    {"decision_id": record.answer.id, "position": position, "sha256": picture.sha256}
                    for record in fresh
                    for position, picture in enumerate(pictures[record.answer.id])
                ])  # fmt: skip
            if erased:
                mark_unreferenced(connection, {picture.sha256 for identity in erased for picture in pictures[identity]})
        self._metrics.decisions.labels("stored").inc(len(batch) - len(erased))
        if erased:
            self._metrics.decisions.labels("erased").inc(len(erased))

    def _put(self, picture: StoredPicture) -> None:
        self._pictures.put(picture.sha256, picture.data)


def _erased(connection: sa.Connection, ids: Iterable[str]) -> set[str]:
    """Ids of the given decisions that were erased before they were written."""
    return set(connection.scalars(sa.select(ERASED.c.decision_id).where(ERASED.c.decision_id.in_(ids))))


def _may_pass(error: Exception) -> bool:
    """Whether the stores failed, and not a record: also missing tables or rights, or another version of the tables,
    which an operator can mend."""
    if isinstance(error, sa.exc.DBAPIError):
        return not isinstance(error, sa.exc.DataError | sa.exc.IntegrityError)
    return isinstance(error, sa.exc.TimeoutError | DatabaseError | PictureStoreError)
