"""Screens the blocks in this process, without Ray."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait

from trainer.catalogue.job import Job
from trainer.catalogue.plan import Block
from trainer.catalogue.worker import BLOCKS_AT_ONCE, Screened, Worker


def screen_here(job: Job, blocks: Sequence[Block]) -> Iterator[Screened]:
    """Screen blocks with one engine, and yield what became of each.

    An exception, such as that of Ctrl-C or SIGTERM, gives up the blocks in hand at once.

    Raises:
        UserError, OSError: as `Worker`; finished blocks are kept.
    """
    with Worker(job) as worker:
        waiting: deque[Future[Screened]] = deque()
        for block in blocks:
            waiting.append(_begin(worker, block))
            if len(waiting) == BLOCKS_AT_ONCE:
                yield _result(waiting.popleft())
        while waiting:
            yield _result(waiting.popleft())


def _begin(worker: Worker, block: Block) -> Future[Screened]:
    """Screen a block in a daemon thread, because a block takes minutes and must not delay the end of the process."""
    future: Future[Screened] = Future()

    def screen() -> None:
        try:
            future.set_result(worker.screen(block))
        except BaseException as error:  # noqa: BLE001 - `result` raises it again
            future.set_exception(error)

    threading.Thread(target=screen, name="block", daemon=True).start()
    return future


def _result(future: Future[Screened]) -> Screened:
    """Wait for a block. A wait without a limit would miss a signal that arrives just before it."""
    while not wait([future], timeout=1).done:
        pass
    return future.result()
