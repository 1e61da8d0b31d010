"""Who may use `/review`: a bearer key, a session cookie, or the only user of a service on its own machine."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.requests import Request

from service.config.named_keys import NamedKey
from service.config.settings import Settings
from service.decisions.store import DecisionStore
from service.errors import Forbidden, Unauthenticated
from service.http.auth import caller_of, check_key
from service.pipeline.screen import Service
from service.review import sessions

COOKIE = "screening_review"
LOCAL = "local"
"""Name of the reviewer who does not sign in."""
_READING = ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class Reviewer:
    """A person who reviews."""

    name: str
    is_lead: bool
    """Whether the person may make tasks, export labels and see results of gold questions."""


async def reviewer_of(request: Request) -> Reviewer:
    """The person who sends a request.

    Raises:
        Unauthenticated: there is no valid key, no session, and no local reviewer.
        Forbidden: a page of another origin sends the request.
    """
    settings = service_of(request).settings
    if "authorization" in request.headers:
        check_key(request, _keys(settings), "a review key")
        return _reviewer(settings, caller_of(request) or "")
    if (token := request.cookies.get(COOKIE)) is not None:
        _refuse_other_origins(request, needs_origin=True)
        key = await store_of(request).ask(partial(sessions.key_of, store_of(request).database, token))
        name = next((one.name for one in _keys(settings) if key and hmac.compare_digest(one.sha256, key)), None)
        if name is not None:
            request.state.caller = name
            return _reviewer(settings, name)
    if _is_local(request, settings):
        _refuse_other_origins(request, needs_origin=False)
        request.state.caller = LOCAL
        return Reviewer(LOCAL, is_lead=not settings.admin_keys)
    raise Unauthenticated("Sign in at /review, or send Authorization: Bearer <key> with a review key.")


async def lead_of(request: Request) -> Reviewer:
    """The person who sends a request, who must be a lead.

    Raises:
        Unauthenticated: see `reviewer_of`.
        Forbidden: the person is not a lead.
    """
    person = await reviewer_of(request)
    if not person.is_lead:
        raise Forbidden("This needs an admin key (SCREENING_ADMIN_KEYS).")
    return person


def check_sign_in(request: Request, key: str) -> str:
    """Check a key that a browser exchanges for a session; returns its SHA-256.

    Raises:
        Unauthenticated: the key is unknown.
        Forbidden: a page of another origin sends the request.
    """
    _refuse_other_origins(request, needs_origin=False)
    digest = hashlib.sha256(key.strip().encode()).hexdigest()
    matches = [one for one in _keys(service_of(request).settings) if hmac.compare_digest(digest, one.sha256)]
    if not matches:
        raise Unauthenticated("The key is unknown. Ask the operator for a review key.")
    request.state.caller = matches[0].name
    return digest


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def store_of(request: Request) -> DecisionStore:
    store = service_of(request).decisions
    assert store is not None, "the router is only included if decisions are kept"  # noqa: S101
    return store


def _keys(settings: Settings) -> Sequence[NamedKey]:
    return (*settings.feedback_keys, *settings.admin_keys)


def _reviewer(settings: Settings, name: str) -> Reviewer:
    return Reviewer(name, is_lead=any(key.name == name for key in settings.admin_keys))


def _is_local(request: Request, settings: Settings) -> bool:
    """Whether the service has no keys for reviewers and listens only on its own machine.

    The Host header must name this machine too: a foreign page can point a name of its own at 127.0.0.1.
    """
    host = urlsplit(f"//{request.headers.get('host', '')}").hostname
    return not _keys(settings) and _is_loopback(settings.host) and _is_loopback(host or "")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refuse_other_origins(request: Request, *, needs_origin: bool) -> None:
    """Refuse requests that a page of another origin makes a browser send.

    Raises:
        Forbidden: the Origin header differs from the host, or is missing although a browser must send it.
    """
    origin = request.headers.get("origin")
    if request.method in _READING or (origin is None and not needs_origin):
        return
    if origin is None or urlsplit(origin).netloc != request.headers.get("host"):
        raise Forbidden("The Origin header must name this host. Send the request from a page of this service.")
