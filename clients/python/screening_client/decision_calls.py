"""Calls of `/decisions`: what of them can be refused before they are sent, and how their answers are read."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar, get_args

import httpx

from screening_client import wire
from screening_client.constants import LARGEST_PAGE
from screening_client.decision_results import (
    Decision,
    Feedback,
    FeedbackKind,
    Page,
    parse_decision,
    parse_feedback,
    parse_page,
)
from screening_client.errors import InputError
from screening_client.request import checked_key, checked_share
from screening_client.result import Choice, Option

T = TypeVar("T")

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One call, the same in every attempt."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    """Makes the result of the answer."""
    expected: int = 200
    """Status of success."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which decisions a list has. None: whatever the value."""

    since: datetime | None
    until: datetime | None
    checkpoint: str | None
    choice: Choice | None
    min_confidence: float | None
    max_confidence: float | None
    needs_review: bool | None
    product: str | None
    caller: str | None

    def parameters(self) -> dict[str, str]:
        """
        Raises:
            InputError: a filter cannot be sent.
        """
        if self.choice is not None and self.choice not in get_args(Choice):
            raise InputError(f"choice is {self.choice!r}; it must be one of {' '.join(get_args(Choice))}")
        if self.needs_review is not None and not isinstance(self.needs_review, bool):
            raise InputError(f"needs_review is {self.needs_review!r}; it must be True, False or None")
        found = {
            "since": _moment(self.since, "since"),
            "until": _moment(self.until, "until"),
            "checkpoint": _text(self.checkpoint, "checkpoint"),
            "choice": self.choice,
            "min_confidence": checked_share(self.min_confidence, "min_confidence"),
            "max_confidence": checked_share(self.max_confidence, "max_confidence"),
            "needs_review": None if self.needs_review is None else str(self.needs_review).lower(),
            "product": _text(self.product, "product"),
            "caller": _text(self.caller, "caller"),
        }
        return {name: str(value) for name, value in found.items() if value is not None}


def page(parameters: Mapping[str, str], page_size: int, cursor: str | None = None) -> Call[Page]:
    """
    Raises:
        InputError: `page_size` is not a number from 1 to 500.
    """
    if isinstance(page_size, bool) or not isinstance(page_size, int) or not 1 <= page_size <= LARGEST_PAGE:
        raise InputError(f"page_size is {page_size!r}; it must be a whole number from 1 to {LARGEST_PAGE}")
    more = {"limit": str(page_size)} | ({} if cursor is None else {"cursor": cursor})
    return Call("GET", "/decisions", _reads(parse_page), parameters={**parameters, **more})


def get(decision: str) -> Call[Decision]:
    """
    Raises:
        InputError: `decision` is not an id.
    """
    return Call("GET", _path(decision), _reads(parse_decision))


def picture(decision: str, position: int) -> Call[bytes]:
    """
    Raises:
        InputError: `decision` is not an id, or `position` not a number from 0 to 4.
    """
    if isinstance(position, bool) or not isinstance(position, int) or not 0 <= position <= len(get_args(Option)):
        raise InputError(f"position is {position!r}; it must be 0 for the original, or 1 to 4 for A to D")
    return Call("GET", f"{_path(decision)}/pictures/{position}", lambda response: response.content)


def feedback(
    decision: str, *, kind: FeedbackKind, options: str, comment: str | None, idempotency_key: str | None
) -> Call[Feedback]:
    """The idempotency key is made here, once for all attempts.

    Raises:
        InputError: an argument cannot be sent.
    """
    if kind not in get_args(FeedbackKind):
        raise InputError(f"kind is {kind!r}; it must be one of {', '.join(get_args(FeedbackKind))}")
    body = {"kind": kind, "options": _letters(options)}
    if comment is not None:
        body["comment"] = _text(comment, "comment") or ""
    key = checked_key(idempotency_key) or str(uuid.uuid4())
    return Call(
        "POST",
        f"{_path(decision)}/feedback",
        _reads(parse_feedback),
        expected=201,
        body=body,
        headers={"Idempotency-Key": key},
    )


def erase(decision: str) -> Call[None]:
    """
    Raises:
        InputError: `decision` is not an id.
    """
    return Call("DELETE", _path(decision), lambda _: None, expected=204)


def _reads(parse: Callable[[object, str | None], T]) -> Callable[[httpx.Response], T]:
    return lambda response: parse(wire.json_of(response), wire.id_of(response))


def _path(decision: str) -> str:
    if not isinstance(decision, str) or not _ID.fullmatch(decision):
        raise InputError(f"{decision!r} is not the id of a decision, such as scr_01KAHD5Z0Q9YB7M2T4V6W8X0ZC")
    return f"/decisions/{decision}"


def _letters(options: str) -> str:
    """The letters in alphabetical order, as the service asks for them."""
    letters = "".join(sorted(options)) if isinstance(options, str) else ""
    if letters != "N" and (not letters or not re.fullmatch("A?B?C?D?", letters)):
        raise InputError(f"options is {options!r}; it must be letters of the pictures, such as 'AC', or 'N' for none")
    return letters


def _moment(moment: datetime | None, name: str) -> str | None:
    if moment is None:
        return None
    if not isinstance(moment, datetime) or moment.utcoffset() is None:
        raise InputError(f"{name} is {moment!r}; it must be a datetime with a time zone")
    return moment.isoformat()


def _text(value: str | None, name: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise InputError(f"{name} must be a text, not of type {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{name} holds one half of a surrogate pair, which cannot be sent") from error
    return value
