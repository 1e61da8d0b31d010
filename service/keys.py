"""Bearer keys. The service knows only their hashes."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection

from starlette.requests import Request

from service.errors import Unauthenticated

_PREFIX = 8
"""Hexadecimal digits of its hash that name a key."""


def check_key(request: Request, allowed: Collection[str], kind: str) -> str:
    """Compare the bearer key's SHA-256 with every allowed one, in constant time, and return it.

    The key's name is kept with the request for `caller_of`.

    Args:
        allowed: hex sha256 of each key.
        kind: for the message: "a key", "an admin key".

    Raises:
        Unauthenticated: there is no key, or it is none of them.
    """
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    digest = hashlib.sha256(key.strip().encode("latin-1", "replace")).hexdigest()
    matches = [hmac.compare_digest(digest, one) for one in allowed]
    if scheme.lower() != "bearer" or not any(matches):
        raise Unauthenticated(f"Send Authorization: Bearer <key> with {kind} of this service.")
    request.state.caller = digest[:_PREFIX]
    return digest


def caller_of(request: Request) -> str | None:
    """The name of the key that the request was let in with; None before `check_key` and where no keys are set."""
    return getattr(request.state, "caller", None)
