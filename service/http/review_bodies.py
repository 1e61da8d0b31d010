"""The request and response bodies of `/review`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from screening.task import OPTIONS, Dimension
from service.http.moments import Moment
from service.schemas import Documented

Number = Annotated[int, Field(ge=1, le=len(OPTIONS), strict=True)]
"""A picture's number as displayed."""
Severity = Annotated[int, Field(ge=1, le=3, strict=True)]
Job = Literal["review", "label"]


def _storable(text: str) -> str:
    if not text.replace("\n", "").replace("\t", "").isprintable():
        raise ValueError("control characters are not allowed")
    return text


Comment = Annotated[str, Field(max_length=4000), AfterValidator(_storable)]


class Order(Documented):
    """A request body; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class SessionOrder(Order):
    """Sign-in with a key."""

    key: str = Field(min_length=1, max_length=512)
    """A key that the operator gave you."""


class LeaseOrder(Order):
    """Request for tasks."""

    count: int = Field(1, ge=1, le=3, strict=True)
    """Maximum number of tasks."""
    job: Job | None = None
    """`review`: decisions of the model. `label`: pictures without an answer. Null for either."""


class DimensionShown(Documented):
    """A way in which a picture can be wrong."""

    name: str
    """Name in verdicts."""
    title: str
    """Name for people."""
    meaning: str
    """What is wrong with such a picture."""


class PictureShown(Documented):
    """A picture of a task."""

    url: str
    """Path of the picture."""
    bytes: int
    """Its size."""


class NumberedPicture(PictureShown):
    """A generated picture of a task."""

    number: int
    """Its place on the page, 1 to 4."""


class LeaseShown(Documented):
    """A task that you work on. Nothing in it reveals what the model answered or why the task exists."""

    lease: str
    """Id of the lease."""
    job: Job
    """`review` or `label`."""
    expires_at: datetime
    """End of the lease, in UTC, unless a heartbeat extends it."""
    seconds: int
    """Time in seconds until then."""
    dimensions: list[DimensionShown]
    """The ways in which a picture can be wrong."""
    original: PictureShown
    """The photo of the product."""
    pictures: list[NumberedPicture]
    """The generated pictures in the order of display."""


class Leases(Documented):
    """Leased tasks."""

    leases: list[LeaseShown]
    """The tasks; empty if there is none for you now."""
    waiting: int
    """Number of further tasks that you could get now; 1,000 stands for more, too."""


class LeaseExtended(Documented):
    """The lease goes on."""

    expires_at: datetime
    """Its new end, in UTC."""


class VerdictOrder(Order):
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
    def _reasons(self) -> VerdictOrder:
        if self.usable and self.dimensions:
            raise ValueError("dimensions: a usable picture has none")
        if not self.usable and not self.dimensions and not (self.comment or "").strip():
            raise ValueError("dimensions: say what is wrong, or write a comment")
        return self


class ReviewOrder(Order):
    """A review. The same `id` with the same content changes nothing."""

    id: UUID
    """A UUID that you made for this review."""
    lease: str = Field(min_length=1, max_length=64)
    """The lease of the task; for a correction, the one of the corrected review."""
    verdicts: list[VerdictOrder] = Field(min_length=len(OPTIONS), max_length=len(OPTIONS))
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
    def _complete(self) -> ReviewOrder:
        usable = {verdict.number for verdict in self.verdicts if verdict.usable}
        if {verdict.number for verdict in self.verdicts} != set(range(1, len(OPTIONS) + 1)):
            raise ValueError("verdicts: give one for each of the pictures 1 to 4")
        if self.best is not None and (len(usable) < 2 or self.best not in usable):
            raise ValueError("best: name a usable picture, and only where two or more are usable")
        return self


class ModelPicture(Documented):
    """What the model said about one picture."""

    number: int
    """The picture's number as displayed."""
    usable: bool
    """Whether the model called it usable."""
    dimensions: list[str]
    """What the model found wrong."""


class ModelShown(Documented):
    """The model's answer, in displayed numbers."""

    choice: int | None
    """The chosen picture; null if the model chose none, or its answer was unreadable."""
    acceptable: list[int]
    """Every picture that the model called usable."""
    confidence: float
    """Confidence of the answer."""
    needs_review: bool
    """Whether the answer asked for a human review."""
    pictures: list[ModelPicture]
    """What the model said about each picture."""
    reasoning: str | None
    """The model's reasoning."""


class ReviewStored(Documented):
    """A stored review, with the model's answer."""

    id: str
    """The review's id."""
    late: bool
    """Whether another person had the task when the review arrived. The review counts all the same."""
    letters: str
    """The order of display: `CADB` showed picture C as number 1."""
    model: ModelShown | None
    """The model's answer; null for a labelling task."""
    agrees: bool | None
    """Whether you call the model's choice usable, or call none usable as the model does; null without an answer."""


class VerdictShown(Documented):
    """A stored verdict."""

    number: int
    """The picture's number as displayed."""
    usable: bool
    """Whether the picture may be shown."""
    dimensions: dict[str, int]
    """What is wrong, with its severity."""
    comment: str | None
    """Free text."""


class ReviewShown(ReviewStored):
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
    verdicts: list[VerdictShown]
    """One verdict for each picture."""
    best: int | None
    """The best picture."""
    comment: str | None
    """Free text."""
    dimensions: list[DimensionShown]
    """The ways in which a picture can be wrong."""
    original: PictureShown
    """The photo of the product."""
    pictures: list[NumberedPicture]
    """The generated pictures in the order of display."""


class Reviews(Documented):
    """Reviews, newest first."""

    reviews: list[ReviewShown]
    """The reviews."""


class TasksOrder(Order):
    """Request to make tasks from kept decisions."""

    count: int = Field(ge=1, le=100_000, strict=True)
    """Maximum number of tasks."""
    since: Moment | None = None
    """Begin of the period; by default the end of the last run."""
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


class ExportOrder(Order):
    """Record of a snapshot."""

    digest: str = Field(min_length=1, max_length=80)
    """Digest of the snapshot."""
    tasks: list[Annotated[str, Field(max_length=64)]] = Field(max_length=1_000_000)
    """Ids of the tasks that it holds."""

    @model_validator(mode="after")
    def _printable(self) -> ExportOrder:
        if not all(text.isprintable() for text in (self.digest, *self.tasks)):
            raise ValueError("digest and tasks: control characters are not allowed")
        return self


class ExportNoted(Documented):
    """The record of a snapshot."""

    id: str
    """Its id."""


class QueueShown(Documented):
    """The tasks with one reason, or all tasks."""

    open: int
    """Tasks that wait for a person."""
    leased: int
    """Tasks that are not done and that a person works on."""
    done: int
    """Tasks whose label is decided."""
    oldest_seconds: float | None
    """Age in seconds of the oldest task that is not done; null if all are."""


class ThroughputShown(Documented):
    """Reviews of one person on one day."""

    day: str
    """The day in UTC."""
    reviewer: str
    """Name of the key."""
    reviews: int
    """Number of reviews, without corrections."""
    median_active_seconds: float
    """Median time in seconds for a review."""


class AgreementShown(Documented):
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


class AccuracyShown(Documented):
    """The model's accuracy, estimated from blind reviews."""

    reviewed: int
    """Number of reviewed decisions that were drawn with a known probability."""
    accuracy: float | None
    """Estimated share of right answers among all decisions of the sampled periods."""
    interval: tuple[float, float] | None
    """95 % interval of the accuracy."""
    unweighted: float | None
    """Share among the reviewed decisions. It is too low, because uncertain decisions are reviewed more often."""


class GoldShown(Documented):
    """Gold questions of one person."""

    reviewer: str
    """Name of the key."""
    answered: int
    """Number of gold questions that the person answered."""
    right: int
    """Number of these where the person called exactly the expected pictures usable."""


class Statistics(Documented):
    """Numbers about the queue, the reviewers and the model."""

    queue: dict[str, QueueShown]
    """By reason for leads; others get one entry, `all`, because a short queue would reveal the reason of a task."""
    throughput: list[ThroughputShown]
    """By day and reviewer."""
    agreement: list[AgreementShown]
    """On `usable` and on each dimension, from tasks that need two reviews."""
    model: AccuracyShown
    """The model's accuracy."""
    gold: list[GoldShown] | None
    """Results of gold questions; null unless you are a lead."""


BODIES: tuple[type[BaseModel], ...] = (SessionOrder, LeaseOrder, ReviewOrder, TasksOrder, ExportOrder)
"""Request bodies, for the OpenAPI description."""
