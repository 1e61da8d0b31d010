"""Creates identifiers, which sort by time and are unique without coordination, and checks those of callers."""

from __future__ import annotations

import re
import secrets
import time

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def new_id(prefix: str) -> str:
    """Return `prefix` followed by a ULID: 48 bits of milliseconds and 80 random bits in Crockford's base 32."""
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return prefix + "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


def valid_request_id(text: str) -> bool:
    """Whether the service uses a caller's X-Request-Id, which is copied into logs and headers."""
    return _REQUEST_ID.fullmatch(text) is not None


def valid_idempotency_key(text: str) -> bool:
    """Whether a key consists of 1 to 255 visible ASCII characters."""
    return _IDEMPOTENCY_KEY.fullmatch(text) is not None
