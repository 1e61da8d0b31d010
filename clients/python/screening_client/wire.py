"""Translates between the types of this package and httpx: requests, answers and failures."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx

from screening_client import log
from screening_client.errors import (
    PROBLEM_PREFIX,
    ClientStateError,
    ConnectionFailed,
    MismatchedAnswer,
    ScreeningClientError,
    StatusError,
    TimedOut,
    UnexpectedAnswer,
    class_of,
)
from screening_client.request import Body
from screening_client.result import Screening, parse_screening
from screening_client.retries import parse_retry_after
from screening_client.settings import Deadline, Settings
from screening_client.trace_context import trace_headers

if TYPE_CHECKING:
    from screening_client.decision_calls import Call

_PROBLEM_TYPE = "application/problem+json"
_PIECE = 1 << 16
_PROXY = "screening_client.proxy"


def screen_request(http: httpx.Client | httpx.AsyncClient, settings: Settings, body: Body) -> httpx.Request:
    """Build `POST /screen` as multipart. It is encoded once, so that every attempt sends the same bytes."""
    headers = settings.headers
    headers.update({**trace_headers(), **body.headers, "Accept": "application/json"})
    url = settings.url("/screen")
    request = http.build_request(
        "POST", url, headers=headers, files=body.files, data=body.fields, extensions=_notes(settings)
    )
    request.read()
    return request


def call_request(http: httpx.Client | httpx.AsyncClient, settings: Settings, call: Call[Any]) -> httpx.Request:
    """Build a request to `/decisions`."""
    headers = settings.headers
    headers.update({"X-Request-Id": f"req_{uuid.uuid4().hex}", **call.headers})
    url = httpx.URL(settings.url(call.path)).copy_merge_params(dict(call.parameters))
    return http.build_request(call.method, url, headers=headers, json=call.body, extensions=_notes(settings))


def ready_request(http: httpx.Client | httpx.AsyncClient, settings: Settings) -> httpx.Request:
    """Build `GET /readyz`."""
    headers = settings.headers
    headers["X-Request-Id"] = f"req_{uuid.uuid4().hex}"
    return http.build_request("GET", settings.url("/readyz"), headers=headers, extensions=_notes(settings))


def _notes(settings: Settings) -> dict[str, Any]:
    """What the messages about a request need to know. httpx passes it on and ignores it."""
    return {_PROXY: settings.proxy}


@contextmanager
def exchange(request: httpx.Request) -> Iterator[None]:
    """Log an exchange and translate the errors of httpx. The block sends the request and receives the answer.

    Raises:
        ConnectionFailed, TimedOut, UnexpectedAnswer: see `transport_error`.
        ClientStateError: the httpx client is closed or belongs to another event loop.
    """
    log.sending(request)
    try:
        yield
    except httpx.RequestError as error:
        failure = transport_error(error, request)
        log.failed(request, failure)
        raise failure from error
    except RuntimeError as error:
        # httpx and asyncio have no classes for these errors. Another thread can close the client at any time.
        if not any(words in str(error).lower() for words in ("client has been closed", "event loop", "different loop")):
            raise
        raise ClientStateError(
            f"the client cannot send: {error}. Close it only after its last use. An httpx.AsyncClient passed as "
            "http_client works in one event loop only; pass a function that creates one to use several event loops"
        ) from error


def limit_upload(request: httpx.Request, deadline: Deadline) -> None:
    """Apply the deadline of the call to the upload of `Client`, because httpx's timeouts restart with every chunk.

    The time limit for the headers of the answer becomes what is left of the call when the upload ends.
    """
    if deadline.remaining is not None:
        request.stream = _Limited(_upload(request, request.read(), deadline), deadline, httpx.WriteTimeout)


def limit_download(request: httpx.Request, response: httpx.Response, deadline: Deadline) -> None:
    """Apply the deadline of the call to the body of the answer, as `limit_upload` does for the request."""
    if deadline.remaining is not None and isinstance(response.stream, httpx.SyncByteStream):
        _shorten_timeouts(request, deadline)
        response.stream = _Limited(response.stream, deadline, httpx.ReadTimeout)


def _upload(request: httpx.Request, body: bytes, deadline: Deadline) -> Iterator[bytes]:
    for start in range(0, len(body), _PIECE):
        yield body[start : start + _PIECE]
    _shorten_timeouts(request, deadline)


def _shorten_timeouts(request: httpx.Request, deadline: Deadline) -> None:
    """Limit the next phase to what is left of the call. httpcore reads the timeouts at the start of each."""
    request.extensions["timeout"].update(deadline.for_attempt())


class _Limited(httpx.SyncByteStream):
    """A stream that fails once the deadline of the call has passed."""

    def __init__(
        self, pieces: Iterator[bytes] | httpx.SyncByteStream, deadline: Deadline, error: type[httpx.TimeoutException]
    ) -> None:
        self._pieces, self._deadline, self._error = pieces, deadline, error

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            if (self._deadline.remaining or 0) <= 0:
                raise self._error("the time limit of the whole call has passed")
            yield piece

    def close(self) -> None:
        if isinstance(self._pieces, httpx.SyncByteStream):
            self._pieces.close()


def check_request_id(response: httpx.Response, settings: Settings) -> None:
    """Refuse an answer to another request before reading its body.

    Only answers of the service itself are checked, because a proxy that answers in its place uses its own request ids.

    Raises:
        MismatchedAnswer: the answer carries the id of another request.
    """
    sent, named = response.request.headers.get("X-Request-Id"), _named_ids(response)
    from_service = response.is_success or response.headers.get("Content-Type", "").startswith(_PROBLEM_TYPE)
    if settings.check_request_id and from_service and named and sent not in named:
        raise MismatchedAnswer(
            f"{log.address(response.request.url)} answered request {named[0][:128]} instead of {sent}. Two programs "
            "may share a connection, or a proxy may mix up answers. The answer was not used. If a proxy replaces "
            "X-Request-Id, configure it to pass the header on, or create the client with check_request_id=False",
            request_id=sent,
        )


def check_status(response: httpx.Response, expected: int = 200) -> httpx.Response:
    """
    Raises:
        StatusError: the status is not the expected one.
    """
    log.received(response)
    if response.status_code != expected:
        raise status_error(response)
    return response


def read_screening(response: httpx.Response) -> Screening:
    """Parse the body of a successful answer.

    Raises:
        UnexpectedAnswer: the body is not a screening.
    """
    screening = parse_screening(json_of(response), request_id=id_of(response))
    log.screened(screening)
    return screening


def json_of(response: httpx.Response) -> object:
    """Parse the body of a successful answer.

    Raises:
        UnexpectedAnswer: the body is not JSON.
    """
    try:
        body: object = response.json()
    except ValueError as error:
        kind = response.headers.get("Content-Type", "no content type")
        url, status = log.address(response.request.url), response.status_code
        message = f"{url} answered {status} with {kind} instead of JSON. Check that base_url is the service's address."
        message += _proxy_hint(response.request)
        raise UnexpectedAnswer(message, request_id=id_of(response)) from error
    return body


def why_not_ready(response: httpx.Response) -> str | None:
    """Interpret the readiness probe: 200 means ready, for which this returns None, and 429 and 5xx mean not ready yet.

    Raises:
        StatusError: any other status, such as that of a wrong address, which waiting does not change.
    """
    if response.status_code == 200:
        return None
    error = status_error(response)
    if response.status_code == 429 or response.is_server_error:
        return str(error)
    raise error


def status_error(response: httpx.Response) -> StatusError:
    """Build the error for a status, with the contents of its problem document (RFC 9457) if it has one."""
    problem = _problem(response)
    kind, title, detail = (_text(problem, name) for name in ("type", "title", "detail"))
    code = f" {kind.removeprefix(PROBLEM_PREFIX)}" if kind else ""
    said = ": ".join(part.rstrip(".") for part in (title, detail) if part) or _excerpt(response)
    if response.status_code == 404 and kind in (None, f"{PROBLEM_PREFIX}not-found"):
        said += ". Check that base_url is the service's address without /screen"
    if kind is None and (hint := _proxy_hint(response.request)):
        said += f".{hint}"
    return class_of(response.status_code)(
        f"{response.status_code}{code}: {said}",
        status=response.status_code,
        problem_type=kind,
        title=title,
        detail=detail,
        request_id=_text(problem, "request_id") or id_of(response),
        retry_after=parse_retry_after(response.headers),
        problem=problem,
    )


def transport_error(error: httpx.RequestError, request: httpx.Request) -> ScreeningClientError:
    """Translate an error of httpx into one of this package."""
    origin = log.address(request.url.copy_with(path="/", query=None)).rstrip("/")
    through_proxy = _proxy_hint(request)
    request_id = request.headers.get("X-Request-Id")
    reason = str(error) or type(error).__name__
    if isinstance(error, httpx.ConnectTimeout):
        return TimedOut(f"{origin} did not accept a connection in time.{through_proxy}", request_id=request_id)
    if isinstance(error, httpx.TimeoutException):
        hint = "Raise the timeout if the service is only slow."
        message = f"{origin} did not answer in time ({type(error).__name__}). {hint}{through_proxy}"
        return TimedOut(message, request_id=request_id)
    if isinstance(error, httpx.ConnectError):
        hint = "Check that the service is running at this address."
        if "CERTIFICATE_VERIFY_FAILED" in reason:
            hint = "Set SSL_CERT_FILE to the certificate of the authority that signed the service's certificate."
        elif "WRONG_VERSION_NUMBER" in reason:
            hint = "This port does not use TLS: write http:// if the service has no certificate."
        return ConnectionFailed(f"cannot connect to {origin}: {reason}. {hint}{through_proxy}", request_id=request_id)
    if isinstance(error, httpx.TransportError):
        return ConnectionFailed(f"the connection to {origin} broke: {reason}.{through_proxy}", request_id=request_id)
    return UnexpectedAnswer(f"the answer of {origin} cannot be read: {reason}", request_id=request_id)


def _proxy_hint(request: httpx.Request) -> str:
    """Return a sentence about the proxy that the environment names, with a space before it; "" if there is none."""
    proxy, host = request.extensions.get(_PROXY), request.url.host
    return f" The request went through the proxy {proxy}: check it, or add {host} to NO_PROXY." if proxy else ""


def _problem(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _text(problem: dict[str, Any], name: str) -> str | None:
    value = problem.get(name)
    return value if isinstance(value, str) and value else None


def _excerpt(response: httpx.Response) -> str:
    """Return the beginning of the text of a proxy's page, without markup."""
    if response.has_redirect_location:
        return f"the answer redirects to {response.headers['Location']}; set base_url to the final address"
    words = " ".join(re.sub(r"<[^>]*>", " ", response.text[:4000]).split())
    return words[:200] or response.reason_phrase or "no body"


def id_of(response: httpx.Response) -> str | None:
    """Return the request id that was sent, or another one if the answer carries only others."""
    sent: str | None = response.request.headers.get("X-Request-Id")
    named = _named_ids(response)
    return named[0] if named and sent not in named else sent


def _named_ids(response: httpx.Response) -> list[str]:
    """Return the request ids of an answer: the one that the service echoes, and those that proxies add."""
    ids = response.headers.get_list("X-Request-Id", split_commas=True)
    return [each.strip() for each in ids if each.strip()]
