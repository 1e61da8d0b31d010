"""The errors that the client raises.

ScreeningClientError
├── InputError                    an argument is not valid; nothing was sent
│   └── ConfigurationError        an environment variable that the client reads is not valid
├── ClientStateError              the client is closed, or cannot be used in this process or event loop
├── ConnectionFailed              the connection could not be opened, or it broke
├── TimedOut                      there was no answer in time
├── UnexpectedAnswer              the status is a success, but the body is not the expected answer
│   └── MismatchedAnswer          the answer carries the id of another request
└── StatusError                   the service, or a proxy in front of it, answered with an error
    ├── BadRequest            400
    ├── Unauthenticated       401
    ├── Forbidden             403
    ├── NotFound              404
    ├── MethodNotAllowed      405
    ├── RequestTimeout        408
    ├── Conflict              409
    ├── RequestTooLarge       413
    ├── UnsupportedMediaType  415
    ├── InvalidRequest        422
    ├── Overloaded            429
    └── ServerError           500 and every other 5xx
        ├── Unavailable       503
        └── DeadlineExceeded  504
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

PROBLEM_PREFIX = "urn:screening:problem:"


class ScreeningClientError(Exception):
    """Base class of all errors of this package."""

    def __init__(
        self,
        message: str,
        *,
        problem_type: str | None = None,
        title: str | None = None,
        detail: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.type = problem_type
        """Stable URN of the problem, `urn:screening:problem:…`; None without a problem document."""
        self.title = title
        self.detail = detail
        self.request_id = request_id
        """Id of the request, which the service logs. Quote it to the operator."""
        self.retry_after = retry_after
        """Number of seconds that the service asked to wait; None if it did not."""
        self.attempts = 1
        """Number of times that the request was sent."""

    @property
    def code(self) -> str | None:
        """The type without its prefix: `overloaded`, `image-unreadable`."""
        return self.type.removeprefix(PROBLEM_PREFIX) if self.type else None

    def __str__(self) -> str:
        facts = [f"{self.attempts} attempts"] if self.attempts > 1 else []
        facts += [f"request {self.request_id}"] if self.request_id else []
        return super().__str__() + (f" ({', '.join(facts)})" if facts else "")


class InputError(ScreeningClientError, ValueError):
    """An argument is not valid. The message names it. Nothing was sent over the network."""


class ConfigurationError(InputError):
    """An environment variable, such as a proxy's address, is not valid. The message names it and says what to do."""


class ClientStateError(ScreeningClientError, RuntimeError):
    """The client cannot send: it is closed, or its `http_client` belongs to another process or event loop."""


class ConnectionFailed(ScreeningClientError):
    """The service is unreachable, or the connection broke before the answer was complete."""


class TimedOut(ScreeningClientError, TimeoutError):
    """The service did not answer within the client's timeout."""


class UnexpectedAnswer(ScreeningClientError):
    """The body of a success is not the expected one. The address may be wrong, or the service may be newer."""


class MismatchedAnswer(UnexpectedAnswer):
    """The answer carries the `X-Request-Id` of another request, so it may be about other pictures. It was not used."""


class StatusError(ScreeningClientError):
    """The service answered with an error status."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        problem_type: str | None = None,
        title: str | None = None,
        detail: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        problem: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        super().__init__(
            message,
            problem_type=problem_type,
            title=title,
            detail=detail,
            request_id=request_id,
            retry_after=retry_after,
        )
        self.status = status
        self.problem = dict(problem)
        """The complete problem document; empty if the body was not one."""

    @property
    def picture(self) -> str | None:
        """Name of the picture at fault, such as `original` or `generated[1]`; None if the service names none."""
        picture = self.problem.get("picture")
        return picture if isinstance(picture, str) else None


class BadRequest(StatusError):
    """400: the body or a header of the request is malformed."""


class Unauthenticated(StatusError):
    """401: the API key is missing or unknown. Set SCREENING_API_KEY or pass `api_key`."""


class Forbidden(StatusError):
    """403: the API key lacks a scope (`code` is `insufficient-scope`), or the operator has not enabled this path."""


class NotFound(StatusError):
    """404: there is no such decision or path. Check that `base_url` is the service's address without `/screen`."""


class MethodNotAllowed(StatusError):
    """405: the path does not support this method."""


class RequestTimeout(StatusError):
    """408: the body did not arrive in time."""


class Conflict(StatusError):
    """409: the request conflicts with the state of the service. A proxy may send it; a screening never causes it."""


class RequestTooLarge(StatusError):
    """413: the body or one picture exceeds a byte limit of the service."""


class UnsupportedMediaType(StatusError):
    """415: the service does not accept this content type."""


class InvalidRequest(StatusError):
    """422: a field or a picture is not valid. `code` says why, and `picture` names the picture."""


class Overloaded(StatusError):
    """429: the queue is full. Retry after `retry_after` seconds."""


class ServerError(StatusError):
    """500 or another 5xx: the service or a proxy failed. Report `request_id`."""


class Unavailable(ServerError):
    """503: the service is starting, is draining or has lost its engine. Retry after `retry_after` seconds."""


class DeadlineExceeded(ServerError):
    """504: the service did not finish the request before its deadline."""


CLASS_OF_STATUS: Mapping[int, type[StatusError]] = MappingProxyType(
    {
        400: BadRequest,
        401: Unauthenticated,
        403: Forbidden,
        404: NotFound,
        405: MethodNotAllowed,
        408: RequestTimeout,
        409: Conflict,
        413: RequestTooLarge,
        415: UnsupportedMediaType,
        422: InvalidRequest,
        429: Overloaded,
        500: ServerError,
        503: Unavailable,
        504: DeadlineExceeded,
    }
)


def class_of(status: int) -> type[StatusError]:
    """Return the error class for a status, including statuses that only proxies send (502, 507)."""
    return CLASS_OF_STATUS.get(status) or (ServerError if 500 <= status < 600 else StatusError)
