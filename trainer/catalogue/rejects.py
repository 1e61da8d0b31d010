"""Why a record of the input has no answer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from screening.errors import UserError


class CatalogueError(UserError):
    """The command cannot start or go on at all; the message says what to do."""


class Reason(StrEnum):
    """Why a record was rejected. The names are stable. A picture that is not accepted has the code that the service
    answers: `image-unsupported`, `image-unreadable`, `image-shape` or `image-too-large`."""

    BAD_ID = "bad-id"
    """The id is missing, empty, or neither text nor a whole number."""
    DUPLICATE_ID = "duplicate-id"
    """An earlier record has the same id; that one is screened."""
    MISSING_COLUMN = "missing-column"
    """The file lacks a column of the question."""
    MISSING_PICTURE = "missing-picture"
    """A picture is null or empty."""
    WRONG_TYPE = "wrong-type"
    """A picture is neither bytes nor a path."""
    PICTURE_NOT_FOUND = "picture-not-found"
    """The file of a picture cannot be read."""
    BAD_LINE = "bad-line"
    """A line of a JSON-lines file is not a question."""
    UNREADABLE_ROWS = "unreadable-rows"
    """A part of a Parquet file is damaged."""
    ENGINE_FAILED = "engine-failed"
    """The engine fails whenever it is asked this question."""
    WORKER_DIED = "worker-died"
    """The worker process died twice while it was working on this record alone."""


RETRYABLE = (Reason.PICTURE_NOT_FOUND, Reason.UNREADABLE_ROWS, Reason.ENGINE_FAILED, Reason.WORKER_DIED)
"""Reasons that may disappear without a change of the input; `--retry-rejects` screens these blocks again."""


class Rejected(Exception):
    """One record cannot be screened; the run goes on with the next one."""

    def __init__(self, reason: str, detail: str, picture: str | None = None) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.picture = picture


@dataclass(frozen=True, slots=True)
class Reject:
    """A row of the rejects table."""

    id: str | None
    row: int
    """Number of the record in its file, from 0."""
    reason: str
    detail: str
    picture: str | None = None
    """`original`, `a`, `b`, `c` or `d`; None if the reason is not one picture."""
