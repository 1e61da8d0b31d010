"""One request to the service, and the checks before it is sent."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypedDict, get_args

from screening_client.errors import InputError
from screening_client.pictures import PictureInput, four_pictures, picture_bytes
from screening_client.settings import ClientTimeout

Mode: TypeAlias = Literal["cot", "direct"]

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenRequest:
    """The arguments of `Client.screen` as an object, for `screen_many`."""

    original: PictureInput
    generated: Sequence[PictureInput]
    mode: Mode = "cot"
    metadata: Mapping[str, Any] | None = None
    review_below: float | None = None
    locate: bool = False
    timeout: ClientTimeout | float | None = None
    idempotency_key: str | None = None
    request_id: str | None = None


class _Pictures(TypedDict):
    original: PictureInput
    generated: Sequence[PictureInput]


class RequestArguments(_Pictures, total=False):
    """The fields of `ScreenRequest`, for type annotations."""

    mode: Mode
    metadata: Mapping[str, Any] | None
    review_below: float | None
    locate: bool
    timeout: ClientTimeout | float | None
    idempotency_key: str | None
    request_id: str | None


@dataclass(frozen=True, slots=True)
class Body:
    """A validated request. Every attempt sends the same one."""

    original: bytes = field(repr=False)
    generated: tuple[bytes, ...] = field(repr=False)
    mode: str
    metadata: str
    idempotency_key: str
    request_id: str
    review_below: float | None = None
    locate: bool = False

    @property
    def files(self) -> list[tuple[str, tuple[str, bytes, str]]]:
        """The files of the form. The original file names may be private, so they are replaced."""
        named = [("original", "original", self.original)]
        named += [("generated", letter, data) for letter, data in zip("abcd", self.generated, strict=True)]
        return [(part, (name, data, "application/octet-stream")) for part, name, data in named]

    @property
    def fields(self) -> dict[str, str]:
        fields = {"mode": self.mode, "metadata": self.metadata}
        if self.review_below is not None:
            fields["review_below"] = repr(self.review_below)
        if self.locate:  # a service of an earlier version does not know this field
            fields["locate"] = "true"
        return fields

    @property
    def headers(self) -> dict[str, str]:
        return {"Idempotency-Key": self.idempotency_key, "X-Request-Id": self.request_id}


def check_kind(request: object) -> None:
    """
    Raises:
        InputError: an item of a bulk run is not a `ScreenRequest`.
    """
    if not isinstance(request, ScreenRequest):
        raise InputError(f"a request is of type {type(request).__name__}; each must be a ScreenRequest")


def prepare(request: ScreenRequest) -> Body:
    """Check a request, read its pictures and create one idempotency key for all attempts.

    Raises:
        InputError: an argument is not valid.
    """
    if request.mode not in get_args(Mode):
        raise InputError(f"mode is {request.mode!r}; it must be 'cot' or 'direct'")
    if not isinstance(request.locate, bool):
        raise InputError(f"locate is {request.locate!r}; it must be True or False")
    if request.locate and request.mode != "cot":
        raise InputError("locate needs mode 'cot', because a direct answer names no issues")
    generated = four_pictures(request.generated)
    metadata = _metadata_text(request.metadata)
    key = checked_key(request.idempotency_key)
    request_id = _matching(request.request_id, _REQUEST_ID, "request_id", "1 to 128 of A-Z a-z 0-9 . _ -")
    return Body(
        original=picture_bytes(request.original, "original"),
        generated=tuple(picture_bytes(each, f"generated[{n}]") for n, each in enumerate(generated)),
        mode=request.mode,
        metadata=metadata,
        idempotency_key=key or str(uuid.uuid4()),
        request_id=request_id or new_request_id(),
        review_below=checked_share(request.review_below, "review_below"),
        locate=request.locate,
    )


def checked_key(key: str | None) -> str | None:
    """
    Raises:
        InputError: not an idempotency key.
    """
    return _matching(key, _IDEMPOTENCY_KEY, "idempotency_key", "1 to 255 visible ASCII characters")


def new_request_id() -> str:
    """Make the id of a request whose caller gave none."""
    return f"req_{uuid.uuid4().hex}"


def checked_share(value: float | None, name: str) -> float | None:
    """
    Raises:
        InputError: not a number from 0 to 1.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InputError(f"{name} is {value!r}; it must be a number from 0 to 1, or None")
    return float(value)


def _metadata_text(metadata: Mapping[str, Any] | None) -> str:
    if metadata is None:
        return "{}"
    if not isinstance(metadata, Mapping):
        raise InputError(f"metadata must be a mapping, not of type {type(metadata).__name__}")
    try:
        text = json.dumps(dict(metadata), ensure_ascii=False, allow_nan=False)
        text.encode()
    except UnicodeEncodeError as error:  # JavaScript can split an emoji in two halves, which UTF-8 cannot encode
        half = error.object[error.start : error.start + 1]
        raise InputError(f"metadata contains {half!a}, one half of a surrogate pair") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"metadata cannot be written as JSON: {error}") from error
    return text


def _matching(text: str | None, pattern: re.Pattern[str], name: str, form: str) -> str | None:
    if text is not None and (not isinstance(text, str) or not pattern.fullmatch(text)):
        raise InputError(f"{name} is {text!r}; it must be {form}")
    return text
