"""The settings of a client: the service's address, the API key, timeouts and retries.

The modules `network` and `log` read the remaining environment variables.
"""

from __future__ import annotations

import math
import os
import platform
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

import httpx

from screening_client import constants, log
from screening_client.errors import InputError
from screening_client.network import parsed_url

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e\t]*")
_OWN_HEADERS = {
    "content-length": "leave it out",
    "content-type": "leave it out",
    "transfer-encoding": "leave it out",
    "host": "put the address into base_url",
    "idempotency-key": "pass idempotency_key",
    "x-request-id": "pass request_id",
}
"""Headers that callers cannot set, with what to do instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTimeout:
    """Time limits in seconds; None means no limit.

    `connect`, `write` and `read` apply to each attempt: opening the connection, sending a chunk of the body, and
    waiting for a chunk of the answer. `total` applies to the whole call, including retries and the waits between them.
    """

    connect: float | None = constants.CONNECT_TIMEOUT
    write: float | None = constants.WRITE_TIMEOUT
    read: float | None = constants.READ_TIMEOUT
    total: float | None = None

    def __post_init__(self) -> None:
        for each in fields(self):
            if (limit := getattr(self, each.name)) is not None:
                checked_seconds(limit, f"timeout.{each.name}")


@dataclass(frozen=True, slots=True)
class Settings:
    """The resolved and validated settings of a client."""

    base_url: str
    api_key: str | None = field(repr=False)
    timeout: ClientTimeout
    max_retries: int
    default_headers: httpx.Headers = field(repr=False)
    check_request_id: bool
    proxy: str | None = None
    """Address of the proxy that the environment names for `base_url`, for messages."""

    def url(self, path: str) -> str:
        return self.base_url + path

    @property
    def address(self) -> str:
        """`base_url` without user name and password, for messages."""
        return log.address(httpx.URL(self.base_url))

    @property
    def headers(self) -> httpx.Headers:
        headers = httpx.Headers({"User-Agent": user_agent()})
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        headers.update(self.default_headers)
        return headers

    def changed(
        self,
        *,
        api_key: str | None,
        timeout: ClientTimeout | float | None,
        max_retries: int | None,
        default_headers: Mapping[str, str] | None,
    ) -> Settings:
        """Return a copy with the values that are not None. `default_headers` are added to the existing ones.

        Raises:
            InputError: a value is not valid.
        """
        headers = httpx.Headers(self.default_headers)
        headers.update(checked_headers(default_headers, "default_headers"))
        return replace(
            self,
            api_key=self.api_key if api_key is None else _checked_key(api_key),
            timeout=resolve_timeout(timeout, self.timeout),
            max_retries=self.max_retries if max_retries is None else _checked_retries(max_retries),
            default_headers=headers,
        )


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
        """Return httpx's timeouts for an attempt that begins now. None exceeds the remaining time of the whole call."""
        left = self.remaining
        if left is not None:
            left = max(left, 0.001)  # 0 means "do not wait" for some sockets and "no limit" for others

        def capped(limit: float | None) -> float | None:
            return left if limit is None else limit if left is None else min(limit, left)

        phases = self.timeout
        return httpx.Timeout(
            connect=capped(phases.connect), write=capped(phases.write), read=capped(phases.read), pool=left
        ).as_dict()


def resolve(
    *,
    base_url: str | None,
    api_key: str | None,
    timeout: ClientTimeout | float | None,
    max_retries: int,
    default_headers: Mapping[str, str] | None,
    check_request_id: bool,
) -> Settings:
    """Resolve the settings from the arguments, then SCREENING_BASE_URL and SCREENING_API_KEY, then the defaults.

    Raises:
        InputError: a value is not valid.
    """
    key = os.environ.get("SCREENING_API_KEY") if api_key is None else api_key
    return Settings(
        base_url=_checked_url(base_url or os.environ.get("SCREENING_BASE_URL") or constants.BASE_URL),
        api_key=_checked_key(key or ""),
        timeout=resolve_timeout(timeout, ClientTimeout()),
        max_retries=_checked_retries(max_retries),
        default_headers=checked_headers(default_headers, "default_headers"),
        check_request_id=check_request_id,
    )


def checked_headers(headers: Mapping[str, str] | None, name: str) -> httpx.Headers:
    """
    Args:
        name: name of the argument in error messages.

    Raises:
        InputError: an entry is not a valid header, or the client sets this header itself.
    """
    if headers is not None and not isinstance(headers, Mapping):
        raise InputError(f"{name} must be a mapping of header names to strings, not of type {type(headers).__name__}")
    for header, value in (headers or {}).items():
        if not isinstance(header, str) or not _HEADER_NAME.fullmatch(header):
            raise InputError(f"{name}: {header!r} is not the name of an HTTP header")
        if header.lower() in _OWN_HEADERS:
            raise InputError(f"{name}: {header} is set by the client; {_OWN_HEADERS[header.lower()]}")
        # The value may be a secret, so the error does not show it.
        if not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):
            raise InputError(f"{name}: the value of {header} must be a string of visible ASCII characters and spaces")
    return httpx.Headers(dict(headers or {}))


def user_agent() -> str:
    """Return the User-Agent header, such as `screening-client/0.1.0 python/3.11.9 (CPython; Linux x86_64)`."""
    system = " ".join(part for part in (platform.system(), platform.machine()) if part) or "unknown"
    python = f"python/{platform.python_version()} ({platform.python_implementation()}; {system})"
    return f"screening-client/{constants.VERSION} {python}"


def resolve_timeout(timeout: ClientTimeout | float | None, default: ClientTimeout) -> ClientTimeout:
    """Combine a timeout with the default. A number limits the whole call; None keeps the default.

    Raises:
        InputError: the number is not positive.
    """
    if timeout is None:
        return default
    if isinstance(timeout, ClientTimeout):
        return timeout
    return replace(default, total=checked_seconds(timeout, "timeout"))


def checked_seconds(value: float, name: str) -> float:
    """
    Args:
        name: name of the argument in the error message.

    Raises:
        InputError: the value is not a positive number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise InputError(f"{name} must be a positive number of seconds, not {value!r}")
    return value


def _checked_url(text: str) -> str:
    try:
        url = parsed_url(text)
    except ValueError as error:
        raise InputError(f"base_url {text!r} is not a URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise InputError(f"base_url {text!r} must begin with http:// or https:// and name a host")
    if url.query or url.fragment:
        raise InputError(f"base_url {text!r} must not contain a query or a fragment")
    return str(url).rstrip("/")


def _checked_retries(max_retries: int) -> int:
    if isinstance(max_retries, bool) or not isinstance(max_retries, int) or max_retries < 0:
        raise InputError(f"max_retries must be a whole number, 0 or more, not {max_retries!r}")
    return max_retries


def _checked_key(key: str) -> str | None:
    if not isinstance(key, str):
        raise InputError(f"the API key is of type {type(key).__name__}; it must be a string")
    key = key.strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise InputError("the API key contains spaces or characters outside printable ASCII; check where it comes from")
    return key or None
