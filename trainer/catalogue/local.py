"""Screens the blocks in this process, without Ray."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from trainer.catalogue.job import Job
from trainer.catalogue.plan import Block
from trainer.catalogue.worker import BLOCKS_AT_ONCE, Screened, Worker


def screen_here(job: Job, blocks: Sequence[Block]) -> Iterator[Screened]:
    """Screen blocks with one engine, and yield what became of each.

    Raises:
        UserError, OSError: as `Worker`; finished blocks are kept.
    """
    with Worker(job) as worker, ThreadPoolExecutor(BLOCKS_AT_ONCE, thread_name_prefix="block") as pool:
        waiting: deque[Future[Screened]] = deque()
        try:
            for block in blocks:
                waiting.append(pool.submit(worker.screen, block))
                if len(waiting) == BLOCKS_AT_ONCE:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
