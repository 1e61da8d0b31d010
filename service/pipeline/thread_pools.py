"""Separate thread pools for small and large tasks, so that requests with large pictures do not delay the others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


class ThreadPools:
    """Two thread pools, each of which runs its tasks in the order of submission."""

    def __init__(self, name: str, threads: int) -> None:
        """
        Args:
            name: prefix of the threads' names.
            threads: number of threads in each pool. It limits how many large tasks run at once, and so their memory.
        """
        self._small = ThreadPoolExecutor(threads, thread_name_prefix=f"{name}-small")
        self._large = ThreadPoolExecutor(threads, thread_name_prefix=f"{name}-large")

    def run(self, work: Callable[[], Result], *, large: bool) -> asyncio.Future[Result]:
        """Submit work to its pool. Cancelling the future removes work that has not started."""
        return asyncio.get_running_loop().run_in_executor(self._large if large else self._small, work)

    def close(self) -> None:
        """Drop work that has not started, without waiting for running work."""
        for pool in (self._small, self._large):
            pool.shutdown(wait=False, cancel_futures=True)
