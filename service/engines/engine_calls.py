"""Calls into one vLLM engine, each in a task that ends when the engine ends.

vLLM does not guarantee that. An engine that is shut down leaves its requests waiting for ever, and an engine core that
dies leaves every call that is not a request waiting for ever (`AsyncMPClient._call_utility_async`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from service.errors import EngineLost

CHECK_SECONDS = 0.25
"""Time between two checks whether an engine core that executes a command still lives."""

Result = TypeVar("Result")


class EngineCalls:
    """The requests and commands that wait for one engine."""

    def __init__(self, is_death: Callable[[Exception], bool]) -> None:
        """
        Args:
            is_death: whether an exception says that the engine died.
        """
        self._is_death = is_death
        self._tasks: set[asyncio.Task[Any]] = set()

    def end(self) -> None:
        """End all calls of an engine that is gone, each with EngineLost."""
        for task in self._tasks:
            task.cancel()

    async def request(self, call: Coroutine[Any, Any, Result]) -> Result:
        """Make a call that vLLM itself ends when the engine core dies. Cancelling the caller cancels the call.

        Raises:
            EngineLost: the engine died, or was stopped or killed.
            Exception: any error of vLLM.
        """
        return await self._result_of(self._start(call))

    async def command(self, call: Coroutine[Any, Any, Result], *, died: Callable[[], bool]) -> Result:
        """Make any other call. It ends when `died` returns true, because vLLM does not end it.

        Raises:
            EngineLost: the engine died, or was stopped or killed.
            Exception: any error of vLLM.
        """
        task = self._start(call)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=CHECK_SECONDS)
                if died():
                    task.cancel()
        finally:
            task.cancel()
        return await self._result_of(task)

    def _start(self, call: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        task = asyncio.create_task(call)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _result_of(self, task: asyncio.Task[Result]) -> Result:
        try:
            return await task
        except asyncio.CancelledError:
            ours = asyncio.current_task()
            if ours is not None and ours.cancelling():  # The caller was cancelled, and not the call.
                raise
            raise EngineLost() from None
        except Exception as error:
            if self._is_death(error):
                raise EngineLost() from error
            raise
