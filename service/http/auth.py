"""Authentication with bearer keys, of which the service knows only the hashes."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection

from starlette.requests import HTTPConnection

from service.config.named_keys import NamedKey
from service.errors import Unauthenticated


def check_key(request: HTTPConnection, allowed: Collection[NamedKey], kind: str) -> str:
    """Compare the bearer key's SHA-256 with every allowed one, in constant time, and return it.

    `caller_of` returns the name of the key afterwards.

    Args:
        kind: name of the kind of key in the error message: "a key" or "an admin key".

    Raises:
        Unauthenticated: the request carries no key or an unknown one.
    """
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    digest = hashlib.sha256(key.strip().encode("latin-1", "replace")).hexdigest()
    matches = [one.name for one in allowed if hmac.compare_digest(digest, one.sha256)]
    if scheme.lower() != "bearer" or not matches:
        raise Unauthenticated(f"The key is missing or unknown. Send Authorization: Bearer <key> with {kind}.")
    request.state.caller = matches[0]
    return digest


def caller_of(request: HTTPConnection) -> str | None:
    """Name of the key that authenticated the request; None if no key was checked."""
    return getattr(request.state, "caller", None)
