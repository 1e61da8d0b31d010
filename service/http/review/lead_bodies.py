"""The request and response bodies of `/review` for leads: tasks, statistics and export."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

from service.http.moments import Moment
from service.http.review.bodies import Job
from service.schemas import Documented, RequestBody


class TasksRequest(RequestBody):
    """Request to make tasks from stored decisions."""

    count: int = Field(ge=1, le=100_000, strict=True)
    """Maximum number of tasks."""
    since: Moment | None = None
    """Start of the period; by default 15 minutes before the end of the last run."""
    until: Moment | None = None
    """End of the period; by default now."""
    seed: int | None = Field(None, ge=0, lt=2**31, strict=True)
    """Makes the draw repeatable; by default a random number."""
    reviews: Annotated[int, Field(ge=1, le=2, strict=True)] | None = None
    """Number of reviews of an audit or a disagreement; 2 by default."""


class TasksMade(Documented):
    """New tasks."""

    made: dict[str, int]
    """Number of tasks by reason."""


class ExportedPicture(Documented):
    """The label of one picture."""

    option: Literal["A", "B", "C", "D"]
    """Its letter."""
    usable: bool
    """Whether it may be shown."""
    dimensions: dict[str, int]
    """What is wrong, with its severity."""
    comment: str | None
    """The reviewers' comments."""


class ExportedFile(Documented):
    """A picture file of a task."""

    position: int
    """0 for the original, 1 to 4 for A to D."""
    sha256: str
    """SHA-256 of its bytes."""
    media_type: str
    """For example `image/jpeg`."""
    bytes: int
    """Its size."""


class ExportedAnswer(Documented):
    """The model's answer to a decision."""

    choice: str | None
    """The chosen picture, `N` for none; null for an unreadable answer."""
    acceptable: list[str]
    """Every picture that the model called usable."""
    confidence: float
    """Confidence of the answer."""
    reasoning: str | None
    """The model's reasoning."""


class ExportItem(Documented):
    """A task whose label is decided."""

    task: str
    """Id of the task."""
    job: Job
    """`review` or `label`."""
    decision: str | None
    """Id of the decision; null for a labelling task."""
    sample: str | None
    """Id of the sample in the imported data directory."""
    batch: str | None
    """Name of the import."""
    product: str | None
    """The product, if it is known."""
    reason: str
    """Why the task exists."""
    inclusion_probability: float | None
    """Probability with which the decision was drawn; null if it was not drawn at random."""
    checkpoint: str | None
    """Digest of the checkpoint that answered."""
    model: ExportedAnswer | None
    """The model's answer; null for a labelling task."""
    decided: Literal["one", "agreed", "adjudicated"]
    """By one review, by two that agree, or by the majority of three."""
    reviewers: int
    """Number of people whose reviews count."""
    letters: str
    """Letters of the usable pictures; `N` for none."""
    pictures: list[ExportedPicture]
    """Labels of A to D."""
    files: list[ExportedFile]
    """The five picture files."""
    reviews: list[str]
    """Ids of the reviews that count."""
    at: datetime
    """Time of the last change of the label, in UTC."""


class ExportPage(Documented):
    """Decided tasks, in the order of their ids."""

    items: list[ExportItem]
    """The tasks of this page."""
    next: str | None
    """Value of `cursor` for the next page; null on the last one."""


class ExportRequest(RequestBody):
    """Record of a snapshot."""

    digest: str = Field(min_length=1, max_length=80)
    """Digest of the snapshot."""
    tasks: list[Annotated[str, Field(max_length=64)]] = Field(max_length=1_000_000)
    """Ids of the tasks that it holds."""

    @model_validator(mode="after")
    def _printable(self) -> ExportRequest:
        if not all(text.isprintable() for text in (self.digest, *self.tasks)):
            raise ValueError("digest and tasks: control characters are not allowed")
        return self


class ExportNoted(Documented):
    """The record of a snapshot."""

    id: str
    """Its id."""


class QueueState(Documented):
    """The tasks with one reason, or all tasks."""

    open: int
    """Tasks that wait for a person."""
    leased: int
    """Tasks that are not done and that a person works on."""
    done: int
    """Tasks whose label is decided."""
    oldest_seconds: float | None
    """Age in seconds of the oldest task that is not done; null if all are."""


class ReviewerThroughput(Documented):
    """Reviews of one person on one day."""

    day: str
    """The day in UTC."""
    reviewer: str
    """Name of the key."""
    reviews: int
    """Number of reviews, without corrections."""
    median_active_seconds: float
    """Median time in seconds for a review."""


class ReviewerAgreement(Documented):
    """How far two people agree."""

    dimension: str
    """`usable`, or the name of a dimension: whether both say that the picture shows it."""
    pairs: int
    """Number of pictures that two people judged."""
    raw: float | None
    """Share of pictures on which they agree; null without such pictures."""
    alpha: float | None
    """Krippendorff's alpha; null where it is not defined."""
    ac1: float | None
    """Gwet's AC1; null without such pictures."""
    alpha_interval: tuple[float, float] | None
    """95 % bootstrap interval of alpha."""
    ac1_interval: tuple[float, float] | None
    """95 % bootstrap interval of AC1."""


class ModelAccuracy(Documented):
    """The model's accuracy, estimated from blind reviews."""

    reviewed: int
    """Number of reviewed decisions that were drawn with a known probability."""
    accuracy: float | None
    """Estimated share of right answers among all decisions of the sampled periods."""
    interval: tuple[float, float] | None
    """95 % interval of the accuracy."""
    unweighted: float | None
    """Share among the reviewed decisions. It is too low, because uncertain decisions are reviewed more often."""


class GoldResult(Documented):
    """Gold questions of one person."""

    reviewer: str
    """Name of the key."""
    answered: int
    """Number of gold questions that the person answered."""
    right: int
    """Number of these where the person called exactly the expected pictures usable."""


class Statistics(Documented):
    """Numbers about the queue, the reviewers and the model."""

    queue: dict[str, QueueState]
    """By reason for leads; others get one entry, `all`, because a short queue would reveal the reason of a task."""
    throughput: list[ReviewerThroughput]
    """By day and reviewer."""
    agreement: list[ReviewerAgreement]
    """On `usable` and on each dimension, from tasks that need two reviews."""
    model: ModelAccuracy
    """The model's accuracy."""
    gold: list[GoldResult] | None
    """Results of gold questions; null unless you are a lead."""


BODIES: tuple[type[BaseModel], ...] = (TasksRequest, ExportRequest)
"""Request bodies, for the OpenAPI description."""
