"""The asynchronous client, for asyncio. A test enforces that its signatures match those of `client`."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import httpx

from screening_client import constants, log, wire
from screening_client.bulk import Completed, OnError, Progress, check_bulk, in_order
from screening_client.bulk_tasks import completed
from screening_client.connections import AsyncConnections
from screening_client.decisions import AsyncDecisions
from screening_client.errors import (
    ConnectionFailed,
    ScreeningClientError,
    TimedOut,
    UnexpectedAnswer,
)
from screening_client.network import network_for
from screening_client.pace import AsyncRun
from screening_client.pictures import PictureInput
from screening_client.raw import AsyncRawClient
from screening_client.request import Mode, ScreenRequest, check_kind, prepare
from screening_client.result import Screening
from screening_client.retries import async_retrying
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


class AsyncClient:
    """A client of one screening service. Reuse it in its event loop, and `close` it or use it as a context manager."""

    def __init__(
        self,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: ClientTimeout | float | None = None,
        max_retries: int = constants.MAX_RETRIES,
        default_headers: Mapping[str, str] | None = None,
        check_request_id: bool = True,
        http_client: httpx.AsyncClient | Callable[[], httpx.AsyncClient] | None = None,
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
                function that creates one. The function is called once in every process and event loop.

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
            http_client = network.async_client
        self._connections = AsyncConnections(http_client)

    @property
    def with_raw_response(self) -> AsyncRawClient:
        """A client whose `screen(…)` returns the HTTP response, of which `parse()` is the result."""
        return AsyncRawClient(self)

    @property
    def decisions(self) -> AsyncDecisions:
        """Stored decisions: `decisions.list(…)`, `get`, `picture`, `feedback` and `erase`."""
        return AsyncDecisions(self)

    def with_options(
        self,
        *,
        api_key: str | None = None,
        timeout: ClientTimeout | float | None = None,
        max_retries: int | None = None,
        default_headers: Mapping[str, str] | None = None,
    ) -> AsyncClient:
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

    async def screen(
        self,
        *,
        original: PictureInput,
        generated: Sequence[PictureInput],
        mode: Mode = "cot",
        metadata: Mapping[str, Any] | None = None,
        review_below: float | None = None,
        locate: bool = False,
        timeout: ClientTimeout | float | None = None,  # noqa: ASYNC109 - limits attempts, not just the wait
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
        return await self._call(
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
    async def screen_many(
        self,
        requests: Iterable[ScreenRequest] | AsyncIterable[ScreenRequest],
        *,
        concurrency: int = ...,
        progress: Progress = ...,
        on_error: Literal["raise"] = ...,
    ) -> list[Screening]: ...

    @overload
    async def screen_many(
        self,
        requests: Iterable[ScreenRequest] | AsyncIterable[ScreenRequest],
        *,
        concurrency: int = ...,
        progress: Progress = ...,
        on_error: Literal["return"],
    ) -> list[Screening | ScreeningClientError]: ...

    async def screen_many(
        self,
        requests: Iterable[ScreenRequest] | AsyncIterable[ScreenRequest],
        *,
        concurrency: int = constants.CONCURRENCY,
        progress: Progress = True,
        on_error: OnError = "raise",
    ) -> list[Screening] | list[Screening | ScreeningClientError]:
        """Screen many products, at most `concurrency` at a time. The results are in the order of the requests.

        Args:
            requests: any iterable or async iterable; an item is taken only when a place becomes free.
            concurrency: maximum number of concurrent requests, which is reduced while the service answers 429.
            progress: whether to show a bar on stderr if it is a terminal, or a function. It is called after each result
                with the number of results and the number of requests, or None if `requests` has no length.
            on_error: `raise` stops at the first error; `return` returns an error in place of each failed result. To
                keep the results from before an error, use `screen_as_completed`.
        """
        completed = self.screen_as_completed(requests, concurrency=concurrency, progress=progress, on_error=on_error)
        async with aclosing(completed):
            return in_order({done.index: done.result async for done in completed})

    @overload
    def screen_as_completed(
        self,
        requests: Iterable[ScreenRequest] | AsyncIterable[ScreenRequest],
        *,
        concurrency: int = ...,
        progress: Progress = ...,
        on_error: Literal["raise"] = ...,
    ) -> AsyncGenerator[Completed[ScreenRequest, Screening]]: ...

    @overload
    def screen_as_completed(
        self,
        requests: Iterable[ScreenRequest] | AsyncIterable[ScreenRequest],
        *,
        concurrency: int = ...,
        progress: Progress = ...,
        on_error: Literal["return"],
    ) -> AsyncGenerator[Completed[ScreenRequest, Screening | ScreeningClientError]]: ...

    def screen_as_completed(
        self,
        requests: Iterable[ScreenRequest] | AsyncIterable[ScreenRequest],
        *,
        concurrency: int = constants.CONCURRENCY,
        progress: Progress = False,
        on_error: OnError = "raise",
    ) -> AsyncGenerator[Any]:
        """Screen many products and yield each result with its request as soon as it is available.

        Leaving the loop cancels the running requests; use `contextlib.aclosing` to wait for that. An error that
        `requests` raises is raised here, after the results of the earlier requests.

        Args:
            requests, concurrency, progress: as in `screen_many`.
            on_error: `raise` yields all available results and then raises the first error; `return` yields an error in
                place of each failed result.
        """
        check_bulk(concurrency, on_error)
        return completed(self._screen, requests, concurrency, progress=progress, on_error=on_error)

    async def ready(self) -> bool:
        """Check once whether the service accepts requests. An unreachable service counts as not ready.

        Raises:
            StatusError: the service answers with a status that waiting does not change, such as 404.
            ClientStateError: the client is closed.
        """
        return await self._why_not_ready(constants.READY_TIMEOUT) is None

    async def wait_until_ready(self, timeout: float = 120.0) -> None:  # noqa: ASYNC109 - as its twin
        """Wait until the service accepts requests.

        Raises:
            TimedOut: the service is not ready within `timeout` seconds.
            StatusError: the service answers with a status that waiting does not change, such as 404.
            InputError: `timeout` is not a positive number.
        """
        end = time.monotonic() + checked_seconds(timeout, "timeout")
        while why := await self._why_not_ready(min(constants.READY_TIMEOUT, max(end - time.monotonic(), 0.1))):
            if time.monotonic() + constants.POLL_INTERVAL > end:
                raise TimedOut(f"{self._settings.address} was not ready within {timeout:g} s: {why}")
            await asyncio.sleep(constants.POLL_INTERVAL)

    async def close(self) -> None:
        """Close the connections. A client that was passed as `http_client` stays open."""
        if self._owns_connections:
            await self._connections.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient(base_url={self._settings.address!r})"

    async def _why_not_ready(self, seconds: float) -> str | None:
        """Check the readiness once, for at most this many seconds. Returns None if the service is ready."""
        http = await self._connections.current()
        deadline = Deadline(resolve_timeout(seconds, self._settings.timeout))
        try:
            return wire.why_not_ready(await self._exchange(wire.ready_request(http, self._settings), deadline))
        except (ConnectionFailed, TimedOut, UnexpectedAnswer) as error:
            return str(error)

    async def _call(
        self,
        read: Callable[[httpx.Response], Result],
        *,
        extra_headers: Mapping[str, str] | None = None,
        **arguments: Unpack[RequestArguments],
    ) -> Result:
        checked_headers(extra_headers, "extra_headers")
        client = self if extra_headers is None else self.with_options(default_headers=extra_headers)
        return await client._ask(ScreenRequest(**arguments), read)

    async def _screen(self, request: ScreenRequest, run: AsyncRun | None = None) -> Screening:
        check_kind(request)
        return await self._ask(request, wire.read_screening, run)

    async def _ask(
        self, request: ScreenRequest, read: Callable[[httpx.Response], Result], run: AsyncRun | None = None
    ) -> Result:
        """Perform one call: check the request, build it once, send it until it succeeds, and return the result."""
        deadline = Deadline(resolve_timeout(request.timeout, self._settings.timeout))
        http = await self._connections.current()
        # Pictures are read from disk in a thread, so that a slow file system does not block the other calls.
        body = await asyncio.to_thread(prepare, request)
        message = wire.screen_request(http, self._settings, body)
        retrying = async_retrying(self._settings.max_retries, deadline, run)
        attempt = self._attempt if run is None else run.paced(self._attempt)
        return await retrying(attempt, message, deadline, read)

    async def _perform(self, call: Call[Result]) -> Result:
        """One call of `/decisions`: build once → attempts → result."""
        deadline = Deadline(self._settings.timeout)
        message = wire.call_request(await self._connections.current(), self._settings, call)
        retrying = async_retrying(self._settings.max_retries, deadline, None)
        result: Result = await retrying(self._attempt, message, deadline, call.read, call.expected)
        return result

    async def _attempt(
        self,
        message: httpx.Request,
        deadline: Deadline,
        read: Callable[[httpx.Response], Result],
        expected: int = 200,
    ) -> Result:
        return read(wire.check_status(await self._exchange(message, deadline), expected))

    async def _exchange(self, message: httpx.Request, deadline: Deadline) -> httpx.Response:
        message.extensions["timeout"] = deadline.for_attempt()
        http = await self._connections.current()
        with wire.exchange(message):
            try:
                return await asyncio.wait_for(self._send(http, message), deadline.remaining)
            except asyncio.TimeoutError as error:  # noqa: UP041 - another class than TimeoutError in Python 3.10
                raise httpx.ReadTimeout("the time limit of the whole call has passed") from error

    async def _send(self, http: httpx.AsyncClient, message: httpx.Request) -> httpx.Response:
        # The response is streamed, because closing one whose body was not read drops its connection.
        response = await http.send(message, stream=True)
        try:
            wire.check_request_id(response, self._settings)
            await response.aread()
        finally:
            await response.aclose()
        return response
