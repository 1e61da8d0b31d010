"""The HTTP client of `collect`: pages of the export, pictures, and the registration of a snapshot.

Retried are 408, 425, 429, 5xx, timeouts and broken connections, with a growing pause that is never shorter than the
service's `Retry-After`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ValidationError
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from screening.runtime.validation import first_fault
from trainer.data.collect.errors import CollectError, ErasedMeanwhile, Unreachable
from trainer.data.collect.export import Item, Page
from trainer.runs.http_retry import TEMPORARY_STATUS, TemporaryFailure, asked_to_wait, retry_after

TRIES = 6
PAGE = 200
"""Tasks per page."""
TIMEOUT = 60.0
"""Maximum time in seconds for each part of a request: connecting, and each pause of the answer."""
LONGEST_RETRY_AFTER = 120.0
"""Longest accepted `Retry-After` in seconds."""
_REFUSED = {
    401: "the key is missing or unknown; --key-file must hold a key of the service with the scope admin",
    403: "the key lacks the scope admin",
    404: "there is no review here; check the address, and that the service runs with SCREENING_DECISIONS and "
    "SCREENING_REVIEW",
}

Answer = TypeVar("Answer", bound=BaseModel)


class ReviewService:
    """The review interface of a running service. Use it as a context manager, because it holds open connections."""

    def __init__(self, url: str, key: str | None, *, sleep: Callable[[float], None] = time.sleep) -> None:
        """Create the client without sending a request.

        Args:
            url: address of the service, `http://HOST:PORT`.
            key: a key with the scope admin; None for a service that lets people of its own machine in without one.
            sleep: replaces waiting in tests.

        Raises:
            CollectError: the address is not a URL.
        """
        self.url = plain_url(url)
        headers = {"User-Agent": "screening-trainer collect"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._client = httpx.Client(base_url=self.url, headers=headers, timeout=TIMEOUT)
        self._retrying = Retrying(
            sleep=sleep,
            stop=stop_after_attempt(TRIES),
            wait=_wait,
            retry=retry_if_exception_type(TemporaryFailure),
            reraise=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def items(self) -> Iterator[Item]:
        """All tasks that people have decided, page by page.

        Raises:
            CollectError, Unreachable: the service does not give them.
        """
        cursor: str | None = None
        while True:
            query: dict[str, str | int] = {"limit": PAGE} | ({"cursor": cursor} if cursor else {})
            page = _read(Page, self._ask("GET", "/review/export", params=query))
            yield from page.items
            if page.next is None:
                return
            if page.next == cursor:
                raise CollectError(f"{self.url} answers with the same page of the export again ({cursor})")
            cursor = page.next

    def picture(self, sha256: str) -> bytes:
        """The bytes of a picture.

        Raises:
            ErasedMeanwhile: the service no longer has it.
            CollectError, Unreachable: the service does not give it, or gives other bytes.
        """
        response = self._ask("GET", f"/review/export/pictures/{sha256}", accepted=(200, 404, 410))
        if response.status_code != httpx.codes.OK:
            raise ErasedMeanwhile(f"{self.url} no longer has the picture {sha256}")
        if hashlib.sha256(response.content).hexdigest() != sha256:
            raise CollectError(
                f"{self.url} gave other bytes for the picture {sha256}; its picture store is damaged, restore it"
            )
        return response.content

    def agreement(self) -> list[dict[str, Any]]:
        """How far the reviewers agree now, as the service's statistics say.

        Raises:
            CollectError, Unreachable: the service does not say.
        """
        stats = self._ask("GET", "/review/stats").json()
        found = stats.get("agreement") if isinstance(stats, dict) else None
        return list(found) if isinstance(found, list) else []

    def register(self, digest: str, tasks: Sequence[str]) -> None:
        """Tell the service which tasks a snapshot holds, so that an erasure can name the snapshots that it concerns.

        Raises:
            ErasedMeanwhile: a task was erased since the export was read.
            CollectError, Unreachable: the service does not accept it.
        """
        body = {"digest": digest, "tasks": list(tasks)}
        if (
            self._ask("POST", "/review/exports", json=body, accepted=(200, 201, 409)).status_code
            == httpx.codes.CONFLICT
        ):
            raise ErasedMeanwhile(f"{self.url} says that reviewed data were erased while they were collected")

    def _ask(self, method: str, path: str, *, accepted: Sequence[int] = (200,), **more: Any) -> httpx.Response:
        try:
            # A copy per request, because a tenacity object stores the state of its call.
            response: httpx.Response = self._retrying.copy()(self._ask_once, method, path, **more)
        except TemporaryFailure as error:
            raise Unreachable(f"{self.url}{path}: {error}, {TRIES} times") from error
        if response.status_code in accepted:
            return response
        why = _REFUSED.get(response.status_code, " ".join(response.text.split())[:300])
        raise CollectError(f"{self.url}{path}: status {response.status_code}: {why}")

    def _ask_once(self, method: str, path: str, **more: Any) -> httpx.Response:
        try:
            response = self._client.request(method, path, **more)
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise TemporaryFailure(str(error) or type(error).__name__) from error
        if response.status_code in TEMPORARY_STATUS:
            after = retry_after(response.headers) or 0.0
            raise TemporaryFailure(f"status {response.status_code}", min(after, LONGEST_RETRY_AFTER))
        return response


def plain_url(url: str) -> str:
    """An address without user, password, query and final slash, which may be shown and stored.

    Raises:
        CollectError: it is not a URL.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            host = parts.netloc.rpartition("@")[2]
            return f"{parts.scheme}://{host}{parts.path.rstrip('/')}"
    except ValueError:  # the port is not a number, or brackets do not match
        pass
    raise CollectError(f"{url!r} is not the address of a service; write http://HOST:PORT")


def _read(kind: type[Answer], response: httpx.Response) -> Answer:
    try:
        return kind.model_validate_json(response.content)
    except ValidationError as error:
        where, message = first_fault(error)
        raise CollectError(
            f"{response.url.copy_with(query=None)}: {where or 'the body'}: {message}; use the trainer of the service's "
            "version"
        ) from error


_backoff = wait_random_exponential(multiplier=1, max=30)


def _wait(state: RetryCallState) -> float:
    return max(0.1, _backoff(state), asked_to_wait(state))
