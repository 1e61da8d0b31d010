"""Work that is divided among processes, whose death ends the run with a message instead of a wait without end."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from screening.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 4
"""Maximum number of items per process that are given out, or done, before their results are taken."""


def map_in_processes(work: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Call a function of a module with each item, in several processes. Yields the results in the order of the items.

    Args:
        work: it, the items and the results are pickled. Each process unpickles it once and keeps what it has loaded.
        workers: number of processes.

    Raises:
        UserError: a process was killed, for example because the memory was full.
        Exception: what `work` raises.
    """
    pickled = pickle.dumps(work)
    # Spawned, not forked, because the caller may have threads.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin)
    given: deque[Future[Result]] = deque()
    try:
        for item in items:
            with _ctrl_c_held():  # `submit` may start a process
                given.append(executor.submit(_call, pickled, item))
            if len(given) == _AHEAD * workers:
                yield given.popleft().result()
        while given:
            yield given.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process died, probably for lack of memory; use fewer --workers and repeat the command"
        ) from error
    finally:
        # The executor's own thread cancels what waits. `executor.map` would cancel it in this thread: if a process has
        # died, the executor's thread can then end with an error in Python 3.11, and the other processes never end.
        executor.shutdown(cancel_futures=True)


def _call(pickled: bytes, item: Any) -> Any:
    return _unpickled(pickled)(item)


@lru_cache(maxsize=1)
def _unpickled(work: bytes) -> Callable[[Any], Any]:
    loaded: Callable[[Any], Any] = pickle.loads(work)  # noqa: S301 - it comes from the main process
    return loaded


@contextmanager
def _ctrl_c_held() -> Iterator[None]:
    """Delay Ctrl-C until after the block. A process that is started in it gets none before `_begin`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin() -> None:
    """Leave Ctrl-C to the main process, and end with that, even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # see `_ctrl_c_held`
    main = multiprocessing.parent_process()
    assert main is not None
    threading.Thread(target=_end_with, args=(main,), daemon=True).start()


def _end_with(main: BaseProcess) -> None:
    main.join()
    os._exit(1)
