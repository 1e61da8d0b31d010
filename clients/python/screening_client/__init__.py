"""Client of the screening service: which of four generated product pictures may be shown?

    from screening_client import Client

    with Client(base_url="http://localhost:8000") as client:
        screening = client.screen(original="original.jpg", generated=["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    print(screening.choice, screening.reasoning)

A call, in order of the modules: settings, pictures, request, wire, retries, result; bulk runs many of them.
"""

from screening_client.async_client import AsyncClient
from screening_client.client import Client
from screening_client.constants import VERSION as __version__  # noqa: N811
from screening_client.errors import (
    BadRequest,
    Conflict,
    ConnectionFailed,
    DeadlineExceeded,
    Forbidden,
    InputError,
    InvalidRequest,
    MethodNotAllowed,
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
from screening_client.request import Mode, ScreenRequest
from screening_client.result import AnswerWarning, CheckpointInfo, OptionVerdict, Screening, Timings, Usage
from screening_client.settings import ClientTimeout

__all__ = [
    "AnswerWarning",
    "AsyncClient",
    "BadRequest",
    "CheckpointInfo",
    "Client",
    "ClientTimeout",
    "Conflict",
    "ConnectionFailed",
    "DeadlineExceeded",
    "Forbidden",
    "InputError",
    "InvalidRequest",
    "MethodNotAllowed",
    "Mode",
    "NotFound",
    "OptionVerdict",
    "Overloaded",
    "PictureInput",
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
