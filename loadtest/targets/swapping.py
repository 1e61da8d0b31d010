"""The operator of a run: orders swaps between two oracles and keeps account of what was served when."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from itertools import cycle
from typing import Any

import httpx

from loadtest.load.loops import Stop
from loadtest.results.record import Book, Event
from loadtest.targets.canary_checkpoints import Oracle
from loadtest.targets.versions import Served
from screening.errors import UserError

ANSWER_SECONDS = 400.0
"""For one swap; the service gives up draining and reloading long before."""


class OracleBlind(UserError):
    """The two checkpoints cannot be told apart here, so a run would prove nothing; the message says by what."""

    exit_status = 1


class Operator:
    """Holds the admin key of a service that serves the first of the pair when it is ready."""

    def __init__(self, pair: tuple[Oracle, Oracle], book: Book) -> None:
        self.pair = pair
        self.served = Served()
        self.served.start(pair[0].digest)
        self.key = secrets.token_urlsafe(24)
        self._book = book
        self._next = cycle((pair[1], pair[0]))

    @property
    def alphabets(self) -> Mapping[str, str]:
        """Digest → letters."""
        return {oracle.digest: oracle.letters for oracle in self.pair}

    @property
    def service_options(self) -> list[str]:
        """For a service that this operator may command."""
        first = self.pair[0].directory
        key = hashlib.sha256(self.key.encode()).hexdigest()
        return ["--checkpoint", str(first), "--checkpoint-store", str(first.parent), "--admin-keys", key]

    async def swap(self, http: httpx.AsyncClient, stage: str) -> Event:
        """Order the other checkpoint; whatever comes of it is noted."""
        oracle, ordered = next(self._next), self._book.now
        try:
            response = await http.post(
                "/admin/checkpoint",
                json={"checkpoint": oracle.directory.name},
                headers={"Authorization": f"Bearer {self.key}"},
                timeout=ANSWER_SECONDS,
            )
            status, body = response.status_code, _object(response)
        except httpx.HTTPError as error:
            status, body = None, {"detail": f"{type(error).__name__}: {error}"}
        answered = self._book.now
        if status == 200:
            self.served.swapped(oracle.digest, ordered, answered)
        else:  # what is served has stayed, so the same one is ordered again
            next(self._next)
        body = {key: value for key, value in body.items() if key not in ("at", "status")}
        return self._book.note(
            "swap", ordered, answered=answered, ordered=oracle.digest, stage=stage, status=status, **body
        )

    async def keep_swapping(self, http: httpx.AsyncClient, every: float, over: Stop, stage: str) -> None:
        """One every so many seconds until it is over; a slow one is not caught up on.

        Not to be cancelled: a swap that was ordered is waited for, or nobody would know what is served.
        """
        due = self._book.now + every
        while not await over.sleep(due - self._book.now):
            await self.swap(http, stage)
            due = max(due + every, self._book.now)


def _object(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        body = None
    return body if isinstance(body, dict) else {"detail": response.text[:200]}
