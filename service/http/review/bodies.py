"""The request and response bodies of `/review` for reviewers; `review_lead_bodies` has those of leads."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, Field, model_validator

from screening.task import OPTIONS, Dimension
from service.review.shown import ModelAnswer
from service.schemas import Comment, Documented, RequestBody

Number = Annotated[int, Field(ge=1, le=len(OPTIONS), strict=True)]
"""A picture's number as displayed."""
Severity = Annotated[int, Field(ge=1, le=3, strict=True)]
Job = Literal["review", "label"]


class LeaseRequest(RequestBody):
    """Request for tasks."""

    count: int = Field(1, ge=1, le=3, strict=True)
    """Maximum number of tasks."""
    job: Job | None = None
    """`review`: decisions of the model. `label`: pictures without an answer. Null for either."""


class ReviewDimension(Documented):
    """A way in which a picture can be wrong."""

    name: str
    """Name in verdicts."""
    title: str
    """Name for people."""
    meaning: str
    """What is wrong with such a picture."""


class ReviewPicture(Documented):
    """A picture of a task."""

    url: str
    """Path of the picture."""
    bytes: int
    """Its size."""


class NumberedPicture(ReviewPicture):
    """A generated picture of a task."""

    number: int
    """Its place on the page, 1 to 4."""


class LeasedTask(Documented):
    """A task that you work on. Nothing in it reveals what the model answered or why the task exists."""

    lease: str
    """Id of the lease."""
    job: Job
    """`review` or `label`."""
    expires_at: datetime
    """End of the lease, in UTC, unless a heartbeat extends it."""
    seconds: int
    """Time in seconds until then."""
    dimensions: list[ReviewDimension]
    """The ways in which a picture can be wrong."""
    original: ReviewPicture
    """The photo of the product."""
    pictures: list[NumberedPicture]
    """The generated pictures in the order of display."""


class Leases(Documented):
    """Leased tasks."""

    leases: list[LeasedTask]
    """The tasks; empty if there is none for you now."""
    waiting: int
    """Number of further tasks that you could get now; at most 1,000 are counted."""


class LeaseExtended(Documented):
    """The lease was extended."""

    expires_at: datetime
    """Its new end, in UTC."""


class VerdictRequest(RequestBody):
    """What you say about one picture."""

    number: Number
    """The picture's number as displayed."""
    usable: bool = Field(strict=True)
    """Whether the picture may be shown."""
    dimensions: dict[Dimension, Severity] = Field(default_factory=dict)
    """What is wrong, with its severity: 1 subtle, 2 clear, 3 gross. Empty for a usable picture."""
    comment: Comment | None = None
    """Free text. It may replace the dimensions if something else is wrong."""

    @model_validator(mode="after")
    def _reasons(self) -> VerdictRequest:
        if self.usable and self.dimensions:
            raise ValueError("dimensions: a usable picture has none")
        if not self.usable and not self.dimensions and not (self.comment or "").strip():
            raise ValueError("dimensions: say what is wrong, or write a comment")
        return self


class ReviewRequest(RequestBody):
    """A review. The same `id` with the same content changes nothing."""

    id: UUID
    """A UUID that you made for this review."""
    lease: str = Field(min_length=1, max_length=64)
    """The lease of the task; for a correction, the one of the corrected review."""
    verdicts: list[VerdictRequest] = Field(min_length=len(OPTIONS), max_length=len(OPTIONS))
    """One verdict for each of the four pictures."""
    best: Number | None = None
    """The best picture, where two or more are usable."""
    comment: Comment | None = None
    """Free text about the task."""
    active_seconds: float = Field(0, ge=0, le=86_400)
    """Time in seconds that you worked on it."""
    supersedes: UUID | None = None
    """The earlier review that this one corrects."""

    @model_validator(mode="after")
    def _complete(self) -> ReviewRequest:
        usable = {verdict.number for verdict in self.verdicts if verdict.usable}
        if {verdict.number for verdict in self.verdicts} != set(range(1, len(OPTIONS) + 1)):
            raise ValueError("verdicts: give one for each of the pictures 1 to 4")
        if self.best is not None and (len(usable) < 2 or self.best not in usable):
            raise ValueError("best: name a usable picture, and only where two or more are usable")
        return self


class ReviewStored(Documented):
    """A stored review, with the model's answer."""

    id: str
    """The review's id."""
    late: bool
    """Whether another person had the task when the review arrived. The review still counts."""
    letters: str
    """The order of display: `CADB` showed picture C as number 1."""
    model: ModelAnswer | None
    """The model's answer; null for a labelling task."""
    agrees: bool | None
    """Whether you call the model's choice usable, or call none usable as the model does; null without an answer."""


class StoredVerdict(Documented):
    """A stored verdict."""

    number: int
    """The picture's number as displayed."""
    usable: bool
    """Whether the picture may be shown."""
    dimensions: dict[str, int]
    """What is wrong, with its severity."""
    comment: str | None
    """Free text."""


class Review(ReviewStored):
    """A review as its author saw the task."""

    lease: str
    """The lease that a correction names."""
    job: Job
    """`review` or `label`."""
    reviewer: str
    """Name of the key that sent it."""
    at: datetime
    """Time at which it arrived, in UTC."""
    blind: bool
    """Whether its author had not seen the model's answer."""
    supersedes: str | None
    """The earlier review that this one corrects."""
    superseded: bool
    """Whether a later review corrects this one."""
    active_seconds: float
    """Time in seconds that the author worked on it."""
    verdicts: list[StoredVerdict]
    """One verdict for each picture."""
    best: int | None
    """The best picture."""
    comment: str | None
    """Free text."""
    dimensions: list[ReviewDimension]
    """The ways in which a picture can be wrong."""
    original: ReviewPicture
    """The photo of the product."""
    pictures: list[NumberedPicture]
    """The generated pictures in the order of display."""


class Reviews(Documented):
    """Reviews, newest first."""

    reviews: list[Review]
    """The reviews."""


BODIES: tuple[type[BaseModel], ...] = (LeaseRequest, ReviewRequest)
"""Request bodies, for the OpenAPI description."""
