"""Bearer keys. The service knows only their hashes."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection

from starlette.requests import Request

from service.errors import Unauthenticated


def check_key(request: Request, allowed: Collection[str], kind: str) -> str:
    """Compare the bearer key's sha256 with every allowed one, in constant time, and return it: the caller's name.

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
    return digest
