"""The operator of a run: it orders swaps between two canaries and records which one was served when."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from itertools import cycle
from typing import Any

import httpx

from loadtest.load.loops import Stop
from loadtest.results.record import Event, RunRecorder
from loadtest.targets.canary_checkpoints import Canary
from loadtest.targets.versions import Served
from screening.errors import UserError

ANSWER_SECONDS = 400.0
"""Time limit of one swap in seconds; the service's own limits for draining and reloading are much shorter."""


class CanaryError(UserError):
    """The two canaries cannot be distinguished, so a run would prove nothing; the message says why."""

    exit_status = 1


class Operator:
    """Operates a service with its admin key. The service starts on the first checkpoint of the pair."""

    def __init__(self, pair: tuple[Canary, Canary], recorder: RunRecorder) -> None:
        self.pair = pair
        self.served = Served()
        self.served.start(pair[0].digest)
        self.key = secrets.token_urlsafe(24)
        self._recorder = recorder
        self._next = cycle((pair[1], pair[0]))

    @property
    def alphabets(self) -> Mapping[str, str]:
        """Digest of each checkpoint → its letters."""
        return {canary.digest: canary.letters for canary in self.pair}

    @property
    def service_options(self) -> list[str]:
        """Options for a service that this operator can control."""
        first = self.pair[0].directory
        key = hashlib.sha256(self.key.encode()).hexdigest()
        return ["--checkpoint", str(first), "--checkpoint-store", str(first.parent), "--admin-keys", key]

    async def swap(self, http: httpx.AsyncClient, stage: str) -> Event:
        """Order the other checkpoint and record the outcome."""
        canary, ordered = next(self._next), self._recorder.now
        try:
            response = await http.post(
                "/admin/checkpoint",
                json={"checkpoint": canary.directory.name},
                headers={"Authorization": f"Bearer {self.key}"},
                timeout=ANSWER_SECONDS,
            )
            status, body = response.status_code, _object(response)
        except httpx.HTTPError as error:
            status, body = None, {"detail": f"{type(error).__name__}: {error}"}
        answered = self._recorder.now
        if status == 200:
            self.served.swapped(canary.digest, ordered, answered)
        else:  # the old checkpoint is still served, so the same one is ordered again
            next(self._next)
        body = {key: value for key, value in body.items() if key not in ("at", "status")}
        return self._recorder.note(
            "swap", ordered, answered=answered, ordered=canary.digest, stage=stage, status=status, **body
        )

    async def keep_swapping(self, http: httpx.AsyncClient, every: float, over: Stop, stage: str) -> None:
        """Order a swap at regular intervals until the end; a slow swap delays the next ones.

        Do not cancel this: it must wait for an ordered swap, because the served checkpoint would be unknown otherwise.
        """
        due = self._recorder.now + every
        while not await over.sleep(due - self._recorder.now):
            await self.swap(http, stage)
            due = max(due + every, self._recorder.now)


def _object(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        body = None
    return body if isinstance(body, dict) else {"detail": response.text[:200]}
