"""One decision, in the form that the request path hands to the writer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from screening.images import Picture
from service.schemas import ScreenAnswer, has_control_characters

PRODUCT_LENGTH = 256
OVERHEAD_BYTES = 4096
"""Upper estimate of a record's size in memory without its pictures, in bytes."""


@dataclass(frozen=True, slots=True)
class StoredPicture:
    """The unchanged bytes that a caller sent, and their address in the picture store."""

    sha256: str
    media_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """The stored parts of one answered request. Making it copies nothing and hashes nothing."""

    answer: ScreenAnswer
    caller: str
    question: str
    """Digest of mode, `locate` and pictures, in hexadecimal digits."""
    pictures: tuple[Picture, ...]
    """Original, A, B, C, D."""
    created_at: datetime

    @property
    def bytes(self) -> int:
        """Number of bytes that the record holds in memory until it is written."""
        return OVERHEAD_BYTES + sum(len(picture.data) for picture in self.pictures)

    def stored_pictures(self) -> tuple[StoredPicture, ...]:
        """The pictures with their addresses."""
        return tuple(
            StoredPicture(hashlib.sha256(picture.data).hexdigest(), f"image/{picture.format.lower()}", picture.data)
            for picture in self.pictures
        )

    def row(self, retention: timedelta | None) -> dict[str, Any]:
        """The record's row of the table `decision`."""
        answer = self.answer
        return {
            "id": answer.id,
            "created_at": self.created_at,
            "caller": self.caller,
            "question": self.question,
            "product": product_of(answer.metadata),
            "mode": answer.mode.value,
            "checkpoint": answer.checkpoint.digest,
            "outcome": answer.outcome,
            "choice": answer.choice,
            "confidence": answer.confidence,
            "needs_review": answer.needs_review,
            "answer": answer.model_dump(mode="json"),
            "retain_until": None if retention is None else self.created_at + retention,
        }


def record_of(answer: ScreenAnswer, caller: str, question: bytes, pictures: Sequence[Picture]) -> DecisionRecord:
    """The record of an answer that is given now."""
    return DecisionRecord(answer, caller, question.hex(), tuple(pictures), datetime.now(UTC))


def product_of(metadata: dict[str, Any]) -> str | None:
    """`metadata.product`, by which decisions are found and erased; None if it is not a short text of one line."""
    product = metadata.get("product")
    if isinstance(product, int) and not isinstance(product, bool):
        product = str(product)
    if isinstance(product, str) and 0 < len(product) <= PRODUCT_LENGTH and not has_control_characters(product):
        return product
    return None
