"""Errors of the service and their HTTP form (RFC 9457 problem details).

ServiceError
├── MalformedRequest          the body is not valid multipart or JSON
├── Unauthenticated           the API key is missing or unknown
├── Forbidden                 the operator has not enabled this path
├── InsufficientScope         the API key is known, but may not use this path
├── CrossOrigin               a page of another origin sent the request
├── BodyTimeout               the body stopped arriving
├── UploadTooSlow             the body arrives more slowly than the minimum rate
├── RequestTooLarge           the body or one picture exceeds a byte limit
├── UnsupportedMediaType      the content type is neither multipart/form-data nor application/json
│   └── BodyEncoded           the body is compressed
├── InvalidRequest            a field is wrong or missing; the message names it
├── LocateUnsupported         the checkpoint cannot say where faults are
├── IdempotencyKeyReused      the key belongs to another request
├── PictureUrlRefused         the service may not fetch this URL
├── PictureFetchFailed        a picture could not be fetched from its URL
├── PictureRefused            one picture is not accepted; carries the `ImageError`
├── CheckpointRefused         the checkpoint is refused; the service keeps the one that it serves
├── SwapBusy                  another swap is running, or requests in flight did not finish; carries Retry-After
├── Overloaded                the queue is full; carries Retry-After
├── NotReady                  the service is starting, draining or without its engine; carries Retry-After
│   └── EngineLost            the engine crashed or hung, perhaps while it processed this request
├── DecisionsUnavailable      the decision store is unreachable, or required and full; carries Retry-After
├── DecisionNotFound          the decision does not exist
├── LeaseNotFound             the person has no such lease, or its task was erased
├── LeaseLost                 another person has the slot of this lease now
├── ReviewNotFound            the review does not exist, or belongs to another person
├── ReviewConflict            the review or export contradicts what is stored
├── DeadlineExceeded          there was no answer before the deadline
├── EngineFailed              the engine failed on this one request
└── ClientGone                the caller disconnected before the answer
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from screening.errors import ImageError, ImageShapeRefused, ImageTooLarge, ImageUnreadable, ImageUnsupported

TYPE_PREFIX = "urn:screening:problem:"
MEDIA_TYPE = "application/problem+json"


class ServiceError(Exception):
    """Base class of all errors of the service. The message tells the caller what is wrong and what to do."""

    retry_after: int | None = None
    """Value of the Retry-After header in whole seconds."""
    picture: str | None = None
    """Name of the picture or field at fault, as the request writes it, for example `generated[1]`."""


class MalformedRequest(ServiceError):
    """The body is not valid multipart or JSON."""


class Unauthenticated(ServiceError):
    """The service requires an API key, and the request carries none, an unknown one, or that of another reviewer."""


class Forbidden(ServiceError):
    """The operator has not enabled this path."""


class InsufficientScope(ServiceError):
    """The API key is known, but lacks the scope of this path."""

    def __init__(self, name: str, scope: str) -> None:
        super().__init__(
            f"The key {name!r} lacks the scope {scope!r}, which this path needs. Use another key, or ask the operator "
            "to add the scope to it."
        )


class CrossOrigin(ServiceError):
    """A request that authenticates by a cookie, or by its local address, does not come from a page of this service."""


class CheckpointRefused(ServiceError):
    """A checkpoint is refused, and the service keeps the one that it serves. The message says why."""


class SwapBusy(ServiceError):
    """The swap cannot start now: another swap is running, or requests in flight did not finish in time."""

    def __init__(self, why: str, retry_after: int = 5) -> None:
        super().__init__(f"{why} Try again in {retry_after} s.")
        self.retry_after = retry_after


class BodyTimeout(ServiceError):
    """The body stopped arriving. The next attempt may succeed."""


class UploadTooSlow(ServiceError):
    """The body arrives more slowly than the minimum rate. A retry over the same connection would be as slow."""


class RequestTooLarge(ServiceError):
    """The body or one picture exceeds a byte limit."""


class UnsupportedMediaType(ServiceError):
    """The content type of the body is neither multipart/form-data nor application/json."""


class BodyEncoded(UnsupportedMediaType):
    """The body is compressed (RFC 9110, section 15.5.16)."""


class InvalidRequest(ServiceError):
    """A field is wrong or missing."""

    def __init__(self, message: str, *, picture: str | None = None) -> None:
        super().__init__(message)
        self.picture = picture


class LocateUnsupported(ServiceError):
    """The request asks where the faults are, and the checkpoint was not trained to say so."""

    def __init__(self) -> None:
        super().__init__(
            "The checkpoint that is served cannot say where faults are. Send the request without locate, or ask the "
            "operator for a checkpoint that was trained with the recipe setting `locate`."
        )


class IdempotencyKeyReused(ServiceError):
    """The Idempotency-Key was used or is in use for another request."""

    def __init__(self, request: str = "request") -> None:
        super().__init__(f"This Idempotency-Key belongs to another {request}. Use a new key for each new {request}.")


class PictureUrlRefused(ServiceError):
    """The service may not fetch a picture's URL, because of its host, its form or its address."""

    def __init__(self, picture: str, why: str) -> None:
        super().__init__(f"{picture}: {why}")
        self.picture = picture


class PictureFetchFailed(ServiceError):
    """A picture could not be fetched from its URL."""

    def __init__(self, picture: str, why: str) -> None:
        super().__init__(f"{picture}: {why}")
        self.picture = picture


class PictureRefused(ServiceError):
    """One picture is not accepted; `cause` says why."""

    def __init__(self, picture: str | None, cause: ImageError) -> None:
        super().__init__(f"{picture}: {cause}" if picture else str(cause))
        self.picture = picture
        self.cause = cause


class Overloaded(ServiceError):
    """The queue is full. The service checks this before it reads the body."""

    def __init__(self, retry_after: int, why: str = "The queue is full.") -> None:
        super().__init__(f"{why} Send the request again in {retry_after} s.")
        self.retry_after = retry_after


class NotReady(ServiceError):
    """The service is starting, is draining, or has lost its engine."""

    def __init__(self, why: str, retry_after: int = 5) -> None:
        super().__init__(f"{why} Send the request again in {retry_after} s.")
        self.retry_after = retry_after


class EngineLost(NotReady):
    """The engine crashed or hung, perhaps while it processed this request."""

    def __init__(self, retry_after: int = 10) -> None:
        super().__init__("The engine crashed and is restarting.", retry_after)


class DecisionsUnavailable(ServiceError):
    """The decision store cannot be reached, or its queue is full and decisions are required."""

    retry_after = 5

    def __init__(self) -> None:
        super().__init__("Decisions cannot be stored or read now. Send the request again later.")


class DecisionNotFound(ServiceError):
    """There is no such decision: there never was, it has not been stored yet, or it was erased."""


class LeaseNotFound(ServiceError):
    """The person has no such lease, or its task was erased."""


class LeaseLost(ServiceError):
    """Another person has the slot of this lease now. A review that is sent all the same is kept."""


class ReviewNotFound(ServiceError):
    """There is no such review or picture: there never was, it was erased, or it belongs to another person."""


class ReviewConflict(ServiceError):
    """A review or an export contradicts what is stored. The message says how."""


class DeadlineExceeded(ServiceError):
    """There was no answer before the deadline."""


class EngineFailed(ServiceError):
    """The engine failed on this one request. The message is for the log and is not sent to the caller."""


class ClientGone(ServiceError):
    """The caller disconnected before the answer."""


@dataclass(frozen=True, slots=True)
class Problem:
    """The HTTP status, type and title for one class of errors."""

    status: int
    slug: str
    title: str

    @property
    def type(self) -> str:
        return TYPE_PREFIX + self.slug


INTERNAL = Problem(500, "internal", "The service failed internally")

PROBLEMS: dict[type[Exception], Problem] = {
    MalformedRequest: Problem(400, "malformed-request", "The request could not be read"),
    Unauthenticated: Problem(401, "unauthenticated", "A valid API key is needed"),
    Forbidden: Problem(403, "forbidden", "This path is disabled"),
    InsufficientScope: Problem(403, "insufficient-scope", "The API key may not use this path"),
    CrossOrigin: Problem(403, "cross-origin", "The request comes from another origin"),
    CheckpointRefused: Problem(409, "checkpoint-refused", "The checkpoint was refused"),
    SwapBusy: Problem(503, "swap-busy", "The checkpoint cannot be changed now"),
    BodyTimeout: Problem(408, "body-timeout", "The body did not arrive in time"),
    UploadTooSlow: Problem(408, "upload-too-slow", "The body arrives too slowly"),
    RequestTooLarge: Problem(413, "request-too-large", "The request is too large"),
    UnsupportedMediaType: Problem(415, "unsupported-media-type", "The content type is not supported"),
    BodyEncoded: Problem(415, "unsupported-media-type", "The content type is not supported"),
    InvalidRequest: Problem(422, "invalid-request", "The request is not valid"),
    LocateUnsupported: Problem(422, "locate-unsupported", "The checkpoint cannot say where faults are"),
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
    LeaseNotFound: Problem(404, "lease-not-found", "There is no such lease"),
    LeaseLost: Problem(409, "lease-lost", "Another person has this task now"),
    ReviewNotFound: Problem(404, "review-not-found", "There is no such review"),
    ReviewConflict: Problem(409, "review-conflict", "This contradicts what is stored"),
    DeadlineExceeded: Problem(504, "deadline-exceeded", "The deadline has passed"),
    EngineFailed: INTERNAL,
    # This answer reaches no client. Access logs show 499 for such a request, as nginx does.
    ClientGone: Problem(499, "client-gone", "The client disconnected"),
}
"""The HTTP form of each class. Every other exception is an internal failure and answered 500."""

MALFORMED = PROBLEMS[MalformedRequest]
NOT_READY = PROBLEMS[NotReady]
HEADER_TIMEOUT = Problem(408, "header-timeout", "The headers did not arrive in time")
NOT_FOUND = Problem(404, "not-found", "The path does not exist")
METHOD_NOT_ALLOWED = Problem(405, "method-not-allowed", "The path does not support this method")


def problem_of(error: Exception) -> Problem:
    """The HTTP form of an error."""
    if isinstance(error, PictureRefused):
        # Too many bytes make the request too large (413). Too many pixels make the picture invalid (422).
        if isinstance(error.cause, ImageTooLarge) and error.cause.unit == "bytes":
            return PROBLEMS[RequestTooLarge]
        return PROBLEMS.get(type(error.cause), INTERNAL)
    return PROBLEMS.get(type(error), INTERNAL)


def detail_of(error: Exception, problem: Problem) -> str:
    """The sentence for the caller. An internal failure reveals no details of the service."""
    return "The failure was logged. Report it with the request id." if problem is INTERNAL else str(error)


def problem_body(problem: Problem, detail: str, *, path: str, request_id: str, picture: str | None = None) -> bytes:
    """Problem details as JSON (RFC 9457), in ASCII: text from the caller in `detail` may not be encodable as UTF-8."""
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
