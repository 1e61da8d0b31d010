"""`Idempotency-Key`: a request that is sent again gets the response of the first time, id and all.

The rules are those of the IETF's draft (draft-ietf-httpapi-idempotency-key-header), with two decisions of our own:

- *The first is still in flight.* The draft answers 409. Here the second joins: it shares the inference (`same_work`)
  and gets the same response. A 409 protects what must not happen twice; a screening changes nothing. And who sends
  again has mostly lost the connection to the first: after 409 a client would use up its few retries while its answer
  is being made.
- *Errors are not kept.* Bad input is refused again by itself, and everything else (429, 5xx) is what a client is meant
  to try again with the same key. A key whose requests all failed is free for another request.

Keys belong to a caller: two callers' keys never meet.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from service.errors import IdempotencyKeyReused
from service.pipeline.bounded_cache import BoundedStore


@dataclass(frozen=True, slots=True)
class Reply:
    """A 200 that went out, and can go out again."""

    id: str
    outcome: str
    body: bytes


@dataclass(frozen=True, slots=True)
class KeptReply:
    """A reply and the request that it answers."""

    fingerprint: bytes
    reply: Reply


@dataclass(slots=True)
class Claim:
    """A key in the hands of those whose requests are in flight with it."""

    name: bytes | None
    """Of caller and key; None for a request without a key."""
    fingerprint: bytes
    identity: str
    """The id of the response: the same for all of them."""
    reply: Reply | None = None
    """Given already: send it again."""
    holders: int = 0


def size_of(kept: KeptReply) -> int:
    """Bytes in memory, rather too many than too few."""
    return sys.getsizeof(kept.reply.body) + 512


class Idempotency:
    """Who holds which key, and what was answered."""

    def __init__(self, kept: BoundedStore[KeptReply]) -> None:
        self._kept = kept
        self._claims: dict[bytes, Claim] = {}

    @contextmanager
    def claim(self, caller: str, key: str | None, fingerprint: bytes, identity: str) -> Iterator[Claim]:
        """Hold a key for the time of a request.

        Args:
            caller: whose key it is.
            key: None for a request without: it gets a claim that nobody shares.
            identity: the id of the response, if nobody else has claimed the key.

        Raises:
            IdempotencyKeyReused: the key was used, or is in use, for another request.
        """
        if key is None:
            yield Claim(None, fingerprint, identity)
            return
        name = hashlib.sha256(f"{caller} {key}".encode()).digest()
        claim = self._claims.get(name) or self._remembered(name) or Claim(name, fingerprint, identity)
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
        """What to send: this reply, or the one that another holder of the key was faster with."""
        if claim.reply is None:
            claim.reply = reply
            if claim.name is not None:
                self._kept.put(claim.name, KeptReply(claim.fingerprint, reply))
        return claim.reply

    def _remembered(self, name: bytes) -> Claim | None:
        kept = self._kept.get(name)
        return None if kept is None else Claim(name, kept.fingerprint, kept.reply.id, kept.reply)
