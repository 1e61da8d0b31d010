"""The value of the reviewers' cookie: the time at which the session ends, signed.

The signing key is derived from the hash of the reviewer's own API key. Every replica can check the token without a
shared state, and a session ends when its key is removed.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable

from service.config.named_keys import ScopedKey

COOKIE = "screening_review"
SECONDS = 12 * 3600
"""Length of a session."""
_TOKEN = re.compile(r"(?P<ends>\d{1,12})\.(?P<signature>[0-9a-f]{64})")


def issue(key: ScopedKey, now: float) -> str:
    """A token for the holder of a key."""
    ends = int(now) + SECONDS
    return f"{ends}.{_signature(key, ends)}"


def holder(token: str, keys: Iterable[ScopedKey], now: float) -> ScopedKey | None:
    """The key with the scope `review` whose holder got the token; None if the token is wrong or the session ended."""
    match = _TOKEN.fullmatch(token)
    if match is None or (ends := int(match["ends"])) <= now:
        return None
    signed = (key for key in keys if hmac.compare_digest(_signature(key, ends), match["signature"]))
    return next((key for key in signed if "review" in key.scopes), None)


def _signature(key: ScopedKey, ends: int) -> str:
    return hmac.digest(bytes.fromhex(key.sha256), f"screening review until {ends}".encode(), "sha256").hex()
