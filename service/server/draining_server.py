"""A uvicorn server that drains: after SIGTERM it refuses new requests, finishes those in flight and exits with 0.

uvicorn alone would close its socket at once, and a load balancer that has not noticed yet would see refused
connections. Here the socket stays open, and new requests are answered 503 with Retry-After until no request is left.

SIGINT and SIGHUP also start a drain, because a closing terminal or a reloading supervisor must not abort requests. A
second SIGTERM or SIGINT ends the process at once; requests that are still in flight are answered 503.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import uvicorn

from service.admission.admission import Admission
from service.logs import log
from service.server.connection import Connection
from service.server.listener import Listener

LOGGER = logging.getLogger("service.server.draining_server")

FAILED_START = 3
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_SAME_SECONDS = 0.5
"""Period in which a second signal counts as the same one. A wrapper often forwards a signal that the terminal or the
supervisor has already sent to the whole process group."""
_FINAL_ANSWERS_SECONDS = 0.2
"""Time for the 503 answers to the requests that a forced end cancels."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits for connections; see the settings of the same names."""

    max_connections: int
    header_seconds: float
    body_seconds: float


class DrainingServer(uvicorn.Server):
    """Serves until a signal ends it. The process should exit with `exit_code` then."""

    def __init__(
        self,
        config: uvicorn.Config,
        admission: Admission,
        *,
        drain_seconds: float,
        listening: Sequence[socket.socket],
        limits: ConnectionLimits,
    ) -> None:
        super().__init__(config)
        self._admission = admission
        self._drain_seconds = drain_seconds
        self._listening = listening
        self._limits = limits
        self._draining: asyncio.Task[None] | None = None
        self._drain_began = 0.0
        self.exit_code = 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - as in uvicorn
        """Start our own listener, where uvicorn would let the event loop accept (see `service.server.listener`)."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(FAILED_START)
        make_connection = partial(
            Connection,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            header_seconds=self._limits.header_seconds,
            body_seconds=self._limits.body_seconds,
        )
        connections = self.server_state.connections
        self.servers = [
            Listener(self._listening, make_connection, connections, self._limits.max_connections)  # type: ignore[list-item]  # has what uvicorn uses of an asyncio.Server
        ]
        self._log_started_message(self._listening)
        self.started = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn's own version raises the signal again after its shutdown, so that a clean exit would look failed.
        loop = asyncio.get_running_loop()
        nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        taken = [number for number in _SIGNALS if not (nohup and number == signal.SIGHUP)]
        for number in taken:
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            yield
        finally:
            for number in taken:
                loop.remove_signal_handler(number)

    def fail_start(self) -> None:
        """End the process with an error, because the engine cannot be started."""
        self.exit_code = FAILED_START
        self.should_exit = True

    def _on_signal(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        if self._draining is None:
            log(LOGGER, logging.INFO, "draining", signal=signal.Signals(number).name, inside=self._admission.inside)
            self._admission.close()
            self._drain_began = loop.time()
            self._draining = loop.create_task(self._drain())
        elif number != signal.SIGHUP and loop.time() - self._drain_began > _SAME_SECONDS:
            # SIGHUP is excluded because systemd may send one after each SIGTERM.
            self._end_now(number)

    async def _drain(self) -> None:
        if not await self._admission.wait_until_idle(self._drain_seconds):
            log(LOGGER, logging.WARNING, "drain timed out", inside=self._admission.inside)
        self.should_exit = True

    def _end_now(self, number: int) -> None:
        """Answer the requests in flight and end without waiting. The process reaper then cleans up after the engine."""
        log(
            LOGGER, logging.WARNING, "ending at once", signal=signal.Signals(number).name, inside=self._admission.inside
        )
        self.exit_code = 128 + number
        for task in self.server_state.tasks:
            task.cancel()
        asyncio.get_running_loop().call_later(_FINAL_ANSWERS_SECONDS, os._exit, self.exit_code)
