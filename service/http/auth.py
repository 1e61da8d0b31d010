"""Bearer keys. The service knows only their hashes."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection

from starlette.requests import HTTPConnection

from service.config.named_keys import NamedKey
from service.errors import Unauthenticated


def check_key(request: HTTPConnection, allowed: Collection[NamedKey], kind: str) -> str:
    """Compare the bearer key's SHA-256 with every allowed one, in constant time, and return it.

    The key's name is kept with the request for `caller_of`.

    Args:
        kind: for the message: "a key", "an admin key".

    Raises:
        Unauthenticated: there is no key, or it is none of them.
    """
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    digest = hashlib.sha256(key.strip().encode("latin-1", "replace")).hexdigest()
    matches = [one.name for one in allowed if hmac.compare_digest(digest, one.sha256)]
    if scheme.lower() != "bearer" or not matches:
        raise Unauthenticated(f"Send Authorization: Bearer <key> with {kind} of this service.")
    request.state.caller = matches[0]
    return digest


def caller_of(request: HTTPConnection) -> str | None:
    """The name of the key that the request was let in with; None before `check_key` and where no keys are set."""
    return getattr(request.state, "caller", None)
