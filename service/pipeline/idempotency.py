"""Idempotency keys: a request that is sent again gets the response to the first one, including its id.

The rules follow the IETF draft draft-ietf-httpapi-idempotency-key-header, with two differences:

- If the first request is still in flight, the draft answers 409. Here the second request shares the inference
  (`coalescing`) and gets the same response. The 409 protects operations that must not run twice, but a screening
  changes nothing. Also, a client usually retries because its connection broke, and would waste its retries on 409s.
- Errors are not stored. Bad input is refused again anyway, and a client is supposed to retry every other error (429,
  5xx) with the same key. If all requests with a key failed, the key can be used for another request.

The same key from two callers counts as two keys.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from service.errors import IdempotencyKeyReused
from service.pipeline.bounded_cache import BoundedCache


@dataclass(frozen=True, slots=True)
class Reply:
    """A response with status 200 that can be sent again."""

    id: str
    outcome: str
    body: bytes


@dataclass(frozen=True, slots=True)
class KeptReply:
    """A reply and the fingerprint of the request that it answers."""

    fingerprint: bytes
    reply: Reply


@dataclass(slots=True)
class Claim:
    """A key that requests in flight hold."""

    name: bytes | None
    """Digest of the caller and the key; None for a request without a key."""
    fingerprint: bytes
    answer_id: str
    """Id of the response, which all holders share."""
    reply: Reply | None = None
    """The reply to send again, if there is one already."""
    holders: int = 0
    """Number of requests in flight that hold the key."""


def size_of(kept: KeptReply) -> int:
    """Upper estimate of the memory of a stored reply in bytes."""
    return sys.getsizeof(kept.reply.body) + 512


class Idempotency:
    """Tracks which requests hold which key, and stores the replies."""

    def __init__(self, kept: BoundedCache[KeptReply]) -> None:
        self._kept = kept
        self._claims: dict[bytes, Claim] = {}

    @contextmanager
    def claim(self, caller: str, key: str | None, fingerprint: bytes, answer_id: str) -> Iterator[Claim]:
        """Hold a key for the duration of a request.

        Args:
            caller: the caller to whom the key belongs.
            key: the key; a request without one (None) gets a claim that it does not share.
            answer_id: id of the response, unless another request has claimed the key.

        Raises:
            IdempotencyKeyReused: the key was used, or is in use, for another request.
        """
        if key is None:
            yield Claim(None, fingerprint, answer_id)
            return
        name = hashlib.sha256(f"{caller} {key}".encode()).digest()
        claim = self._claims.get(name) or self._remembered(name) or Claim(name, fingerprint, answer_id)
        if claim.fingerprint != fingerprint:
            raise IdempotencyKeyReused()
        self._claims[name] = claim
        claim.holders += 1
        try:
            yield claim
        finally:
            claim.holders -= 1
            if not claim.holders:
                del self._claims[name]

    def settle(self, claim: Claim, reply: Reply) -> Reply:
        """Store the first reply to a claim. Returns the reply to send, which may be that of another holder."""
        if claim.reply is None:
            claim.reply = reply
            if claim.name is not None:
                self._kept.put(claim.name, KeptReply(claim.fingerprint, reply))
        return claim.reply

    def _remembered(self, name: bytes) -> Claim | None:
        kept = self._kept.get(name)
        return None if kept is None else Claim(name, kept.fingerprint, kept.reply.id, kept.reply)
