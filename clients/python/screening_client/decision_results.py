"""Stored decisions and their feedback, typed. Fields are those of docs/http-api.md; unknown ones stay in `raw`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeAlias, cast, get_args

from screening_client.reader import Reader
from screening_client.result import Choice, Screening, parse_screening

FeedbackKind: TypeAlias = Literal["shown", "returned", "verdict"]
"""`shown`: the shop showed these pictures. `returned`: a customer returned the product because of these. `verdict`: a
person says that these may be shown, and no others."""


@dataclass(frozen=True, slots=True)
class DecisionSummary:
    """One decision of a list."""

    id: str
    """The `id` of its `Screening`."""
    created_at: datetime
    """When it was answered, in UTC."""
    caller: str
    """Name of the key that asked; empty where the service has no keys."""
    product: str | None
    """The request's `metadata["product"]`, where that is a short text."""
    checkpoint: str
    """Digest of the checkpoint that answered."""
    choice: Choice | None
    """The chosen picture; `N` for none; None for an unreadable answer."""
    confidence: float
    needs_review: bool
    raw: Mapping[str, Any] = field(repr=False, compare=False)
    """The JSON as it came."""


@dataclass(frozen=True, slots=True)
class DecisionPicture:
    """A picture of a decision, without its bytes."""

    position: int
    """0 for the original, 1 to 4 for A to D."""
    sha256: str
    """SHA-256 of its bytes in hexadecimal digits."""
    media_type: str
    """For example `image/jpeg`."""
    bytes: int
    """Size in bytes."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """What became of a decision."""

    id: str
    created_at: datetime
    """When it was sent, in UTC."""
    caller: str
    """Name of the key that sent it."""
    kind: FeedbackKind
    options: str | None
    """Letters of the pictures concerned, such as `AC`; `N` for none of them."""
    comment: str | None
    raw: Mapping[str, Any] = field(repr=False, compare=False)
    """The JSON as it came."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A stored decision."""

    id: str
    """The `id` of its `Screening`."""
    created_at: datetime
    """When it was answered, in UTC."""
    caller: str
    """Name of the key that asked; empty where the service has no keys."""
    answer: Screening
    """The answer as it was given."""
    pictures: tuple[DecisionPicture, ...]
    """The five pictures, original first."""
    feedback: tuple[Feedback, ...]
    """Oldest first."""
    raw: Mapping[str, Any] = field(repr=False, compare=False)
    """The JSON as it came."""


@dataclass(frozen=True, slots=True)
class Page:
    """Decisions of one answer, and the cursor of the next page."""

    decisions: tuple[DecisionSummary, ...]
    next: str | None


def parse_page(body: object, request_id: str | None) -> Page:
    """
    Raises:
        UnexpectedAnswer: a field is missing or of another type; the message names it.
    """
    top = Reader(body, "", request_id, "a page of decisions")
    return Page(tuple(map(_summary, top.each("decisions"))), top.optional("next", str))


def parse_decision(body: object, request_id: str | None) -> Decision:
    """
    Raises:
        UnexpectedAnswer: as `parse_page`.
    """
    top = Reader(body, "", request_id, "a decision")
    return Decision(
        id=top.take("id", str),
        created_at=top.moment("created_at"),
        caller=top.take("caller", str),
        answer=parse_screening(top.inner("answer").fields, request_id=request_id),
        pictures=tuple(map(_picture, top.each("pictures"))),
        feedback=tuple(map(_feedback, top.each("feedback"))),
        raw=top.fields,
    )


def parse_feedback(body: object, request_id: str | None) -> Feedback:
    """
    Raises:
        UnexpectedAnswer: as `parse_page`.
    """
    return _feedback(Reader(body, "", request_id, "feedback"))


def _summary(each: Reader) -> DecisionSummary:
    return DecisionSummary(
        id=each.take("id", str),
        created_at=each.moment("created_at"),
        caller=each.take("caller", str),
        product=each.optional("product", str),
        checkpoint=each.take("checkpoint", str),
        choice=None if each.fields.get("choice") is None else cast("Choice", each.one_of("choice", get_args(Choice))),
        confidence=each.number("confidence"),
        needs_review=each.take("needs_review", bool),
        raw=each.fields,
    )


def _picture(each: Reader) -> DecisionPicture:
    return DecisionPicture(
        position=each.take("position", int),
        sha256=each.take("sha256", str),
        media_type=each.take("media_type", str),
        bytes=each.take("bytes", int),
    )


def _feedback(each: Reader) -> Feedback:
    return Feedback(
        id=each.take("id", str),
        created_at=each.moment("created_at"),
        caller=each.take("caller", str),
        kind=cast("FeedbackKind", each.one_of("kind", get_args(FeedbackKind))),
        options=each.optional("options", str),
        comment=each.optional("comment", str),
        raw=each.fields,
    )
