"""The synchronous client. `async_client` is its twin: a test holds that their signatures are the same."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any, Literal, overload

import httpx

from screening_client import constants, wire
from screening_client.bulk import Completed, OnError, Progress, check_bulk, in_order
from screening_client.bulk_threads import completed
from screening_client.errors import ScreeningClientError, TimedOut
from screening_client.pace import Run
from screening_client.pictures import PictureInput
from screening_client.request import Mode, ScreenRequest, prepare
from screening_client.result import Screening
from screening_client.retries import sync_retrying
from screening_client.settings import ClientTimeout, Deadline, resolve, resolve_timeout


class Client:
    """A client of one screening service. Thread-safe; keep one and use it as a context manager, or `close` it."""

    def __init__(
        self,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: ClientTimeout | float | None = None,
        max_retries: int = constants.MAX_RETRIES,
        http_client: httpx.Client | None = None,
    ) -> None:
        """
        Args:
            base_url: the service's address; otherwise SCREENING_BASE_URL, otherwise http://localhost:8000.
            api_key: otherwise SCREENING_API_KEY, otherwise none is sent.
            timeout: a number limits each whole call in seconds, retries included.
            max_retries: attempts after the first.
            http_client: for proxies, certificates or transports of your own. It stays yours to close.

        Raises:
            InputError: one of these cannot be used.
        """
        self._settings = resolve(base_url=base_url, api_key=api_key, timeout=timeout, max_retries=max_retries)
        self._owns_http = http_client is None
        # No cap on connections: `concurrency` is the cap, and waiting for a connection would look like a slow service.
        self._http = http_client or httpx.Client(limits=httpx.Limits(max_connections=None))

    def screen(
        self,
        *,
        original: PictureInput,
        generated: Sequence[PictureInput],
        mode: Mode = "cot",
        metadata: Mapping[str, Any] | None = None,
        review_below: float | None = None,
        timeout: ClientTimeout | float | None = None,
        idempotency_key: str | None = None,
        request_id: str | None = None,
    ) -> Screening:
        """Ask which of four generated pictures may be shown.

        Args:
            original: the product's own photo: a path, bytes, a binary file object or a PIL image.
            generated: exactly four pictures, in the order A, B, C, D.
            mode: `cot` thinks and explains, `direct` answers only.
            metadata: at most 4 KiB of JSON, echoed in the result.
            review_below: the confidence, 0 to 1, below which the result has `needs_review`; otherwise the operator's.
            timeout: for this call, in place of the client's own.
            idempotency_key: otherwise one is made, the same for all attempts of this call.
            request_id: what the service's log calls this call; otherwise one is made.

        Raises:
            InputError: refused before anything was sent.
            StatusError: the service refused or failed; see `errors` for the class of each status.
            ConnectionFailed, TimedOut: no answer, after all retries.
            UnexpectedAnswer: the answer is not a screening.
        """
        request = ScreenRequest(
            original=original,
            generated=generated,
            mode=mode,
            metadata=metadata,
            review_below=review_below,
            timeout=timeout,
            idempotency_key=idempotency_key,
            request_id=request_id,
        )
        return self._screen(request)

    @overload
    def screen_many(
        self,
        requests: Iterable[ScreenRequest],
        *,
        concurrency: int = ...,
        progress: Progress = ...,
        on_error: Literal["raise"] = ...,
    ) -> list[Screening]: ...

    @overload
    def screen_many(
        self,
        requests: Iterable[ScreenRequest],
        *,
        concurrency: int = ...,
        progress: Progress = ...,
        on_error: Literal["return"],
    ) -> list[Screening | ScreeningClientError]: ...

    def screen_many(
        self,
        requests: Iterable[ScreenRequest],
        *,
        concurrency: int = constants.CONCURRENCY,
        progress: Progress = True,
        on_error: OnError = "raise",
    ) -> list[Screening] | list[Screening | ScreeningClientError]:
        """Screen many, at most `concurrency` at a time. Results are in the order of the requests.

        Args:
            requests: any iterable; it is read only as places become free.
            concurrency: the maximum; fewer are sent at once while the service answers 429.
            progress: a bar on stderr, if that is a terminal; or a function that is called after each result with the
                number of results so far and the number of requests, which is None if `requests` has no length.
            on_error: `raise` stops at the first error; `return` puts errors in the place of their results. To keep
                the results from before an error, use `screen_as_completed`.
        """
        completed = self.screen_as_completed(requests, concurrency=concurrency, progress=progress, on_error=on_error)
        with closing(completed):
            return in_order({done.index: done.result for done in completed})

    @overload
    def screen_as_completed(
        self,
        requests: Iterable[ScreenRequest],
        *,
        concurrency: int = ...,
        progress: Progress = ...,
        on_error: Literal["raise"] = ...,
    ) -> Generator[Completed[ScreenRequest, Screening]]: ...

    @overload
    def screen_as_completed(
        self,
        requests: Iterable[ScreenRequest],
        *,
        concurrency: int = ...,
        progress: Progress = ...,
        on_error: Literal["return"],
    ) -> Generator[Completed[ScreenRequest, Screening | ScreeningClientError]]: ...

    def screen_as_completed(
        self,
        requests: Iterable[ScreenRequest],
        *,
        concurrency: int = constants.CONCURRENCY,
        progress: Progress = False,
        on_error: OnError = "raise",
    ) -> Generator[Any]:
        """Screen many and give each result as soon as it is there, with its request.

        Leaving the loop cancels what is under way. An error that `requests` raises is raised here, after the results
        of the requests before it.

        Args:
            requests, concurrency, progress: as in `screen_many`.
            on_error: `raise` gives all results that are there, and then raises the first error; `return` gives errors
                in the place of their results.
        """
        check_bulk(concurrency, on_error)
        return completed(self._screen, requests, concurrency, progress=progress, on_error=on_error)

    def ready(self) -> bool:
        """Whether the service takes requests now. One attempt; unreachable counts as not ready.

        Raises:
            StatusError: an answer that waiting will not change, such as 404.
        """
        request = wire.ready_request(self._http, self._settings, constants.READY_TIMEOUT)
        try:
            return wire.read_readiness(self._http.send(request))
        except httpx.RequestError:
            return False

    def wait_until_ready(self, timeout: float = 120.0) -> None:
        """Return as soon as the service takes requests.

        Raises:
            TimedOut: it does not within `timeout` seconds.
            StatusError: an answer that waiting will not change, such as 404.
        """
        end = time.monotonic() + timeout
        while not self.ready():
            if time.monotonic() + constants.POLL_INTERVAL > end:
                raise TimedOut(f"{self._settings.base_url} was not ready within {timeout:g} s")
            time.sleep(constants.POLL_INTERVAL)

    def close(self) -> None:
        """Close the connections. A client passed in as `http_client` stays open."""
        if self._owns_http:
            self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client(base_url={self._settings.base_url!r})"

    def _screen(self, request: ScreenRequest, run: Run | None = None) -> Screening:
        """One call: check → build once → attempts → result."""
        deadline = Deadline(resolve_timeout(request.timeout, self._settings.timeout))
        message = wire.screen_request(self._http, self._settings, prepare(request))
        retrying = sync_retrying(self._settings.max_retries, deadline, run)
        attempt = self._attempt if run is None else run.paced(self._attempt)
        return retrying(attempt, message, deadline)

    def _attempt(self, message: httpx.Request, deadline: Deadline) -> Screening:
        message.extensions["timeout"] = deadline.for_attempt()
        try:
            response = self._http.send(message)
        except httpx.RequestError as error:
            raise wire.transport_error(error, message) from error
        return wire.read_screening(response)
