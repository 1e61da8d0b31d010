"""Logs what the client does, with the logger `screening_client`. Log lines never contain keys, pictures or metadata.

Level `info` writes a line per answered call, and `debug` a line per request and response. The client logs nothing
unless the program sets the logger's level, or `SCREENING_LOG` is set when a client is created.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import httpx

from screening_client.errors import ConfigurationError

if TYPE_CHECKING:
    from screening_client.result import Screening

LOGGER = logging.getLogger("screening_client")

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def set_up() -> None:
    """Apply `SCREENING_LOG`. Log lines go to stderr, unless the program has installed its own handlers.

    Raises:
        ConfigurationError: the level is unknown.
    """
    name = os.environ.get("SCREENING_LOG", "").strip()
    if not name:
        return
    level = _LEVELS.get(name.lower())
    if level is None:
        raise ConfigurationError(f"SCREENING_LOG={name} is not a log level. Set it to one of {', '.join(_LEVELS)}.")
    LOGGER.setLevel(level)
    if not LOGGER.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
        LOGGER.addHandler(handler)


def sending(request: httpx.Request) -> None:
    size = request.headers.get("Content-Length", "0")
    LOGGER.debug("%s: %s %s, %s bytes", _id(request), request.method, address(request.url), size)


def received(response: httpx.Response) -> None:
    LOGGER.debug("%s: status %d, %d bytes", _id(response.request), response.status_code, len(response.content))


def failed(request: httpx.Request, error: Exception) -> None:
    LOGGER.debug("%s: %s", _id(request), error)


def screened(screening: Screening) -> None:
    choice = screening.choice or screening.outcome
    milliseconds = screening.timings.total_ms
    LOGGER.info("%s: %s, confidence %.2f, %.0f ms", screening.request_id, choice, screening.confidence, milliseconds)


def address(url: httpx.URL) -> str:
    """Return a URL without user name and password."""
    return str(url.copy_with(userinfo=b""))


def _id(request: httpx.Request) -> str:
    return str(request.headers.get("X-Request-Id", "-"))
