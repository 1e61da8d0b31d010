"""Threads for small and for large work, so that a request of large pictures does not hold up those of small ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


class Lanes:
    """Two pools of threads, each first come, first served."""

    def __init__(self, name: str, threads: int) -> None:
        """
        Args:
            threads: of each pool. At most so many large tasks run at a time, which bounds their memory.
        """
        self._small = ThreadPoolExecutor(threads, thread_name_prefix=f"{name}-small")
        self._large = ThreadPoolExecutor(threads, thread_name_prefix=f"{name}-large")

    def run(self, work: Callable[[], Result], *, large: bool) -> asyncio.Future[Result]:
        """Start work in its pool. Cancelling the future takes work that has not begun out of the pool."""
        return asyncio.get_running_loop().run_in_executor(self._large if large else self._small, work)

    def close(self) -> None:
        """Drop the work that has not begun. What runs is not waited for."""
        for pool in (self._small, self._large):
            pool.shutdown(wait=False, cancel_futures=True)
