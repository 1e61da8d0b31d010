"""The fields of a request, whatever encoding they came in, and what makes each of them valid."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from screening.answer import Mode
from screening.task import OPTIONS
from service.errors import InvalidRequest
from service.schemas import METADATA_BYTES

EXPECTED = (
    f"Send original (one picture) and generated ({len(OPTIONS)} pictures, in the order A, B, C, D); mode, metadata and "
    "review_below are optional."
)
MAX_NAME = 80
"""Characters of a caller's own text that an error repeats."""


@dataclass(frozen=True, slots=True)
class PictureUrl:
    """A picture that lies elsewhere."""

    url: str


@dataclass(frozen=True, slots=True)
class Fields:
    """What a body says. `pictures` are original, A, B, C, D."""

    pictures: tuple[bytes | PictureUrl, ...]
    mode: Mode
    metadata: dict[str, Any]
    review_below: float | None
    """The caller's threshold for `needs_review`; None for the operator's."""

    @property
    def blobs(self) -> list[bytes]:
        """The bytes of the pictures; empty where one of them lies elsewhere."""
        blobs = [picture for picture in self.pictures if isinstance(picture, bytes)]
        return blobs if len(blobs) == len(self.pictures) else []


def picture_name(index: int) -> str:
    """How a request names its picture: 0 is `original`, 1-4 are `generated[0]`-`generated[3]`."""
    return "original" if index == 0 else f"generated[{index - 1}]"


def checked_metadata(value: dict[str, Any]) -> dict[str, Any]:
    """Refuse what is too large, and what could be read but not be written back as JSON (1e999, huge integers)."""
    try:
        size = len(json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode())
    except (ValueError, RecursionError):
        raise InvalidRequest("metadata holds a number or text that JSON cannot carry back.") from None
    if size > METADATA_BYTES:
        raise InvalidRequest(f"metadata has {size} bytes as JSON; the limit is {METADATA_BYTES}.")
    return value


def checked_threshold(value: object) -> float:
    """`review_below` as a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InvalidRequest("review_below must be a number from 0 to 1, such as 0.8.")
    return float(value)
