"""Client of the screening service: which of four generated product pictures may be shown?

    from screening_client import Client

    with Client(base_url="http://localhost:8000") as client:
        screening = client.screen(original="original.jpg", generated=["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    print(screening.choice, screening.reasoning)

A call passes through these modules in order: settings, network, connections, pictures, request, wire, retries, result.
`bulk` runs many calls. `testing` provides a fake service.
"""

from screening_client.async_client import AsyncClient
from screening_client.bulk import Completed
from screening_client.client import Client
from screening_client.constants import VERSION as __version__  # noqa: N811
from screening_client.decision_results import Decision, DecisionPicture, DecisionSummary, Feedback, FeedbackKind
from screening_client.errors import (
    BadRequest,
    ClientStateError,
    ConfigurationError,
    Conflict,
    ConnectionFailed,
    DeadlineExceeded,
    Forbidden,
    InputError,
    InvalidRequest,
    MethodNotAllowed,
    MismatchedAnswer,
    NotFound,
    Overloaded,
    RequestTimeout,
    RequestTooLarge,
    ScreeningClientError,
    ServerError,
    StatusError,
    TimedOut,
    Unauthenticated,
    Unavailable,
    UnexpectedAnswer,
    UnsupportedMediaType,
)
from screening_client.pictures import PictureInput
from screening_client.raw import RawResponse
from screening_client.request import Mode, ScreenRequest
from screening_client.result import (
    AnswerWarning,
    Box,
    CheckpointInfo,
    Choice,
    Issue,
    KnownIssue,
    Option,
    Options,
    OptionVerdict,
    Outcome,
    Region,
    Screening,
    Timings,
    Usage,
)
from screening_client.settings import ClientTimeout

__all__ = [
    "AnswerWarning",
    "AsyncClient",
    "BadRequest",
    "Box",
    "CheckpointInfo",
    "Choice",
    "Client",
    "ClientStateError",
    "ClientTimeout",
    "Completed",
    "ConfigurationError",
    "Conflict",
    "ConnectionFailed",
    "DeadlineExceeded",
    "Decision",
    "DecisionPicture",
    "DecisionSummary",
    "Feedback",
    "FeedbackKind",
    "Forbidden",
    "InputError",
    "InvalidRequest",
    "Issue",
    "KnownIssue",
    "MethodNotAllowed",
    "MismatchedAnswer",
    "Mode",
    "NotFound",
    "Option",
    "OptionVerdict",
    "Options",
    "Outcome",
    "Overloaded",
    "PictureInput",
    "RawResponse",
    "Region",
    "RequestTimeout",
    "RequestTooLarge",
    "ScreenRequest",
    "Screening",
    "ScreeningClientError",
    "ServerError",
    "StatusError",
    "TimedOut",
    "Timings",
    "Unauthenticated",
    "Unavailable",
    "UnexpectedAnswer",
    "UnsupportedMediaType",
    "Usage",
    "__version__",
]
