"""Errors of the client.

ScreeningClientError
├── InputError                    refused here, before anything was sent
│   └── ConfigurationError        an environment variable that the client reads cannot be used
├── ClientStateError              the client is closed, or cannot be used in this process or event loop
├── ConnectionFailed              no connection, or it broke
├── TimedOut                      no answer in time
├── UnexpectedAnswer              a successful status, but the body is not what was asked for
│   └── MismatchedAnswer          the answer carries the id of another request
└── StatusError                   the service, or a proxy before it, answered with an error
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
    """Root of all errors of this package."""

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
        """Stable URN of the problem, `urn:screening:problem:…`; None when no problem document came."""
        self.title = title
        self.detail = detail
        self.request_id = request_id
        """What to quote to the operator: the service logs it."""
        self.retry_after = retry_after
        """Seconds that the service asked to wait, if it did."""
        self.attempts = 1
        """How often the request was sent."""

    @property
    def code(self) -> str | None:
        """The type without its prefix: `overloaded`, `image-unreadable`."""
        return self.type.removeprefix(PROBLEM_PREFIX) if self.type else None

    def __str__(self) -> str:
        facts = [f"{self.attempts} attempts"] if self.attempts > 1 else []
        facts += [f"request {self.request_id}"] if self.request_id else []
        return super().__str__() + (f" ({', '.join(facts)})" if facts else "")


class InputError(ScreeningClientError, ValueError):
    """An argument cannot be sent; the message names it. Nothing went over the network."""


class ConfigurationError(InputError):
    """An environment variable, such as a proxy's address, cannot be used. The message names it and says what to do."""


class ClientStateError(ScreeningClientError, RuntimeError):
    """The client cannot send: it is closed, or its `http_client` belongs to another process or event loop."""


class ConnectionFailed(ScreeningClientError):
    """The service could not be reached, or the connection broke before the whole answer came."""


class TimedOut(ScreeningClientError, TimeoutError):
    """The service did not answer within the client's own time-out."""


class UnexpectedAnswer(ScreeningClientError):
    """The body of a success is not what was asked for: another service at this address, or a newer contract."""


class MismatchedAnswer(UnexpectedAnswer):
    """The answer carries another request's `X-Request-Id`, so it may be about other pictures. It was not read."""


class StatusError(ScreeningClientError):
    """An answer with an error status."""

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
        """The whole problem document; empty when the body was something else."""

    @property
    def picture(self) -> str | None:
        """The picture at fault, `original` or `generated[1]`, where the service names one."""
        picture = self.problem.get("picture")
        return picture if isinstance(picture, str) else None


class BadRequest(StatusError):
    """400: the body is not what its content type claims."""


class Unauthenticated(StatusError):
    """401: the API key is missing or unknown. Set SCREENING_API_KEY or pass `api_key`."""


class Forbidden(StatusError):
    """403: the API key lacks the scope for this call."""


class NotFound(StatusError):
    """404: no such decision, or no such path. Is `base_url` the service's own address, without `/screen`?"""


class MethodNotAllowed(StatusError):
    """405: the path exists but does not take this method."""


class RequestTimeout(StatusError):
    """408: the body did not arrive in time."""


class Conflict(StatusError):
    """409: not in the present state of the service. A screening never gets it; a proxy may say so."""


class RequestTooLarge(StatusError):
    """413: the body, or one picture, is over the service's limit of bytes."""


class UnsupportedMediaType(StatusError):
    """415: the service does not take this content type."""


class InvalidRequest(StatusError):
    """422: a field or a picture was refused; `code` says in which way and `picture` names the picture."""


class Overloaded(StatusError):
    """429: the queue is full. Come back after `retry_after` seconds."""


class ServerError(StatusError):
    """500, or another 5xx: a fault on the other side. Report `request_id`."""


class Unavailable(ServerError):
    """503: starting, draining, or without its engine. Come back after `retry_after` seconds."""


class DeadlineExceeded(ServerError):
    """504: the service gave up on the request at its own deadline."""


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
    """The class for a status, also for statuses that only proxies send (502, 507)."""
    return CLASS_OF_STATUS.get(status) or (ServerError if 500 <= status < 600 else StatusError)
