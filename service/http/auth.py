"""Decides who may call a path: by a bearer key, and for reviewers also by a session cookie or on their own machine."""

from __future__ import annotations

import time
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from starlette.requests import Request

from service.config.named_keys import Scope, ScopedKey
from service.config.settings import Settings
from service.errors import CrossOrigin, Forbidden, InsufficientScope, Unauthenticated
from service.http.keys import KeyRing
from service.http.session_token import COOKIE, holder

LOCAL = ScopedKey("local", "", frozenset({"review"}))
"""The only person who reviews on a machine without keys."""
_SAFE = ("GET", "HEAD", "OPTIONS")
_FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")
"""Headers by which a proxy on this machine shows that the caller may be elsewhere."""


def authorize(request: Request, scope: Scope) -> str:
    """Check that the caller may use a path of this scope; returns the name of its key, "" where none is needed.

    `caller_of`, `key_of` and `has_scope` tell more about the caller afterwards.

    Raises:
        Unauthenticated: the request carries no key or an unknown one.
        InsufficientScope: the key is known, but lacks the scope.
        Forbidden: no key has the scope, so the path is disabled.
        CrossOrigin: a request without a bearer key comes from a page of another origin.
    """
    settings, keys = _settings(request), key_ring(request)
    if scope == "screen" and not settings.needs_key:
        return ""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    presented = key.strip().encode("latin-1", "replace") if scheme.lower() == "bearer" else None
    if presented is None and scope == "review":
        return _reviewer(request, settings, keys).name
    return admit(request, presented, scope).name


def admit(request: Request, presented: bytes | None, scope: Scope) -> ScopedKey:
    """Return the entry of a presented key, which must have the scope; it becomes the caller.

    Raises:
        Unauthenticated, InsufficientScope, Forbidden: as `authorize`.
    """
    keys = key_ring(request)
    if not keys.any_with(scope):
        raise Forbidden(
            f"No key has the scope {scope!r}, so this path is disabled. The operator sets keys: docs/settings.md."
        )
    key = None if presented is None else keys.find(presented)
    if key is None:
        raise Unauthenticated(
            f"The key is missing or unknown. Send Authorization: Bearer <key>, with a key of the scope {scope!r}."
        )
    request.state.key = key
    if scope not in key.scopes:
        raise InsufficientScope(key.name, scope)
    return key


def caller_of(request: Request) -> str | None:
    """Name of the key that authenticated the request; None if no key was checked."""
    key: ScopedKey | None = getattr(request.state, "key", None)
    return None if key is None else key.name


def key_of(request: Request) -> ScopedKey:
    """The key that authenticated the request, after `authorize` found one."""
    key: ScopedKey = request.state.key
    return key


def has_scope(request: Request, scope: Scope) -> bool:
    """Whether the key that authenticated the request has another scope as well."""
    return scope in key_of(request).scopes


def key_ring(request: Request) -> KeyRing:
    """The keys of the service."""
    keys: KeyRing = request.app.state.keys
    return keys


def check_origin(request: Request, *, required: bool = True) -> None:
    """Refuse a request from a page of another origin: every request that names one, or that changes something.

    Ports and names are compared, and not the scheme: behind a proxy that ends TLS the service sees another one.

    Args:
        required: whether a request that changes something is refused without `Origin` too. Browsers send it with every
            such request, other programs do not.

    Raises:
        CrossOrigin: `Origin` is not that of this service, or is missing although it is required.
    """
    origin, host = request.headers.get("origin"), request.headers.get("host")
    if origin is None and (request.method in _SAFE or not required):
        return
    if origin is None or host is None or _parts(origin).netloc.lower() != host.lower():
        raise CrossOrigin(
            f"Send the request from a page of this service: its Origin must be that of {host!r}. If a proxy is in "
            "front, it must pass on the browser's Host header."
        )


def _reviewer(request: Request, settings: Settings, keys: KeyRing) -> ScopedKey:
    """The person who reviews without a bearer key.

    Raises:
        Unauthenticated, Forbidden, CrossOrigin: as `authorize`.
    """
    if settings.has_keys:
        person = holder(request.cookies.get(COOKIE, ""), keys.keys, time.time())
    else:
        person = LOCAL if _is_local(request, settings) else None
    if person is None:
        return admit(request, None, "review")
    # Programs on this machine, such as `trainer collect`, have no cookie and send no Origin.
    check_origin(request, required=person is not LOCAL)
    request.state.key = person
    return person


def needs_no_sign_in(settings: Settings) -> bool:
    """Whether people on this machine review without a key. A service with keys has other callers than its owner."""
    return settings.review and not settings.has_keys and _is_loopback(settings.host)


def _is_local(request: Request, settings: Settings) -> bool:
    """Whether the request comes from this machine and was meant for it.

    The Host header is checked as well: a foreign page can have its own name resolve to 127.0.0.1 (DNS rebinding). A
    proxy on this machine may send none of the headers of proxies. Many then speak HTTP/1.0, as nginx does by default.
    """
    host = _parts(f"//{request.headers.get('host', '')}").hostname
    proxied = request.scope["http_version"] == "1.0" or any(name in request.headers for name in _FORWARDED)
    return needs_no_sign_in(settings) and not proxied and _is_loopback(host or "")


def _parts(url: str) -> SplitResult:
    """The parts of a URL from the caller; empty if it is not a URL."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.service.settings
    return settings
