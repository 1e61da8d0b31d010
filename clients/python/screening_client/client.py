"""The synchronous client. A test enforces that its signatures match those of `async_client`."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import httpx

from screening_client import constants, log, wire
from screening_client.bulk import Completed, OnError, Progress, check_bulk, in_order
from screening_client.bulk_threads import completed
from screening_client.connections import Connections
from screening_client.decisions import Decisions
from screening_client.errors import (
    ConnectionFailed,
    ScreeningClientError,
    TimedOut,
    UnexpectedAnswer,
)
from screening_client.network import network_for
from screening_client.pace import Run
from screening_client.pictures import PictureInput
from screening_client.raw import RawClient
from screening_client.request import Mode, ScreenRequest, check_kind, prepare
from screening_client.result import Screening
from screening_client.retries import sync_retrying
from screening_client.settings import (
    ClientTimeout,
    Deadline,
    checked_headers,
    checked_seconds,
    resolve,
    resolve_timeout,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from screening_client.decision_calls import Call
    from screening_client.request import RequestArguments

Result = TypeVar("Result")


class Client:
    """A client of one screening service. It is thread-safe. Reuse it, and `close` it or use it as a context manager."""

    def __init__(
        self,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: ClientTimeout | float | None = None,
        max_retries: int = constants.MAX_RETRIES,
        default_headers: Mapping[str, str] | None = None,
        check_request_id: bool = True,
        http_client: httpx.Client | Callable[[], httpx.Client] | None = None,
    ) -> None:
        """
        Args:
            base_url: address of the service. Default: SCREENING_BASE_URL, otherwise http://localhost:8000.
            api_key: API key. Default: SCREENING_API_KEY, otherwise none is sent.
            timeout: time limits; a number limits each whole call in seconds, including its retries.
            max_retries: maximum number of retries after the first attempt.
            default_headers: headers for every request, for example for a gateway.
            check_request_id: whether an answer must carry the `X-Request-Id` that was sent. Disable it only if a proxy
                replaces the header.
            http_client: an httpx client with your own proxy, certificates or transport, which you must close, or a
                function that creates one. The function is called once in every process.

        Raises:
            InputError: an argument is not valid.
            ConfigurationError: an environment variable is not valid.
        """
        log.set_up()
        self._settings = resolve(
            base_url=base_url,
            api_key=api_key,
            timeout=timeout,
            max_retries=max_retries,
            default_headers=default_headers,
            check_request_id=check_request_id,
        )
        self._owns_connections = True
        if http_client is None:
            network = network_for(self._settings.base_url)
            self._settings = replace(self._settings, proxy=network.proxy_address)
            http_client = network.sync_client
        self._connections = Connections(http_client)

    @property
    def with_raw_response(self) -> RawClient:
        """A client whose `screen(…)` returns the HTTP response, of which `parse()` is the result."""
        return RawClient(self)

    @property
    def decisions(self) -> Decisions:
        """Stored decisions: `decisions.list(…)`, `get`, `picture`, `feedback` and `erase`."""
        return Decisions(self)

    def with_options(
        self,
        *,
        api_key: str | None = None,
        timeout: ClientTimeout | float | None = None,
        max_retries: int | None = None,
        default_headers: Mapping[str, str] | None = None,
    ) -> Client:
        """Return a client with other options that uses the same connections. `default_headers` are added.

        Options that are not given stay the same. Only closing the original client closes the connections.

        Raises:
            InputError: an argument is not valid.
        """
        changed = copy.copy(self)
        changed._settings = self._settings.changed(
            api_key=api_key, timeout=timeout, max_retries=max_retries, default_headers=default_headers
        )
        changed._owns_connections = False
        return changed

    def screen(
        self,
        *,
        original: PictureInput,
        generated: Sequence[PictureInput],
        mode: Mode = "cot",
        metadata: Mapping[str, Any] | None = None,
        review_below: float | None = None,
        locate: bool = False,
        timeout: ClientTimeout | float | None = None,
        idempotency_key: str | None = None,
        request_id: str | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Screening:
        """Screen one product: ask which of four generated pictures may be shown.

        Args:
            original: the original product photo, as a path, bytes of a file, a binary file object or a PIL image.
            generated: a list of exactly four pictures, in the order A, B, C, D.
            mode: `cot` explains the answer; `direct` is faster.
            metadata: a JSON object of at most 4 KiB, which the result echoes.
            review_below: confidence, 0 to 1, below which `needs_review` is set. Default: the operator's threshold.
            locate: whether the result says where each fault is (`options["B"].regions`). It takes longer, and the
                checkpoint must have been trained for it.
            timeout: time limits of this call. Default: those of the client.
            idempotency_key: key for all attempts of this call. Default: a new one.
            request_id: id of this call in the service's log. Default: a new one.
            extra_headers: headers of this call in addition to those of the client.

        Raises:
            InputError: an argument is not valid; nothing was sent.
            StatusError: the service refused the request or failed; see `errors` for the class of each status.
            ConnectionFailed, TimedOut: there was no answer after all retries.
            UnexpectedAnswer: the answer is not a screening, or belongs to another request.
            ClientStateError: the client is closed.
        """
        return self._call(
            wire.read_screening,
            original=original,
            generated=generated,
            mode=mode,
            metadata=metadata,
            review_below=review_below,
            locate=locate,
            timeout=timeout,
            idempotency_key=idempotency_key,
            request_id=request_id,
            extra_headers=extra_headers,
        )

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
        """Screen many products, at most `concurrency` at a time. The results are in the order of the requests.

        Args:
            requests: any iterable; an item is taken only when a place becomes free.
            concurrency: maximum number of concurrent requests, which is reduced while the service answers 429.
            progress: whether to show a bar on stderr if it is a terminal, or a function. It is called after each result
                with the number of results and the number of requests, or None if `requests` has no length.
            on_error: `raise` stops at the first error; `return` returns an error in place of each failed result. To
                keep the results from before an error, use `screen_as_completed`.
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
        """Screen many products and yield each result with its request as soon as it is available.

        Leaving the loop cancels the running requests. An error that `requests` raises is raised here, after the
        results of the earlier requests.

        Args:
            requests, concurrency, progress: as in `screen_many`.
            on_error: `raise` yields all available results and then raises the first error; `return` yields an error in
                place of each failed result.
        """
        check_bulk(concurrency, on_error)
        return completed(self._screen, requests, concurrency, progress=progress, on_error=on_error)

    def ready(self) -> bool:
        """Check once whether the service accepts requests. An unreachable service counts as not ready.

        Raises:
            StatusError: the service answers with a status that waiting does not change, such as 404.
            ClientStateError: the client is closed.
        """
        return self._why_not_ready(constants.READY_TIMEOUT) is None

    def wait_until_ready(self, timeout: float = 120.0) -> None:
        """Wait until the service accepts requests.

        Raises:
            TimedOut: the service is not ready within `timeout` seconds.
            StatusError: the service answers with a status that waiting does not change, such as 404.
            InputError: `timeout` is not a positive number.
        """
        end = time.monotonic() + checked_seconds(timeout, "timeout")
        while why := self._why_not_ready(min(constants.READY_TIMEOUT, max(end - time.monotonic(), 0.1))):
            if time.monotonic() + constants.POLL_INTERVAL > end:
                raise TimedOut(f"{self._settings.address} was not ready within {timeout:g} s: {why}")
            time.sleep(constants.POLL_INTERVAL)

    def close(self) -> None:
        """Close the connections. A client that was passed as `http_client` stays open."""
        if self._owns_connections:
            self._connections.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client(base_url={self._settings.address!r})"

    def _why_not_ready(self, seconds: float) -> str | None:
        """Check the readiness once, for at most this many seconds. Returns None if the service is ready."""
        http = self._connections.current()
        deadline = Deadline(resolve_timeout(seconds, self._settings.timeout))
        try:
            return wire.why_not_ready(self._exchange(wire.ready_request(http, self._settings), deadline))
        except (ConnectionFailed, TimedOut, UnexpectedAnswer) as error:
            return str(error)

    def _call(
        self,
        read: Callable[[httpx.Response], Result],
        *,
        extra_headers: Mapping[str, str] | None = None,
        **arguments: Unpack[RequestArguments],
    ) -> Result:
        checked_headers(extra_headers, "extra_headers")
        client = self if extra_headers is None else self.with_options(default_headers=extra_headers)
        return client._ask(ScreenRequest(**arguments), read)

    def _screen(self, request: ScreenRequest, run: Run | None = None) -> Screening:
        check_kind(request)
        return self._ask(request, wire.read_screening, run)

    def _ask(
        self,
        request: ScreenRequest,
        read: Callable[[httpx.Response], Result],
        run: Run | None = None,
    ) -> Result:
        """Perform one call: check the request, build it once, send it until it succeeds, and return the result."""
        deadline = Deadline(resolve_timeout(request.timeout, self._settings.timeout))
        message = wire.screen_request(self._connections.current(), self._settings, prepare(request))
        retrying = sync_retrying(self._settings.max_retries, deadline, run)
        attempt = self._attempt if run is None else run.paced(self._attempt)
        result: Result = retrying(attempt, message, deadline, read)
        return result

    def _perform(self, call: Call[Result]) -> Result:
        """One call of `/decisions`: build once → attempts → result."""
        deadline = Deadline(self._settings.timeout)
        message = wire.call_request(self._connections.current(), self._settings, call)
        retrying = sync_retrying(self._settings.max_retries, deadline, None)
        result: Result = retrying(self._attempt, message, deadline, call.read, call.expected)
        return result

    def _attempt(
        self,
        message: httpx.Request,
        deadline: Deadline,
        read: Callable[[httpx.Response], Result],
        expected: int = 200,
    ) -> Result:
        return read(wire.check_status(self._exchange(message, deadline), expected))

    def _exchange(self, message: httpx.Request, deadline: Deadline) -> httpx.Response:
        message.extensions["timeout"] = deadline.for_attempt()
        http = self._connections.current()
        with wire.exchange(message):
            # The response is streamed, because closing one whose body was not read drops its connection.
            wire.limit_upload(message, deadline)
            response = http.send(message, stream=True)
            with closing(response):
                wire.limit_download(message, response, deadline)
                wire.check_request_id(response, self._settings)
                response.read()
        return response
