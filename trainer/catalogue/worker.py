"""Screens blocks: reads the records, decodes their pictures, asks the engine, and writes the part.

Several threads may screen a block each with one worker. Then the pictures of one block are decoded while the engine
works on another one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from screening.boxes import Frame
from screening.checkpoint.manifest import verify
from screening.inference.pictures import Prepared
from screening.runtime.extensions import find
from trainer.catalogue.attempts import Attempts
from trainer.catalogue.columns import answer_row, answers_table, rejects_table
from trainer.catalogue.engine import LastingEngine
from trainer.catalogue.job import ENGINES, Job
from trainer.catalogue.parts import Parts
from trainer.catalogue.plan import Block, id_text
from trainer.catalogue.records import Record, kept_columns, read_records
from trainer.catalogue.rejects import CatalogueError, Reason, Reject, Rejected
from trainer.evaluation.evaluate.errors import Unfinished
from trainer.evaluation.evaluate.generate import DECODERS, Reply

BLOCKS_AT_ONCE = 2
"""Number of blocks that a worker has in hand: the engine works on one while the pictures of the other are decoded."""


@dataclass(frozen=True, slots=True)
class Screened:
    """What became of a block."""

    answered: int
    rejected: int

    @property
    def records(self) -> int:
        return self.answered + self.rejected


@dataclass(frozen=True, slots=True)
class Answered:
    """The model's reply to one question."""

    reply: Reply
    frames: tuple[Frame, ...]
    """How original, A, B, C and D lie on what the model saw."""


class Worker:
    """One engine and the threads that decode pictures for it.

    Leaving its `with` block does not wait for threads that screen a block; that block stays unfinished.
    """

    def __init__(self, job: Job) -> None:
        """Verify the checkpoint and start the engine.

        Raises:
            CatalogueError: this machine's checkpoint is not that of the run.
            CheckpointError: the checkpoint is incomplete or was changed.
        """
        self._job, self._parts, self._room = job, Parts(job.out), _Room(BLOCKS_AT_ONCE)
        self._current: set[Attempts] = set()
        self._manifest = verify(job.checkpoint)
        if self._manifest.digest != job.digest:
            raise CatalogueError(
                f"{job.checkpoint} is {self._manifest.digest} on a worker's machine; the run uses {job.digest}. "
                "Copy the same checkpoint to each machine"
            )
        start = find(job.engine, ENGINES, "engine")
        with ExitStack() as stack:
            self._decoders = stack.enter_context(ThreadPoolExecutor(DECODERS, thread_name_prefix="decode"))
            asked = {"locate": True} if job.locate else {}
            start = partial(start, job.checkpoint, self._manifest, job.mode, **asked)
            self._engine = stack.enter_context(LastingEngine(start))
            stack.callback(self._give_up_blocks)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stack.close()

    def screen(self, block: Block) -> Screened:
        """Screen one block and write its part.

        Raises:
            OSError: the part cannot be written.
            Unfinished: the worker ends.
        """
        attempts = Attempts(self._parts.attempts / block.key)
        self._current.add(attempts)
        try:
            if self._engine.stopping.is_set():  # too late for `_give_up_blocks`
                raise Unfinished("the worker ends; run the same command again to continue")
            return self._screen_in_turn(block, attempts)
        finally:
            self._current.discard(attempts)

    def _screen_in_turn(self, block: Block, attempts: Attempts) -> Screened:
        # A record that is screened alone must not be blamed for the death of another block.
        with self._room.all() if attempts.careful else self._room.one():
            attempts.begin()
            try:
                return self._screen(block, attempts)
            except BaseException:
                attempts.survived()
                raise

    def _give_up_blocks(self) -> None:
        """Leave the blocks that threads still screen unfinished. This process survived them, so none is blamed."""
        self._engine.stopping.set()
        self._decoders.shutdown(wait=False, cancel_futures=True)
        for attempts in self._current.copy():
            attempts.survived()

    def _screen(self, block: Block, attempts: Attempts) -> Screened:
        table, records = read_records(block)
        answers: list[tuple[int, Answered]] = []
        rejects: list[Reject] = []
        for some in [[record] for record in records] if attempts.careful else [records]:
            if some:
                attempts.at(some[0].row)
            for record, outcome in zip(some, self._outcomes(some, block, attempts.deadly), strict=True):
                if isinstance(outcome, Rejected):
                    rejects.append(_reject(record, outcome))
                else:
                    answers.append((record.row - block.first, outcome))
        return self._commit(block, table, answers, rejects)

    def _outcomes(self, records: Sequence[Record], block: Block, deadly: frozenset[int]) -> list[Answered | Rejected]:
        """Return for each record the model's reply, or why there is none."""
        loaded = list(self._decoders.map(partial(self._load, block=block, deadly=deadly), records))
        questions = [[picture.image for picture in one] for one in loaded if not isinstance(one, Rejected)]
        replies = iter(self._engine.ask(questions))
        return [one if isinstance(one, Rejected) else _answered(next(replies), one) for one in loaded]

    def _load(self, record: Record, block: Block, deadly: frozenset[int]) -> list[Prepared] | Rejected:
        try:
            if record.row in deadly:
                raise Rejected(Reason.WORKER_DIED, "two worker processes died while they worked on this record alone")
            return record.load(block.file.base, self._manifest.image)
        except Rejected as rejected:
            return rejected

    def _commit(
        self, block: Block, table: pa.Table, answers: Sequence[tuple[int, Answered]], rejects: Sequence[Reject]
    ) -> Screened:
        places = pa.array([place for place, _ in answers], pa.int64())  # an empty list has no type of its own
        kept = kept_columns(table, self._job.keep).take(places)
        rows: list[dict[str, Any]] = [
            answer_row(one.reply, one.frames, self._manifest, self._engine.watched, self._job) for _, one in answers
        ]
        self._parts.commit(block.key, answers_table(kept, rows), rejects_table(block.file.name, rejects))
        return Screened(len(answers), len(rejects))


def _answered(reply: Reply | None, pictures: Sequence[Prepared]) -> Answered | Rejected:
    if reply is None:
        return Rejected(Reason.ENGINE_FAILED, "the engine failed each time it was asked this question")
    return Answered(reply, tuple(picture.frame for picture in pictures))


def _reject(record: Record, rejected: Rejected) -> Reject:
    return Reject(id_text(record.id), record.row, rejected.reason, rejected.detail, rejected.picture)


class _Room:
    """Lets a number of threads work at the same time, or one alone."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._free = threading.Semaphore(places)
        self._queue = threading.Lock()

    @contextmanager
    def one(self) -> Iterator[None]:
        """Wait for a place."""
        with self._queue:
            self._free.acquire()
        try:
            yield
        finally:
            self._free.release()

    @contextmanager
    def all(self) -> Iterator[None]:
        """Wait until no other thread works, and keep the others waiting."""
        with self._queue:
            for _ in range(self._places):
                self._free.acquire()
        try:
            yield
        finally:
            self._free.release(self._places)
