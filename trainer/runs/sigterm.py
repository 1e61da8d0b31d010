"""What SIGTERM does while a command has processes to end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


@contextmanager
def engine_ends_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into SystemExit inside the block, so that the engine's processes are ended.

    By default Python ends on SIGTERM without cleaning up, and those processes would keep running and hold memory.
    """
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)
