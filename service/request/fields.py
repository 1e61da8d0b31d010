"""The fields of a request, independent of the encoding of its body, and the rules that make them valid."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from screening.answer import Mode
from screening.task import OPTIONS
from service.errors import InvalidRequest
from service.schemas import METADATA_BYTES

EXPECTED = (
    f"Send original (one picture) and generated ({len(OPTIONS)} pictures, in the order A, B, C, D); mode, locate, "
    "metadata and review_below are optional."
)
MAX_NAME = 80
"""Maximum number of characters of a caller's text that an error repeats."""


@dataclass(frozen=True, slots=True)
class PictureUrl:
    """URL of a picture that the service must fetch."""

    url: str


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of a parsed body. `pictures` holds original, A, B, C, D in this order."""

    pictures: tuple[bytes | PictureUrl, ...]
    mode: Mode
    metadata: dict[str, Any]
    review_below: float | None
    """The caller's threshold for `needs_review`; None if the operator's threshold applies."""
    locate: bool = False
    """Whether the model is to say where the issues are."""

    def __post_init__(self) -> None:
        if self.locate and self.mode is not Mode.COT:
            raise InvalidRequest("locate needs the mode cot, because a direct answer names no issues. Leave mode out.")

    @property
    def blobs(self) -> list[bytes]:
        """The bytes of the five pictures; empty if one of them must be fetched."""
        blobs = [picture for picture in self.pictures if isinstance(picture, bytes)]
        return blobs if len(blobs) == len(self.pictures) else []


def picture_name(index: int) -> str:
    """Name of a picture as requests write it: 0 is `original`, 1-4 are `generated[0]`-`generated[3]`."""
    return "original" if index == 0 else f"generated[{index - 1}]"


def checked_metadata(value: dict[str, Any]) -> dict[str, Any]:
    """Refuse metadata that is too large, or that cannot be written back as JSON (1e999, huge integers)."""
    try:
        size = len(json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode())
    except (ValueError, RecursionError):
        raise InvalidRequest("metadata contains a number or text that cannot be written back as JSON.") from None
    if size > METADATA_BYTES:
        raise InvalidRequest(f"metadata has {size} bytes as JSON; the limit is {METADATA_BYTES} bytes.")
    return value


def checked_threshold(value: object) -> float:
    """Check that `review_below` is a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InvalidRequest("review_below must be a number from 0 to 1, such as 0.8.")
    return float(value)
