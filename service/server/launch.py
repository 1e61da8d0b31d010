"""From settings to a process that serves: its sockets and its server."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import socket
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from ipaddress import ip_address
from pathlib import Path

import uvicorn

from screening.errors import CheckpointError
from screening.runtime.environment import NoTemporaryDirectory, house_the_caches
from screening.runtime.process_reaper import guard
from service.app import create_app
from service.config.settings import Settings
from service.decisions.database import DatabaseError
from service.decisions.picture_store import PictureStoreError
from service.engines.protocol import Engine
from service.logs import log
from service.server.draining_server import ConnectionLimits, DrainingServer
from service.server.listener import ListenError, allow_descriptors, connection_limit, listen

LOGGER = logging.getLogger("service.server.launch")


class CannotStart(Exception):
    """The service cannot start; the message says why and what to do."""


def serve(settings: Settings, engine: Engine) -> int:
    """Serve until the process is told to end; returns its exit code.

    Raises:
        CannotStart: the address cannot be listened on, no directory can be written, or the checkpoint is refused.
    """
    # A service that stands still can be asked where, without a debugger in its container.
    faulthandler.register(signal.SIGUSR1)
    try:
        listening = listen(settings.host, settings.port)
        _warn_if_open(settings, listening)
        caches = house_the_caches(os.environ) if settings.engine == "vllm" else None
        return _run(settings, engine, listening, caches)
    except (CheckpointError, DatabaseError, ListenError, NoTemporaryDirectory, PictureStoreError) as error:
        raise CannotStart(str(error)) from error


def _warn_if_open(settings: Settings, listening: Sequence[socket.socket]) -> None:
    hosts = sorted({one.getsockname()[0] for one in listening})
    if not settings.api_keys and not all(ip_address(host).is_loopback for host in hosts):
        text = "no API keys: everyone who reaches this address may call /screen. Set --api-keys or listen on 127.0.0.1"
        log(LOGGER, logging.WARNING, text, hosts=hosts)


def _run(settings: Settings, engine: Engine, listening: Sequence[socket.socket], caches: Path | None) -> int:
    servers: list[DrainingServer] = []
    app = create_app(settings, engine, on_failed_start=lambda: servers[0].fail_start())
    service = app.state.service
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        # httptools, which uvicorn prefers, is not what `service.server.connection` builds on, and takes headers of any
        # size.
        http="h11",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=65536,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_keep_alive=settings.keep_alive_seconds,  # type: ignore[arg-type]  # a float does as well
        # After our own drain nothing should be left; this only bounds what hangs.
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
    with _guarded(service.served.temporary if service.served else None, caches):
        server.run()
    return server.exit_code


def _guarded(temporary: Sequence[Path] | None, caches: Path | None) -> AbstractContextManager[object]:
    """While it is open, the engine's processes and our temporary files go when we are killed.

    Args:
        temporary: the served checkpoint's; None for an engine without one, which leaves nothing behind.
    """
    if temporary is None:
        return nullcontext()
    return guard(*temporary, *([caches] if caches else []))
