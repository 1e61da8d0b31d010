"""The request and response bodies of `/decisions`."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import ConfigDict, Field

from service.schemas import Comment, Documented, ScreenAnswer


class DecisionSummary(Documented):
    """One decision of a page."""

    id: str
    """The answer's `id`."""
    created_at: datetime
    """Time of the answer, in UTC."""
    caller: str
    """Name of the key that asked; empty if no keys are set."""
    product: str | None
    """The request's `metadata.product`, if that is a short text."""
    checkpoint: str
    """Digest of the checkpoint that answered."""
    choice: str | None
    """The chosen picture, `N` for none; null for an unreadable answer."""
    confidence: float
    """Confidence of the answer."""
    needs_review: bool
    """Whether the answer asked for a human review."""


class DecisionPage(Documented):
    """Decisions, newest first."""

    decisions: list[DecisionSummary]
    """The decisions of this page."""
    next: str | None
    """Value of `cursor` for the next page; null on the last one."""


class DecisionPicture(Documented):
    """A picture of a decision, without its bytes."""

    position: int
    """0 for the original, 1 to 4 for the generated pictures A to D."""
    sha256: str
    """SHA-256 of its bytes."""
    media_type: str
    """For example `image/jpeg`."""
    bytes: int
    """Its size."""


class Feedback(Documented):
    """What became of a decision."""

    id: str
    """Its own id."""
    created_at: datetime
    """Time at which it was sent, in UTC."""
    caller: str
    """Name of the key that sent it."""
    kind: str
    """`shown`, `returned` or `verdict`."""
    options: str | None
    """Letters of the pictures that the feedback is about; `N` for none of them."""
    comment: str | None
    """Free text."""


class Decision(Documented):
    """A stored decision."""

    id: str
    """The answer's `id`."""
    created_at: datetime
    """Time of the answer, in UTC."""
    caller: str
    """Name of the key that asked; empty if no keys are set."""
    answer: ScreenAnswer
    """The answer as it was given."""
    pictures: list[DecisionPicture]
    """The five pictures, original first."""
    feedback: list[Feedback]
    """Oldest first."""


class FeedbackRequest(Documented):
    """Feedback on a decision."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    kind: Literal["shown", "returned", "verdict"]
    """`shown`: the shop showed these pictures. `returned`: a customer returned the product because of these.
    `verdict`: a person says that these may be shown, and no others."""
    options: str = Field(pattern="^(N|A?B?C?D?)$", min_length=1, examples=["AC"])
    """Letters of the pictures in alphabetical order; `N` for none of them."""
    comment: Comment | None = None
    """Free text."""
