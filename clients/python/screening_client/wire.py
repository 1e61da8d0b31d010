"""Between this package's types and httpx: requests out, answers and failures in."""

from __future__ import annotations

import re
from typing import Any

import httpx

from screening_client.errors import (
    PROBLEM_PREFIX,
    ConnectionFailed,
    ScreeningClientError,
    StatusError,
    TimedOut,
    UnexpectedAnswer,
    class_of,
)
from screening_client.request import Body
from screening_client.result import Screening, parse_screening
from screening_client.retries import parse_retry_after
from screening_client.settings import Settings


def screen_request(http: httpx.Client | httpx.AsyncClient, settings: Settings, body: Body) -> httpx.Request:
    """`POST /screen` as multipart, encoded now, so that every attempt sends the very same bytes."""
    headers = settings.headers | body.headers | {"Accept": "application/json"}
    url = settings.url("/screen")
    request = http.build_request("POST", url, headers=headers, files=body.files, data=body.fields)
    request.read()
    return request


def ready_request(http: httpx.Client | httpx.AsyncClient, settings: Settings, timeout: float) -> httpx.Request:
    """`GET /readyz`."""
    return http.build_request("GET", settings.url("/readyz"), headers=settings.headers, timeout=timeout)


def read_screening(response: httpx.Response) -> Screening:
    """A 200 as a result.

    Raises:
        StatusError: any other status.
        UnexpectedAnswer: a 200 that is not a screening.
    """
    if response.status_code != 200:
        raise status_error(response)
    request_id = _request_id(response)
    try:
        body = response.json()
    except ValueError as error:
        kind = response.headers.get("Content-Type", "no content type")
        message = f"{response.request.url} answered 200 with {kind} instead of JSON. Is base_url the service's address?"
        raise UnexpectedAnswer(message, request_id=request_id) from error
    return parse_screening(body, request_id=request_id)


def read_readiness(response: httpx.Response) -> bool:
    """200 is ready, 429 and 5xx are not yet.

    Raises:
        StatusError: anything else, since waiting will not help: wrong address, wrong key.
    """
    if response.status_code == 200:
        return True
    if response.status_code == 429 or response.is_server_error:
        return False
    raise status_error(response)


def status_error(response: httpx.Response) -> StatusError:
    """The error for a status, with what its problem document (RFC 9457) says, if its body is one."""
    problem = _problem(response)
    kind, title, detail = (_text(problem, name) for name in ("type", "title", "detail"))
    code = f" {kind.removeprefix(PROBLEM_PREFIX)}" if kind else ""
    said = ": ".join(part.rstrip(".") for part in (title, detail) if part) or _excerpt(response)
    return class_of(response.status_code)(
        f"{response.status_code}{code}: {said}",
        status=response.status_code,
        problem_type=kind,
        title=title,
        detail=detail,
        request_id=_text(problem, "request_id") or _request_id(response),
        retry_after=parse_retry_after(response.headers),
        problem=problem,
    )


def transport_error(error: httpx.RequestError, request: httpx.Request) -> ScreeningClientError:
    """httpx's failure to get an answer as ours."""
    origin = str(request.url.copy_with(path="/", query=None)).rstrip("/")
    request_id = request.headers.get("X-Request-Id")
    reason = str(error) or type(error).__name__
    if isinstance(error, httpx.ConnectTimeout):
        return TimedOut(f"{origin} did not accept a connection in time", request_id=request_id)
    if isinstance(error, httpx.TimeoutException):
        return TimedOut(f"{origin} did not answer in time ({type(error).__name__})", request_id=request_id)
    if isinstance(error, httpx.ConnectError):
        return ConnectionFailed(f"cannot connect to {origin}: {reason}. Is it running there?", request_id=request_id)
    if isinstance(error, httpx.TransportError):
        return ConnectionFailed(f"the connection to {origin} broke: {reason}", request_id=request_id)
    return UnexpectedAnswer(f"the answer of {origin} cannot be read: {reason}", request_id=request_id)


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
    """What a proxy's page says, without its markup."""
    if response.has_redirect_location:
        return f"redirect to {response.headers['Location']}; set base_url to the final address"
    words = " ".join(re.sub(r"<[^>]*>", " ", response.text[:4000]).split())
    return words[:200] or response.reason_phrase or "no body"


def _request_id(response: httpx.Response) -> str | None:
    answered: str | None = response.headers.get("X-Request-Id")
    return answered or response.request.headers.get("X-Request-Id")
