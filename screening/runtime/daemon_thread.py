"""Work in a thread that the end of the process does not wait for.

Threads of an executor, `asyncio.to_thread`'s included, are waited for when the loop and the interpreter end. What may
hang for minutes outside this process (a registry's connection, a store on a network) must not keep it that long.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

Result = TypeVar("Result")


def in_daemon_thread(work: Callable[[], Result], *, name: str) -> asyncio.Future[Result]:
    """Do it in a thread of its own. Whoever stops waiting does not stop it: what it finds is thrown away then.

    Args:
        name: of the thread, as a debugger shows it.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def settle(result: Result | None, error: Exception | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result: Result | None = None
        failure: Exception | None = None
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - raised again by whoever waits
            failure = error
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
