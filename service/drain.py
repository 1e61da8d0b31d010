"""A uvicorn server that drains: SIGTERM → refuse the new, finish what is inside, then exit with 0.

uvicorn alone closes its socket at once, so that a load balancer which has not noticed yet gets refused connections;
here the socket stays open and answers 503 with Retry-After until nobody is inside.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from service.admission import Admission
from service.logs import log

LOGGER = logging.getLogger("service.drain")

FAILED_START = 3


class DrainingServer(uvicorn.Server):
    """`exit_code` is what the process should end with."""

    def __init__(self, config: uvicorn.Config, admission: Admission, *, drain_seconds: float) -> None:
        super().__init__(config)
        self._admission = admission
        self._drain_seconds = drain_seconds
        self._draining: asyncio.Task[None] | None = None
        self.exit_code = 0

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn's own version raises the signal again after its shutdown, which would make a clean exit a failed one.
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def fail_start(self) -> None:
        """The engine cannot be started: end the process with an error."""
        self.exit_code = FAILED_START
        self.should_exit = True

    def _on_signal(self, number: int) -> None:
        if self._draining is None:
            log(LOGGER, logging.INFO, "draining", signal=signal.Signals(number).name, inside=self._admission.inside)
            self._admission.close()
            self._draining = asyncio.get_running_loop().create_task(self._drain())
        elif number == signal.SIGINT:
            # A second Ctrl-C: somebody waits at a keyboard.
            self.should_exit = self.force_exit = True

    async def _drain(self) -> None:
        if not await self._admission.wait_until_idle(self._drain_seconds):
            log(LOGGER, logging.WARNING, "drain timed out", inside=self._admission.inside)
        self.should_exit = True
