"""Errors of the service and their HTTP form (RFC 9457 problem details).

ServiceError
├── MalformedRequest          the body is not the multipart or JSON it claims to be
├── Unauthenticated           no API key, or an unknown one
├── Forbidden                 the operator has not switched this path on
├── BodyTimeout               the body stopped arriving
├── UploadTooSlow             the body arrives, but slower than the minimum rate
├── RequestTooLarge           the body or one picture is over the byte limits
├── UnsupportedMediaType      neither multipart/form-data nor application/json
│   └── BodyEncoded           the body is compressed
├── InvalidRequest            a field is wrong or missing; the message names it
├── IdempotencyKeyReused      the key came with another request before
├── PictureUrlRefused         this URL may not be fetched
├── PictureFetchFailed        the picture did not come from its URL
├── PictureRefused            one picture cannot be taken in; carries the contract's ImageError
├── CheckpointRefused         the checkpoint is not taken up; what was served is served on
├── SwapBusy                  another checkpoint is being taken up, or requests in flight did not end; Retry-After
├── Overloaded                the queue is full; carries Retry-After
├── NotReady                  starting, draining, or the engine is lost; carries Retry-After
│   └── EngineLost            the engine died with this request in it
├── DecisionsUnavailable      the decision store cannot be reached, or is full and required; Retry-After
├── DecisionNotFound          there is no such decision
├── DeadlineExceeded          no answer inside the deadline
├── EngineFailed              the engine failed this one request
└── ClientGone                the caller hung up; nobody reads the answer
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from screening.errors import ImageError, ImageShapeRefused, ImageTooLarge, ImageUnreadable, ImageUnsupported

TYPE_PREFIX = "urn:screening:problem:"
MEDIA_TYPE = "application/problem+json"


class ServiceError(Exception):
    """Root. The message is a sentence for the caller: what is wrong and what to do."""

    retry_after: int | None = None
    """Whole seconds for the Retry-After header."""
    picture: str | None = None
    """The picture or field concerned, as the request names it: `generated[1]`."""


class MalformedRequest(ServiceError):
    """The body is not the multipart or JSON it claims to be."""


class Unauthenticated(ServiceError):
    """API keys are set and the request carries none, or an unknown one."""


class Forbidden(ServiceError):
    """The operator has not switched this path on."""


class CheckpointRefused(ServiceError):
    """A checkpoint is not taken up; what was served is served on. The message says why."""


class SwapBusy(ServiceError):
    """It cannot be done now: another swap is under way, or requests in flight did not end in time."""

    def __init__(self, why: str, retry_after: int = 5) -> None:
        super().__init__(f"{why} Try again in {retry_after} s.")
        self.retry_after = retry_after


class BodyTimeout(ServiceError):
    """The body stopped arriving. It may arrive next time."""


class UploadTooSlow(ServiceError):
    """The body arrives, but slower than the minimum rate. On the same connection the next attempt would be as slow."""


class RequestTooLarge(ServiceError):
    """The body or one picture is over the byte limits."""


class UnsupportedMediaType(ServiceError):
    """The body's content type is neither multipart/form-data nor application/json."""


class BodyEncoded(UnsupportedMediaType):
    """The body is compressed (RFC 9110, section 15.5.16)."""


class InvalidRequest(ServiceError):
    """A field is wrong or missing."""

    def __init__(self, message: str, *, picture: str | None = None) -> None:
        super().__init__(message)
        self.picture = picture


class IdempotencyKeyReused(ServiceError):
    """The Idempotency-Key was used, or is in use, for another request."""

    def __init__(self, request: str = "request") -> None:
        super().__init__(f"This Idempotency-Key belongs to another {request}. Use a new key for each new {request}.")


class PictureUrlRefused(ServiceError):
    """A picture's URL may not be fetched: by the operator's list of hosts, its form, or its address."""

    def __init__(self, picture: str, why: str) -> None:
        super().__init__(f"{picture}: {why}")
        self.picture = picture


class PictureFetchFailed(ServiceError):
    """A picture did not come from its URL."""

    def __init__(self, picture: str, why: str) -> None:
        super().__init__(f"{picture}: {why}")
        self.picture = picture


class PictureRefused(ServiceError):
    """One picture cannot be taken in; `cause` says in which way."""

    def __init__(self, picture: str | None, cause: ImageError) -> None:
        super().__init__(f"{picture}: {cause}" if picture else str(cause))
        self.picture = picture
        self.cause = cause


class Overloaded(ServiceError):
    """The queue is full; counted before the body is read."""

    def __init__(self, retry_after: int, why: str = "The queue is full.") -> None:
        super().__init__(f"{why} Send the request again in {retry_after} s.")
        self.retry_after = retry_after


class NotReady(ServiceError):
    """The service is starting, draining, or has lost its engine."""

    def __init__(self, why: str, retry_after: int = 5) -> None:
        super().__init__(f"{why} Send the request again in {retry_after} s.")
        self.retry_after = retry_after


class EngineLost(NotReady):
    """The engine died or hung, perhaps with this request in it."""

    def __init__(self, retry_after: int = 10) -> None:
        super().__init__("The engine is lost and is being built anew.", retry_after)


class DecisionsUnavailable(ServiceError):
    """The decision store cannot be reached, or its queue is full and decisions are required."""

    retry_after = 5

    def __init__(self) -> None:
        super().__init__("Decisions cannot be stored or read now. Send the request again later.")


class DecisionNotFound(ServiceError):
    """There is no such decision: there never was, it has not been stored yet, or it was erased."""


class DeadlineExceeded(ServiceError):
    """No answer inside the deadline."""


class EngineFailed(ServiceError):
    """The engine failed this one request. The message is for the log, not for the caller."""


class ClientGone(ServiceError):
    """The caller hung up."""


@dataclass(frozen=True, slots=True)
class Problem:
    """The HTTP form of one class of errors."""

    status: int
    slug: str
    title: str

    @property
    def type(self) -> str:
        return TYPE_PREFIX + self.slug


INTERNAL = Problem(500, "internal", "A fault of the service")

PROBLEMS: dict[type[Exception], Problem] = {
    MalformedRequest: Problem(400, "malformed-request", "The request could not be read"),
    Unauthenticated: Problem(401, "unauthenticated", "A valid API key is needed"),
    Forbidden: Problem(403, "forbidden", "This path is switched off"),
    CheckpointRefused: Problem(409, "checkpoint-refused", "The checkpoint was refused"),
    SwapBusy: Problem(503, "swap-busy", "The checkpoint cannot be changed now"),
    BodyTimeout: Problem(408, "body-timeout", "The body did not arrive in time"),
    UploadTooSlow: Problem(408, "upload-too-slow", "The body arrives too slowly"),
    RequestTooLarge: Problem(413, "request-too-large", "The request is too large"),
    UnsupportedMediaType: Problem(415, "unsupported-media-type", "The content type is not supported"),
    BodyEncoded: Problem(415, "unsupported-media-type", "The content type is not supported"),
    InvalidRequest: Problem(422, "invalid-request", "The request is not valid"),
    IdempotencyKeyReused: Problem(422, "idempotency-key-reused", "The idempotency key belongs to another request"),
    PictureUrlRefused: Problem(422, "picture-url-refused", "A picture's URL may not be fetched"),
    PictureFetchFailed: Problem(422, "picture-fetch-failed", "A picture could not be fetched from its URL"),
    ImageUnsupported: Problem(422, "image-unsupported", "A picture has an unsupported format"),
    ImageUnreadable: Problem(422, "image-unreadable", "A picture could not be read"),
    ImageShapeRefused: Problem(422, "image-shape", "A picture is too small or too narrow"),
    ImageTooLarge: Problem(422, "image-too-large", "A picture has too many pixels"),
    Overloaded: Problem(429, "overloaded", "The service is overloaded"),
    NotReady: Problem(503, "not-ready", "The service is not ready"),
    EngineLost: Problem(503, "not-ready", "The service is not ready"),
    DecisionsUnavailable: Problem(503, "decisions-unavailable", "The decision store is not available"),
    DecisionNotFound: Problem(404, "decision-not-found", "There is no such decision"),
    DeadlineExceeded: Problem(504, "deadline-exceeded", "The deadline has passed"),
    EngineFailed: INTERNAL,
    # Nobody reads this answer; 499 is what access logs call it, after nginx.
    ClientGone: Problem(499, "client-gone", "The client hung up"),
}
"""Class → HTTP. An error that is not listed is a fault of ours: 500."""

MALFORMED = PROBLEMS[MalformedRequest]
NOT_READY = PROBLEMS[NotReady]
HEADER_TIMEOUT = Problem(408, "header-timeout", "The headers did not arrive in time")
NOT_FOUND = Problem(404, "not-found", "There is no such path")
METHOD_NOT_ALLOWED = Problem(405, "method-not-allowed", "The path has no such method")


def problem_of(error: Exception) -> Problem:
    """The HTTP form of an error."""
    if isinstance(error, PictureRefused):
        # Bytes are the request's size (413); pixels are a property of the picture (422).
        if isinstance(error.cause, ImageTooLarge) and error.cause.unit == "bytes":
            return PROBLEMS[RequestTooLarge]
        return PROBLEMS.get(type(error.cause), INTERNAL)
    return PROBLEMS.get(type(error), INTERNAL)


def detail_of(error: Exception, problem: Problem) -> str:
    """The sentence for the caller. Faults of ours say nothing about our insides."""
    return "The fault was logged. Report it with the request id." if problem is INTERNAL else str(error)


def problem_body(problem: Problem, detail: str, *, path: str, request_id: str, picture: str | None = None) -> bytes:
    """RFC 9457 JSON. ASCII only: a caller's text in `detail` may hold what UTF-8 cannot encode."""
    body: dict[str, Any] = {
        "type": problem.type,
        "title": problem.title,
        "status": problem.status,
        "detail": detail,
        "instance": path,
        "request_id": request_id,
    }
    if picture is not None:
        body["picture"] = picture
    return json.dumps(body).encode("ascii")
