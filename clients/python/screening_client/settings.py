"""Where the service is and how long to wait for it. The only module that reads the environment."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass, field, fields, replace

import httpx

from screening_client import constants
from screening_client.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTimeout:
    """Limits in seconds; None means no limit.

    `connect`, `write` and `read` hold for each attempt: opening the connection, sending a piece of the body, waiting
    for a piece of the answer. `total` holds for the whole call with its retries and the waits between them.
    """

    connect: float | None = constants.CONNECT_TIMEOUT
    write: float | None = constants.WRITE_TIMEOUT
    read: float | None = constants.READ_TIMEOUT
    total: float | None = None

    def __post_init__(self) -> None:
        for each in fields(self):
            _check_seconds(getattr(self, each.name), f"timeout.{each.name}")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a client was told, resolved and checked."""

    base_url: str
    api_key: str | None = field(repr=False)
    timeout: ClientTimeout
    max_retries: int

    def url(self, path: str) -> str:
        return self.base_url + path

    @property
    def headers(self) -> dict[str, str]:
        headers = {"User-Agent": f"screening-client/{constants.VERSION}"}
        return headers | {"Authorization": f"Bearer {self.api_key}"} if self.api_key else headers


@dataclass(frozen=True, slots=True)
class Deadline:
    """The end of one call, on the monotonic clock."""

    timeout: ClientTimeout
    started: float = field(default_factory=time.monotonic)

    @property
    def remaining(self) -> float | None:
        total = self.timeout.total
        return None if total is None else total - (time.monotonic() - self.started)

    def for_attempt(self) -> dict[str, float | None]:
        """httpx's time-outs of an attempt that begins now; none is longer than what is left of the whole call."""
        left = self.remaining
        if left is not None:
            left = max(left, 0.001)  # zero would mean "do not wait at all" to some sockets and "no limit" to others

        def capped(limit: float | None) -> float | None:
            return left if limit is None else limit if left is None else min(limit, left)

        phases = self.timeout
        return httpx.Timeout(
            connect=capped(phases.connect), write=capped(phases.write), read=capped(phases.read), pool=left
        ).as_dict()


def resolve(
    *, base_url: str | None, api_key: str | None, timeout: ClientTimeout | float | None, max_retries: int
) -> Settings:
    """Arguments first, then SCREENING_BASE_URL and SCREENING_API_KEY, then the defaults.

    Raises:
        InputError: a value that cannot be used.
    """
    if isinstance(max_retries, bool) or not isinstance(max_retries, int) or max_retries < 0:
        raise InputError(f"max_retries must be a whole number, 0 or more, not {max_retries!r}")
    key = os.environ.get("SCREENING_API_KEY") if api_key is None else api_key
    return Settings(
        base_url=_checked_url(base_url or os.environ.get("SCREENING_BASE_URL") or constants.BASE_URL),
        api_key=_checked_key(key.strip()) if key and key.strip() else None,
        timeout=resolve_timeout(timeout, ClientTimeout()),
        max_retries=max_retries,
    )


def resolve_timeout(timeout: ClientTimeout | float | None, default: ClientTimeout) -> ClientTimeout:
    """A number limits the whole call; None keeps the default.

    Raises:
        InputError: not a positive number of seconds.
    """
    if timeout is None:
        return default
    return timeout if isinstance(timeout, ClientTimeout) else replace(default, total=_check_seconds(timeout, "timeout"))


def _check_seconds(value: float | None, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise InputError(f"{name} must be a positive number of seconds or None, not {value!r}")
    return value


def _checked_url(text: str) -> str:
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, TypeError) as error:
        raise InputError(f"base_url {text!r} is not a URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise InputError(f"base_url {text!r} must begin with http:// or https:// and name a host")
    if url.query or url.fragment:
        raise InputError(f"base_url {text!r} must not hold a query or a fragment")
    return str(url).rstrip("/")


def _checked_key(key: str) -> str:
    if not key.isascii() or not key.isprintable() or " " in key:
        raise InputError("the API key holds characters that no key has; was the right variable read?")
    return key
