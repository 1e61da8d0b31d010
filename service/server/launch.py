"""Starts the server: opens its sockets, builds the app and runs it until a signal ends the process."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import uvicorn

from screening.errors import CheckpointError
from screening.runtime.environment import NoTemporaryDirectory, house_the_caches, private_sockets
from screening.runtime.process_reaper import guard
from service.app import create_app
from service.checkpoints.served import ServedCheckpoint
from service.config.settings import Settings
from service.decisions.errors import DatabaseError, PictureStoreError
from service.engines.protocol import Engine
from service.http.auth import needs_no_sign_in
from service.http.keys import KeysFileError
from service.logs import log
from service.server.draining_server import ConnectionLimits, DrainingServer
from service.server.listener import ListenError, allow_descriptors, connection_limit, listen

LOGGER = logging.getLogger("service.server.launch")

_CANNOT_START = (CheckpointError, DatabaseError, KeysFileError, ListenError, NoTemporaryDirectory, PictureStoreError)


class CannotStart(Exception):
    """The service cannot start; the message says why and what to do."""


def serve(settings: Settings, engine: Engine) -> int:
    """Serve until a signal ends the process. Returns the exit code.

    Raises:
        CannotStart: the address, a directory, the keys file, the decision store or the checkpoint cannot be used.
    """
    # SIGUSR1 prints the stacks of a service that hangs, so that its container needs no debugger.
    faulthandler.register(signal.SIGUSR1)
    try:
        listening = listen(settings.host, settings.port)
        _warn_if_open(settings, listening)
        caches = house_the_caches(os.environ) if engine.loads_checkpoints else None
        return _run(settings, engine, listening, caches)
    except _CANNOT_START as error:
        raise CannotStart(str(error)) from error


def _warn_if_open(settings: Settings, listening: Sequence[socket.socket]) -> None:
    hosts = sorted({one.getsockname()[0] for one in listening})
    if not settings.needs_key and not all(ip_address(host).is_loopback for host in hosts):
        text = "no API keys are set, so anyone who can reach the service may call /screen"
        log(LOGGER, logging.WARNING, text, hosts=hosts, remedy="set --api-keys or --keys-file, or listen on 127.0.0.1")
    if needs_no_sign_in(settings):
        text = "no keys are set, so everyone on this machine may review as 'local', without signing in"
        log(LOGGER, logging.WARNING, text, hosts=hosts, remedy="set --keys-file before a proxy forwards to it")


def _run(settings: Settings, engine: Engine, listening: Sequence[socket.socket], caches: Path | None) -> int:
    servers: list[DrainingServer] = []
    app = create_app(settings, engine, on_failed_start=lambda: servers[0].fail_start())
    service = app.state.service
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        # `service.server.connection` extends uvicorn's h11 protocol. httptools, which uvicorn prefers, would accept
        # headers of any size.
        http="h11",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=65536,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_keep_alive=settings.keep_alive_seconds,  # type: ignore[arg-type]  # a float works as well
        # Our own drain should leave no requests. This limit applies to requests that hang.
        timeout_graceful_shutdown=5,
    )
    limits = ConnectionLimits(
        max_connections=connection_limit(settings.max_connections, allow_descriptors()),
        header_seconds=settings.header_timeout_seconds,
        body_seconds=settings.body_timeout_seconds,
    )
    server = DrainingServer(
        config, service.admission, drain_seconds=settings.drain_seconds, listening=listening, limits=limits
    )
    servers.append(server)
    with _guarded(service.served, caches):
        server.run()
    return server.exit_code


@contextmanager
def _guarded(served: ServedCheckpoint | None, caches: Path | None) -> Iterator[None]:
    """Remove the engine's processes, sockets and temporary files after the block, also if the service is killed.

    Args:
        served: None for an engine that needs no clean-up.
    """
    if served is None:
        yield
        return
    with private_sockets(os.environ) as sockets, guard(*served.temporary, *sockets, *([caches] if caches else [])):
        yield
